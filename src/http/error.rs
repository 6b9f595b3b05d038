//! The one table of error codes, and the one form in which the API answers an error.

mod core_errors;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use broker_actors::error::{Cause, cause};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Whether an error's answer carries `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// It does not.
    Never,
    /// Always this number of seconds.
    Seconds(u64),
    /// A number of seconds that each answer computes.
    Computed,
}

use RetryAfter::{Computed, Never, Seconds};

macro_rules! error_codes {
    ($($variant:ident, $code:literal, $status:ident, $retry_after:expr, $meaning:literal;)*) => {
        /// The stable name of an error, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)*
        }

        impl ErrorCode {
            /// Every code, by status.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in answers and in logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }

            /// The HTTP status of its answers.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),* }
            }

            /// Whether its answers carry `Retry-After`.
            pub const fn retry_after(self) -> RetryAfter {
                match self { $(Self::$variant => $retry_after),* }
            }

            /// What it means and what to do; the message of an answer that has nothing more specific to say.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),* }
            }
        }
    };
}

// variant, code, status, Retry-After, meaning
error_codes! {
    BadRequest, "BAD_REQUEST", BAD_REQUEST, Never, "the request cannot be parsed";
    BadHeader, "BAD_HEADER", BAD_REQUEST, Never, "a header has a value that is not allowed";
    MissingHeader, "MISSING_HEADER", BAD_REQUEST, Never, "a required header is missing";
    BadSandboxId, "BAD_SANDBOX_ID", BAD_REQUEST, Never, "a sandbox id is 1 to 256 visible ASCII characters";
    BadQuery, "BAD_QUERY", BAD_REQUEST, Never, "a query parameter is unknown or has a value that is not allowed";
    BadCursor, "BAD_CURSOR", BAD_REQUEST, Never, "the cursor is not from this listing; omit it to start again";
    BadBody, "BAD_BODY", BAD_REQUEST, Never, "the body does not have the required form";
    Unauthorized, "UNAUTHORIZED", UNAUTHORIZED, Never, "send `Authorization: Bearer <token>` with a valid token";
    Forbidden, "FORBIDDEN", FORBIDDEN, Never, "the token is valid, but not for this route";
    NotSandboxOwner, "NOT_SANDBOX_OWNER", FORBIDDEN, Never, "the sandbox does not belong to this track";
    NotFound, "NOT_FOUND", NOT_FOUND, Never, "there is no such route; GET / lists where to start";
    SandboxNotFound, "SANDBOX_NOT_FOUND", NOT_FOUND, Never, "no sandbox has this id";
    NothingHeld, "NOTHING_HELD", NOT_FOUND, Never, "this key holds no sandbox and does not wait for one";
    ActorNotFound, "ACTOR_NOT_FOUND", NOT_FOUND, Never, "no actor has this name";
    MethodNotAllowed, "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED, Never,
        "the route does not take this method; see the Allow header";
    RequestTimeout, "REQUEST_TIMEOUT", REQUEST_TIMEOUT, Never, "the request took too long to arrive";
    NoSandboxesAvailable, "NO_SANDBOXES_AVAILABLE", CONFLICT, Seconds(5),
        "no matching sandbox is available; try again later";
    WithdrawnFromQueue, "WITHDRAWN", CONFLICT, Never,
        "the place in the queue was given up while this request waited";
    WrongState, "WRONG_STATE", CONFLICT, Never, "the state of the sandbox does not allow this";
    MaxDurationReached, "MAX_DURATION_REACHED", CONFLICT, Never,
        "the sandbox is already held until the longest time allowed";
    ActorPaused, "ACTOR_PAUSED", CONFLICT, Never, "the actor is paused; resume it first";
    JobBusy, "JOB_BUSY", CONFLICT, Seconds(5), "the job is already running; try again later";
    SyncRefused, "SYNC_REFUSED", CONFLICT, Never, "the sync would make too many sandboxes stale; force=true overrides";
    BodyTooLarge, "BODY_TOO_LARGE", PAYLOAD_TOO_LARGE, Never, "the body is larger than 64 KiB";
    QuotaExceeded, "QUOTA_EXCEEDED", TOO_MANY_REQUESTS, Computed,
        "the token has made as many new allocations as it may in a minute; try again later";
    RateLimited, "RATE_LIMITED", TOO_MANY_REQUESTS, Computed, "too many requests; slow down";
    HeadTooLarge, "HEAD_TOO_LARGE", REQUEST_HEADER_FIELDS_TOO_LARGE, Never,
        "the request line and the headers are larger than 16 KiB";
    InternalError, "INTERNAL_ERROR", INTERNAL_SERVER_ERROR, Never,
        "the broker failed; its log explains why, under the request_id";
    NoIndex, "NO_INDEX", NOT_IMPLEMENTED, Never,
        "the table was made without the index that this search needs; see `table create`";
    CspError, "CSP_ERROR", BAD_GATEWAY, Never, "the cloud provider failed";
    StoreThrottled, "STORE_THROTTLED", SERVICE_UNAVAILABLE, Computed, "the store is throttling; try again";
    StoreUnavailable, "STORE_UNAVAILABLE", SERVICE_UNAVAILABLE, Seconds(5), "the store does not answer; try again";
    OutcomeUnknown, "OUTCOME_UNKNOWN", SERVICE_UNAVAILABLE, Seconds(1),
        "it is unknown whether the request took effect; repeat it, with the same key, to find out";
    Contended, "CONTENDED", SERVICE_UNAVAILABLE, Seconds(1), "other requests keep changing this sandbox; try again";
    BrokerPaused, "BROKER_PAUSED", SERVICE_UNAVAILABLE, Seconds(5),
        "an operator has paused allocation; try again later";
    Overloaded, "OVERLOADED", SERVICE_UNAVAILABLE, Seconds(1), "too many allocations are in flight; try again";
    PoolNotRead, "POOL_NOT_READ", SERVICE_UNAVAILABLE, Seconds(5),
        "the pool is too large to be read in full, so it is unknown whether a sandbox matches; try again";
    AllocationTimeout, "ALLOCATION_TIMEOUT", SERVICE_UNAVAILABLE, Seconds(1),
        "no sandbox could be claimed in time; repeating the request is safe";
    Waiting, "WAITING", SERVICE_UNAVAILABLE, Computed,
        "no sandbox is free yet; ask again with the same key, which keeps its place in the queue";
    QueueFull, "QUEUE_FULL", SERVICE_UNAVAILABLE, Seconds(60), "as many wait for a sandbox as may; try again later";
    ShuttingDown, "SHUTTING_DOWN", SERVICE_UNAVAILABLE, Seconds(1), "this replica is stopping; try again";
    RunInterrupted, "RUN_INTERRUPTED", SERVICE_UNAVAILABLE, Seconds(1), "the run ended before it was done; try again";
    CspCircuitOpen, "CSP_CIRCUIT_OPEN", SERVICE_UNAVAILABLE, Computed,
        "calls of the cloud provider failed repeatedly and are suspended; try again later";
    TooManyStreams, "TOO_MANY_STREAMS", SERVICE_UNAVAILABLE, Seconds(5),
        "this replica has reached its limit of event streams; close one";
    TooManyConnections, "TOO_MANY_CONNECTIONS", SERVICE_UNAVAILABLE, Seconds(1),
        "this replica has reached its limit of connections; try again";
}

