//! The refusals of the service, in DynamoDB's JSON.

use dynoxide::errors::CancellationReason;
use dynoxide::{DynoxideError, Item};
use serde_json::{Value, json};

use super::meter::Throttled;

const DYNAMODB: &str = "com.amazonaws.dynamodb.v20120810#";
const CORAL: &str = "com.amazon.coral";

const PROVISIONED_EXCEEDED: &str = "The level of configured provisioned throughput for the table was exceeded. \
    Consider increasing your provisioning level with the UpdateTable API.";
const ON_DEMAND_EXCEEDED: &str = "Throughput exceeds the current capacity of your table or index. DynamoDB is \
    automatically scaling your table or index so please try again shortly.";
const TRANSACTION_ONGOING: &str = "Transaction is ongoing for the item";

/// A refusal with its HTTP status and body.
#[derive(Clone, Debug)]
pub(super) struct ServiceError {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) kind: ErrorKind,
}

/// What the counters tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorKind {
    Throttled,
    Conflict,
    Other,
}

impl ServiceError {
    pub(super) fn new(code: &str, message: &str) -> Self {
        Self::of_type(400, &format!("{DYNAMODB}{code}"), message)
    }

    pub(super) fn validation(message: &str) -> Self {
        Self::of_type(400, &format!("{CORAL}.validate#ValidationException"), message)
    }

    pub(super) fn unknown_operation() -> Self {
        Self::of_type(400, &format!("{CORAL}.service#UnknownOperationException"), "")
    }

    /// The table does not exist, or not yet.
    pub(super) fn no_table(name: &str) -> Self {
        Self::new("ResourceNotFoundException", &format!("Requested resource not found: Table: {name} not found"))
    }

    /// A request that cannot be deserialized. The engine marks those that DynamoDB calls invalid rather than malformed.
    pub(super) fn unreadable(error: &serde_json::Error) -> Self {
        let message = error.to_string();
        let marked = ["VALIDATION_REQUEST:", "VALIDATION_AS_READ:", "VALIDATION:"];
        match marked.iter().find_map(|marker| message.split_once(marker)) {
            Some((_, message)) => Self::validation(message),
            None => Self::of_type(400, &format!("{CORAL}.service#SerializationException"), &message),
        }
    }

    pub(super) fn from_engine(error: &DynoxideError) -> Self {
        let body = serde_json::from_str(&error.to_json()).unwrap_or_default();
        Self { status: error.status_code(), body, kind: ErrorKind::Other }
    }

    /// A throttled request of a single item or page. AWS uses both codes.
    pub(super) fn throttled(throttled: &Throttled, as_provisioned: bool) -> Self {
        let reasons = json!([{ "reason": throttled.reason, "resource": arn(&throttled.resource) }]);
        let (type_name, message, member) = if as_provisioned {
            (format!("{DYNAMODB}ProvisionedThroughputExceededException"), PROVISIONED_EXCEEDED, "ThrottlingReasons")
        } else {
            (format!("{CORAL}.availability#ThrottlingException"), ON_DEMAND_EXCEEDED, "throttlingReasons")
        };
        let mut error = Self::of_type(400, &type_name, message);
        error.body[member] = reasons;
        Self { kind: ErrorKind::Throttled, ..error }
    }

    /// A single write met a transaction.
    pub(super) fn conflict() -> Self {
        Self { kind: ErrorKind::Conflict, ..Self::new("TransactionConflictException", TRANSACTION_ONGOING) }
    }

    /// A cancelled transaction, with one reason for each of its items.
    pub(super) fn cancelled(reasons: &[Reason]) -> Self {
        let codes: Vec<&str> = reasons.iter().map(Reason::code).collect();
        let message = format!(
            "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
            codes.join(", ")
        );
        let kind = if reasons.iter().any(|reason| matches!(reason, Reason::Throttled)) {
            ErrorKind::Throttled
        } else if reasons.iter().any(|reason| matches!(reason, Reason::Conflict)) {
            ErrorKind::Conflict
        } else {
            ErrorKind::Other
        };
        let body = json!({
            "__type": format!("{DYNAMODB}TransactionCanceledException"),
            "Message": message,
            "CancellationReasons": reasons.iter().map(Reason::json).collect::<Vec<_>>(),
        });
        Self { status: 400, body, kind }
    }

    /// The error's name without its namespace.
    pub(super) fn code(&self) -> &str {
        let name = self.body["__type"].as_str().unwrap_or_default();
        name.rsplit('#').next().unwrap_or_default()
    }

    pub(super) fn of_type(status: u16, type_name: &str, message: &str) -> Self {
        let body = json!({ "__type": type_name, "message": message });
        Self { status, body, kind: ErrorKind::Other }
    }
}

/// One item's verdict in a cancelled transaction.
#[derive(Clone, Debug)]
pub(super) enum Reason {
    Passed,
    /// A failed condition, or another error of the database.
    Refused {
        code: String,
        message: Option<String>,
        item: Option<Item>,
    },
    Conflict,
    Throttled,
}

impl From<CancellationReason> for Reason {
    fn from(reason: CancellationReason) -> Self {
        let CancellationReason { code, message, item } = reason;
        if code == "None" { Self::Passed } else { Self::Refused { code, message, item } }
    }
}

impl Reason {
    fn code(&self) -> &str {
        match self {
            Self::Passed => "None",
            Self::Refused { code, .. } => code,
            Self::Conflict => "TransactionConflict",
            Self::Throttled => "ThrottlingError",
        }
    }

    fn json(&self) -> Value {
        let mut json = json!({ "Code": self.code() });
        match self {
            Self::Passed => {}
            Self::Refused { message, item, .. } => {
                if let Some(message) = message {
                    json["Message"] = json!(message);
                }
                if let Some(item) = item {
                    json["Item"] = json!(item);
                }
            }
            Self::Conflict => json["Message"] = json!(TRANSACTION_ONGOING),
            Self::Throttled => json["Message"] = json!(ON_DEMAND_EXCEEDED),
        }
        json
    }
}

fn arn(resource: &str) -> String {
    let path = resource.replace('/', "/index/");
    format!("arn:aws:dynamodb:us-east-1:000000000000:table/{path}")
}
