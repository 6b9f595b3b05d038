//! Faults that a test or a person switches on.

use serde::{Deserialize, Serialize};

/// Answers requests with a fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultRule {
    /// The operations that it applies to, for example `TransactWriteItems`; all if the list is empty.
    #[serde(default)]
    pub operations: Vec<String>,
    /// What the client sees.
    pub fault: Fault,
    /// Whether the request is carried out before the fault answers it.
    #[serde(default)]
    pub executed: bool,
    /// Which of these operations' requests get the fault.
    pub occurrence: Occurrence,
}

/// Which requests get the fault.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occurrence {
    /// Each with this probability.
    Share(f64),
    /// This number of requests, from the next one on.
    Next(u32),
}

/// What the client sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An error in DynamoDB's JSON.
    Error {
        /// The HTTP status.
        status: u16,
        /// The exception's name.
        code: String,
        /// What it says.
        message: String,
    },
    /// A status with a page of HTML, as a load balancer in front of the service answers.
    Html {
        /// The HTTP status.
        status: u16,
    },
    /// The connection is closed without an answer.
    Closed,
    /// The connection stays open without an answer.
    Silent,
}

impl Fault {
    /// Any error in DynamoDB's JSON.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Error { status, code: code.to_owned(), message: message.to_owned() }
    }

    /// 500, the service's own failure.
    pub fn internal_server_error() -> Self {
        Self::error(500, "InternalServerError", "The request processing has failed because of an unknown error")
    }

    /// 503, the service's own failure.
    pub fn service_unavailable() -> Self {
        Self::error(503, "ServiceUnavailable", "The service is currently unavailable or busy.")
    }

    /// 502, 503 or 504 with a page of HTML.
    pub fn html(status: u16) -> Self {
        Self::Html { status }
    }

    /// 408, the service waited too long for the request.
    pub fn request_timeout() -> Self {
        Self::error(408, "RequestTimeoutException", "The request timed out")
    }

    /// The role may not do this.
    pub fn access_denied() -> Self {
        Self::error(400, "AccessDeniedException", "User is not authorized to perform this operation on the resource")
    }

    /// The session's credentials have expired.
    pub fn expired_token() -> Self {
        Self::error(400, "ExpiredTokenException", "The security token included in the request is expired")
    }

    /// The credentials are unknown.
    pub fn unrecognized_client() -> Self {
        Self::error(400, "UnrecognizedClientException", "The security token included in the request is invalid.")
    }

    /// The table does not exist.
    pub fn resource_not_found() -> Self {
        Self::error(400, "ResourceNotFoundException", "Requested resource not found")
    }

    /// The table's key cannot be used; `code` is, for example, `KMSAccessDeniedException` or `KMSDisabledException`.
    pub fn kms(code: &str) -> Self {
        Self::error(400, code, "The table's encryption key cannot be used")
    }
}

impl FaultRule {
    /// Answers all requests without carrying them out.
    pub fn before(fault: Fault) -> Self {
        Self { operations: Vec::new(), fault, executed: false, occurrence: Occurrence::Share(1.0) }
    }

    /// Carries out all requests and then answers them with the fault.
    pub fn after(fault: Fault) -> Self {
        Self { executed: true, ..Self::before(fault) }
    }

    /// Applies to these operations only.
    #[must_use]
    pub fn on(mut self, operations: &[&str]) -> Self {
        self.operations = operations.iter().map(|operation| (*operation).to_owned()).collect();
        self
    }

    /// Applies to each request with this probability.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.occurrence = Occurrence::Share(share);
        self
    }

    /// Applies to this number of requests, from the next one on.
    #[must_use]
    pub fn next(mut self, requests: u32) -> Self {
        self.occurrence = Occurrence::Next(requests);
        self
    }
}

/// The first rule that applies to a request, if any.
pub(super) fn draw(rules: &mut Vec<FaultRule>, operation: &str, random: &mut fastrand::Rng) -> Option<FaultRule> {
    let concerned =
        |rule: &FaultRule| rule.operations.is_empty() || rule.operations.iter().any(|name| name == operation);
    let drawn = rules.iter_mut().filter(|rule| concerned(rule)).find_map(|rule| match &mut rule.occurrence {
        Occurrence::Share(share) => (random.f64() < *share).then(|| rule.clone()),
        Occurrence::Next(0) => None,
        Occurrence::Next(left) => {
            *left -= 1;
            Some(rule.clone())
        }
    });
    rules.retain(|rule| rule.occurrence != Occurrence::Next(0));
    drawn
}
