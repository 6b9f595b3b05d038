//! SDK errors → [`StoreError`].

use std::error::Error;
use std::fmt::Debug;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use broker_actors::error::cause;
use broker_actors::ports::StoreError;

/// What a failed request may have done.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Read,
    /// A write without an answer may have been executed. That holds for every failure except the service's refusal,
    /// because the SDK may have sent the request more than once.
    Write,
}

const THROTTLES: [&str; 5] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "ThrottlingError",
    "RequestLimitExceeded",
    "Throttling",
];

pub(super) fn store_error<E, R>(kind: Kind, error: SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: Debug + Send + Sync + 'static,
{
    let unanswered = match kind {
        Kind::Read => StoreError::Unavailable,
        Kind::Write => StoreError::OutcomeUnknown,
    };
    let variant = match &error {
        SdkError::ConstructionFailure(_) => StoreError::Rejected,
        SdkError::ServiceError(refusal) => match refusal.err().code() {
            Some(code) if THROTTLES.contains(&code) => StoreError::Throttled,
            Some("InternalServerError" | "ServiceUnavailable") | None => unanswered,
            Some(_) => StoreError::Rejected,
        },
        _ => unanswered,
    };
    variant(cause(error))
}
