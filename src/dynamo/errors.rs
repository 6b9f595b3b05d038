//! SDK errors → [`StoreError`].

use std::error::Error;
use std::fmt::Debug;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use broker_actors::ports::StoreError;

/// What a failed request may have done.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Read,
    /// A write that got no answer may have been carried out. That holds for every failure but a service's refusal,
    /// since the SDK may have sent the request more than once.
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
    E: ProvideErrorMetadata + Error + 'static,
    R: Debug + 'static,
{
    let unanswered = |text: String| match kind {
        Kind::Read => StoreError::Unavailable(text),
        Kind::Write => StoreError::OutcomeUnknown(text),
    };
    let text = DisplayErrorContext(&error).to_string();
    match &error {
        SdkError::ConstructionFailure(_) => StoreError::Rejected(text),
        SdkError::ServiceError(refusal) => match refusal.err().code() {
            Some(code) if THROTTLES.contains(&code) => StoreError::Throttled(text),
            Some("InternalServerError" | "ServiceUnavailable") | None => unanswered(text),
            Some(_) => StoreError::Rejected(text),
        },
        _ => unanswered(text),
    }
}
