//! What a failed attempt says about the request, and SDK errors → [`StoreError`].

use std::error::Error;
use std::fmt::Debug;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::CancellationReason;
use broker_actors::error::cause;
use broker_actors::ports::StoreError;

/// What a failed attempt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request itself is wrong. It will fail again.
    Rejected,
    /// Too much is asked of the store. Nothing was written.
    Throttled,
    /// The store refuses for another reason. Nothing was written.
    Refused,
    /// The store does not accept the credentials. Nothing was written.
    BadCredentials,
    /// There was no answer, or one that does not say whether the request was executed.
    Unanswered,
    /// The operation's own answer: a condition failed, a transaction was cancelled.
    Outcome,
}

const THROTTLES: [&str; 6] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "ThrottlingError",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottledException",
];

/// Refusals after which other credentials may be accepted.
const BAD_CREDENTIALS: [&str; 8] = [
    "AccessDeniedException",
    "AccessDenied",
    "ExpiredTokenException",
    "ExpiredToken",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
];

/// Codes that say that the request itself is wrong.
const WRONG_REQUEST: [&str; 5] = [
    "ValidationException",
    "SerializationException",
    "UnknownOperationException",
    "IdempotentParameterMismatchException",
    "ItemCollectionSizeLimitExceededException",
];

const OUTCOMES: [&str; 3] =
    ["ConditionalCheckFailedException", "TransactionCanceledException", "TransactionConflictException"];

/// Classifies a failed attempt.
pub(super) fn failure_of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Failure {
    let SdkError::ServiceError(refusal) = error else {
        return if matches!(error, SdkError::ConstructionFailure(_)) { Failure::Rejected } else { Failure::Unanswered };
    };
    let code = refusal.err().code().unwrap_or_default();
    let is_one_of = |codes: &[&str]| codes.contains(&code);
    // A server error does not say whether the request was executed, whatever its code is.
    if refusal.raw().status().is_server_error() || code.starts_with("RequestTimeout") || code.is_empty() {
        Failure::Unanswered
    } else if code == "TransactionInProgressException" {
        // The same transaction is being executed.
        Failure::Unanswered
    } else if is_one_of(&OUTCOMES) {
        Failure::Outcome
    } else if is_one_of(&THROTTLES) {
        Failure::Throttled
    } else if is_one_of(&BAD_CREDENTIALS) {
        Failure::BadCredentials
    } else if is_one_of(&WRONG_REQUEST) {
        Failure::Rejected
    } else {
        // A missing table or permission, a refusal of KMS, an account's limit: someone has to act, and then it works.
        Failure::Refused
    }
}

/// What a request may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// The error of a request whose last attempt failed like this. `was_unanswered` tells whether any attempt got no answer:
/// a write may then have been executed, whatever the last attempt says.
pub(super) fn store_error<E>(
    kind: Kind,
    failure: Failure,
    was_unanswered: bool,
    error: SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let cause = cause(error);
    match failure {
        _ if kind == Kind::Write && was_unanswered => StoreError::OutcomeUnknown(cause),
        Failure::Rejected | Failure::Outcome => StoreError::Rejected(cause),
        Failure::Throttled => StoreError::Throttled(cause),
        Failure::Refused | Failure::BadCredentials | Failure::Unanswered => StoreError::Unavailable(cause),
    }
}

/// The code of a transaction's reason: the condition on an item does not hold.
pub(super) const CONDITION_FAILED: &str = "ConditionalCheckFailed";
/// The codes of a transaction's reason: a write of an item was throttled.
pub(super) const THROTTLED: [&str; 2] = ["ThrottlingError", "ProvisionedThroughputExceeded"];

/// Whether a transaction was cancelled for throttling alone. A failed condition is an answer, whatever else was throttled:
/// a key that is known to hold a sandbox gets it.
pub(super) fn is_throttled(error: &TransactWriteItemsError) -> bool {
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else { return false };
    let has = |codes: &[&str]| {
        cancelled.cancellation_reasons().iter().filter_map(CancellationReason::code).any(|code| codes.contains(&code))
    };
    has(&THROTTLED) && !has(&[CONDITION_FAILED])
}
