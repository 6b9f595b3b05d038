//! The one error form of the API, and the one table that gives each error its status and code.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use broker_actors::actor::ActorName;
use broker_actors::allocation::AllocateError;
use broker_actors::error::Chain;
use broker_actors::jobs::JobError;
use broker_actors::ports::{CspError, StoreError};
use broker_actors::update::SandboxError;
use serde_json::{Value, json};

use super::auth::Role;

/// An error as the API answers it.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable name for programs.
    pub code: &'static str,
    /// What happened and what to do, for people.
    pub message: String,
    /// When another attempt makes sense.
    pub retry_after: Option<Duration>,
    /// What only this error has to tell.
    pub details: Option<Value>,
}

impl ApiError {
    /// An error without more to tell.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, details: None }
    }

    /// 400, with what is wrong.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The same error, which goes away after this time.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The same error, with more to tell.
    pub fn details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// The whole seconds of `retry_after`, at least one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).map(|seconds| seconds.max(1))
    }

    /// The body of the answer.
    pub fn body(&self, request_id: &str) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message, "request_id": request_id });
        if let Some(seconds) = self.retry_after_seconds() {
            error["retry_after"] = json!(seconds);
        }
        if let Some(details) = &self.details {
            error["details"] = details.clone();
        }
        json!({ "error": error })
    }

    /// 403, for a token of the other kind.
    pub fn forbidden(role: Role) -> Self {
        let needs = if role == Role::Admin { "an admin" } else { "a track" };
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", format!("this route takes {needs} token"))
    }

    /// 429, for a client above this rate.
    pub fn rate_limited(requests_per_second: u32, wait: Duration) -> Self {
        let message = format!("more than {requests_per_second} requests a second from one address");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message).retry_after(wait)
    }

    /// 503, for one console too many.
    pub fn too_many_streams() -> Self {
        let message = "as many consoles as it takes follow this replica already; close one";
        unavailable("TOO_MANY_STREAMS", message, LATER)
    }

    /// 503, for one connection too many.
    pub fn too_many_connections() -> Self {
        unavailable("TOO_MANY_CONNECTIONS", "this replica has as many connections as it takes; try again", SOON)
    }

    /// 502, for a cloud provider that does not do its part.
    pub fn csp_error(error: &CspError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "CSP_ERROR", Chain(error).to_string())
    }

    /// The answer to a failure of the store. What it says of its inside stays here.
    pub fn from_store(error: &StoreError) -> Self {
        match error {
            StoreError::Throttled(_) => unavailable("STORE_THROTTLED", "the store is busy; try again", SOON),
            StoreError::Unavailable(_) => {
                unavailable("STORE_UNAVAILABLE", "the store does not answer; try again", LATER)
            }
            StoreError::OutcomeUnknown(_) => unavailable(
                "OUTCOME_UNKNOWN",
                "whether this took effect is not known; the same request again, with the same key, finds out",
                SOON,
            ),
            StoreError::BadCursor => Self::bad_request(
                "BAD_CURSOR",
                "the cursor is not one that this listing gave out; leave it away to start again",
            ),
            StoreError::NoIndex(_) => Self::new(StatusCode::NOT_IMPLEMENTED, "NO_INDEX", error.to_string()),
            StoreError::Rejected(_) | StoreError::Corrupt { .. } | StoreError::TooLong => {
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// The error for a status that the framework answered by itself.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::NOT_FOUND => ("NOT_FOUND", "there is no such route; GET / lists where to begin"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("METHOD_NOT_ALLOWED", "this route takes other methods; see the Allow header")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("BODY_TOO_LARGE", "the body is larger than this API ever needs (64 KiB)"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                ("HEAD_TOO_LARGE", "the request's head is larger than this API ever needs (16 KiB)")
            }
            StatusCode::REQUEST_TIMEOUT => ("REQUEST_TIMEOUT", "the request took too long to arrive"),
            status if status.is_client_error() => ("BAD_REQUEST", "the request cannot be read"),
            _ => ("INTERNAL_ERROR", "the broker failed; the request_id finds the reason in its log"),
        };
        Self::new(status, code, message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        // The edge fills in the body, which needs the request's id.
        HttpResponse::new(self.status)
    }
}

const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

fn unavailable(code: &'static str, message: impl Into<String>, wait: Duration) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(wait)
}

fn conflict(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, code, message)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if !matches!(error, StoreError::Throttled(_) | StoreError::BadCursor) {
            tracing::error!(error = %Chain(&error), "the store failed");
        }
        Self::from_store(&error)
    }
}

impl From<AllocateError> for ApiError {
    fn from(error: AllocateError) -> Self {
        match error {
            AllocateError::NoneAvailable => {
                conflict("NO_SANDBOXES_AVAILABLE", "the pool has no sandbox that fits; try again later")
                    .retry_after(LATER)
            }
            AllocateError::Paused => {
                unavailable("BROKER_PAUSED", "an operator has paused allocation; try again later", LATER)
            }
            AllocateError::Overloaded { .. } => {
                unavailable("OVERLOADED", "more allocations are under way than this broker takes; try again", SOON)
            }
            AllocateError::TimedOut { .. } => unavailable(
                "ALLOCATION_TIMEOUT",
                "no sandbox could be claimed in time; the same request again is safe",
                SOON,
            ),
            AllocateError::NotReadInFull => unavailable(
                "POOL_NOT_READ",
                "the pool is too large to be read in full, so it is not known whether a sandbox matches; try again",
                LATER,
            ),
            AllocateError::Stopping => unavailable("SHUTTING_DOWN", "this broker is stopping; try again", SOON),
            AllocateError::Store(error) => error.into(),
        }
    }
}

impl From<SandboxError> for ApiError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "SANDBOX_NOT_FOUND", error.to_string()),
            SandboxError::NotOwner(_) => Self::new(StatusCode::FORBIDDEN, "NOT_SANDBOX_OWNER", error.to_string()),
            SandboxError::Refused(refused) => {
                conflict("WRONG_STATE", refused.to_string()).details(json!({ "status": refused.status.as_str() }))
            }
            SandboxError::Contended(_) => {
                unavailable("CONTENDED", "others keep changing this sandbox; try again", SOON)
            }
            SandboxError::Store(error) => error.into(),
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let text = error.to_string();
        match error {
            JobError::Paused => conflict("ACTOR_PAUSED", "the actor is paused; resume it first"),
            JobError::Busy { holder } => {
                conflict("JOB_BUSY", text).details(json!({ "holder": holder })).retry_after(LATER)
            }
            JobError::GuardRefused(_) => conflict("SYNC_REFUSED", format!("{text}; force=true does it all the same")),
            JobError::Csp(CspError::BreakerOpen { retry_in }) => unavailable("CSP_CIRCUIT_OPEN", text, retry_in),
            JobError::Csp(error) => {
                tracing::warn!(error = %Chain(&error), "the CSP failed");
                Self::csp_error(&error)
            }
            JobError::Stopping => unavailable("SHUTTING_DOWN", "this broker is stopping; try again", SOON),
            JobError::LeaseLost | JobError::CutOff { .. } => unavailable("RUN_INTERRUPTED", text, SOON),
            JobError::Panicked(_) => Self::of_status(StatusCode::INTERNAL_SERVER_ERROR),
            JobError::Store(error) => error.into(),
        }
    }
}

impl ApiError {
    /// 404, for a name that no actor has.
    pub fn no_such_actor(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ACTOR_NOT_FOUND", format!("no actor has the name `{name}`"))
            .details(json!({ "actors": ActorName::ALL }))
    }
}
