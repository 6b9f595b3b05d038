//! One request to DynamoDB: the only loop of attempts. The SDK's own retries are off, because they hide which attempts
//! got no answer and wait a second where DynamoDB recommends 25 ms.

use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use broker_actors::ports::StoreError;
use tokio::time::sleep;

use super::client::DynamoClient;
use super::errors::{Failure, Kind, failure_of, store_error};

/// Attempts after throttling: the first and five more.
const MAX_THROTTLED: u32 = 5;

/// Attempts that got no answer, after which a request is given up.
const MAX_UNANSWERED: u32 = 3;

/// The first wait between attempts. It doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(25);

/// Why a request returned no output.
pub(super) enum CallError<E> {
    /// The operation's own answer. `was_unanswered` tells whether an earlier attempt got no answer, so that this answer
    /// may be due to the request itself.
    Outcome { error: E, was_unanswered: bool },
    /// The request failed.
    Failed(StoreError),
}

impl<E> From<CallError<E>> for StoreError
where
    E: Error + Send + Sync + 'static,
{
    /// For operations without an outcome of their own.
    fn from(error: CallError<E>) -> Self {
        match error {
            CallError::Outcome { error, .. } => Self::Rejected(broker_actors::error::cause(error)),
            CallError::Failed(error) => error,
        }
    }
}

/// Sends a request until it is answered, as often as its failures allow. `send` makes each attempt, with the client that
/// has the current credentials; attempts of one transaction must carry one request token.
pub(super) async fn call<T, E, F>(
    client: &DynamoClient,
    kind: Kind,
    send: impl Fn(Client) -> F,
) -> Result<T, CallError<E>>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    call_throttled(client, kind, send, |_| false).await
}

/// The same, where `is_throttled` finds throttling in the operation's own answer.
pub(super) async fn call_throttled<T, E, F>(
    client: &DynamoClient,
    kind: Kind,
    send: impl Fn(Client) -> F,
    is_throttled: impl Fn(&E) -> bool,
) -> Result<T, CallError<E>>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    let (mut throttled, mut unanswered, mut renewed) = (0, 0, false);
    loop {
        let attempt = {
            let _permit = client.limit().acquire().await;
            send(client.current()).await
        };
        let error = match attempt {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let failure = match failure_of(&error) {
            Failure::Outcome if error.as_service_error().is_some_and(&is_throttled) => Failure::Throttled,
            failure => failure,
        };
        let is_repeated = match failure {
            Failure::Throttled => {
                client.limit().halve();
                throttled += 1;
                throttled <= MAX_THROTTLED
            }
            Failure::Unanswered => {
                unanswered += 1;
                unanswered < MAX_UNANSWERED
            }
            Failure::BadCredentials => !std::mem::replace(&mut renewed, true) && client.renew_credentials(),
            Failure::Outcome => {
                return Err(match error {
                    SdkError::ServiceError(refusal) => {
                        CallError::Outcome { error: refusal.into_err(), was_unanswered: unanswered > 0 }
                    }
                    error => CallError::Failed(store_error(kind, failure, unanswered > 0, error)),
                });
            }
            Failure::Rejected | Failure::Refused => false,
        };
        if !is_repeated {
            return Err(CallError::Failed(store_error(kind, failure, unanswered > 0, error)));
        }
        sleep(wait_after(throttled + unanswered)).await;
    }
}

/// Doubles with each attempt, jittered by half, so that requests that failed together do not meet again.
fn wait_after(attempts: u32) -> Duration {
    let doubled = FIRST_WAIT * 2_u32.pow(attempts.saturating_sub(1).min(8));
    doubled.mul_f64(0.5 + fastrand::f64())
}