impl ErrorCode {
    /// The code for a status that the framework answered on its own.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HeadTooLarge,
            status if status.is_client_error() => Self::BadRequest,
            _ => Self::InternalError,
        }
    }
}

/// An error, as the API answers it.
#[derive(Clone, Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    details: Option<Value>,
    cause: Option<Cause>,
}

impl ApiError {
    /// An error with a message of its own.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = match code.retry_after() {
            Seconds(seconds) => Some(Duration::from_secs(seconds)),
            Never | Computed => None,
        };
        Self { code, message: message.into(), retry_after, details: None, cause: None }
    }

    /// The error for a status that the framework answered on its own.
    pub(super) fn of_status(status: StatusCode) -> Self {
        ErrorCode::of_status(status).into()
    }

    /// Sets the wait of an error whose wait is computed.
    pub(super) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Adds what only this error has to say, for programs.
    pub(super) fn details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// Adds the cause. It goes into the log line of the request and never to the client.
    pub(super) fn caused_by(self, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: Some(cause(error)), ..self }
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The cause, if nothing else logs it.
    pub(super) fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// The wait in whole seconds, at least one.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).map(|seconds| seconds.max(1))
    }

    /// The body of the answer.
    pub(super) fn body<'a>(&'a self, request_id: &'a str, form: ErrorForm) -> ErrorBody<'a> {
        let error = ErrorFields {
            code: self.code.as_str(),
            message: &self.message,
            request_id,
            retry_after: self.retry_after_seconds(),
            details: self.details.as_ref(),
        };
        ErrorBody { error, detail: form.with_detail.then_some(error) }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.meaning())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code.as_str(), self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        // The body needs the request's id; `middleware::error_format` adds it.
        HttpResponse::new(self.code.status())
    }
}

/// Whether error bodies repeat their object as `detail`, where clients of the Python broker look for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErrorForm {
    pub(super) with_detail: bool,
}

/// The form of every error
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody<'a> {
    error: ErrorFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    detail: Option<ErrorFields<'a>>,
}

/// What an error says
#[derive(Clone, Copy, Serialize, ToSchema)]
struct ErrorFields<'a> {
    /// The stable name of the error, for programs
    code: &'a str,
    /// What happened and what to do, for people
    message: &'a str,
    /// Finds the request in the broker's log
    request_id: &'a str,
    /// Seconds to wait before another attempt, as in `Retry-After`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after: Option<u64>,
    /// Facts for programs; the fields depend on the code
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, required = false, value_type = Object)]
    details: Option<&'a Value>,
}
