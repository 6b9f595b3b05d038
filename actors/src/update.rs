//! The one loop of attempts to update a sandbox, and why an update or a read of it fails.

use tokio::time::sleep;

use crate::ports::{SandboxStore, StoreError, WriteOutcome};
use crate::retry::Waits;
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, Owner, Refused, Sandbox, SandboxId, Status};

/// Attempts to update a sandbox that other writers keep changing.
const MAX_ATTEMPTS: u32 = 5;

/// Why a sandbox was not read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no such sandbox, or it is deleted.
    #[error("no sandbox has the id `{0}`")]
    NotFound(SandboxId),
    /// The sandbox does not belong to this track, or the track's secret is missing or wrong.
    #[error("sandbox `{0}` does not belong to this track")]
    NotOwner(SandboxId),
    /// The sandbox's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Other writers kept changing the sandbox.
    #[error("sandbox `{0}` is being changed by others")]
    Contended(SandboxId),
    /// The holding has reached its longest duration.
    #[error("sandbox `{0}` is already held until the longest time allowed")]
    MaxDurationReached(SandboxId),
    /// The holding waits for its learner, so that there is nothing to renew.
    #[error("sandbox `{0}` is on standby; activate it first")]
    Standby(SandboxId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The sandbox, if it exists. A tombstone counts as gone.
pub(crate) fn existing(current: Option<Sandbox>, sandbox_id: &SandboxId) -> Result<Sandbox, SandboxError> {
    current
        .filter(|sandbox| sandbox.status != Status::Deleted)
        .ok_or_else(|| SandboxError::NotFound(sandbox_id.clone()))
}

/// The sandbox, if it exists and belongs to `owner`.
pub(crate) fn owned(current: Option<Sandbox>, sandbox_id: &SandboxId, owner: &Owner) -> Result<Sandbox, SandboxError> {
    let sandbox = existing(current, sandbox_id)?;
    if !sandbox.belongs_to(owner) {
        return Err(SandboxError::NotOwner(sandbox_id.clone()));
    }
    Ok(sandbox)
}

/// What an update does to the claim item in the same transaction.
pub(crate) enum ClaimChange {
    /// There is no claim, or it stays as it is.
    None,
    /// Deletes it.
    End(ClaimKey),
    /// Sets its end and epoch.
    Renew(Claim),
}

/// The next step of an update.
#[allow(clippy::large_enum_variant, reason = "it is matched at once; a box would cost an allocation")]
pub(crate) enum Step<T> {
    /// Nothing is left to write.
    Done(T),
    /// Attempt this write; `answer` is the result if it succeeds.
    Write { update: ConditionalUpdate, claim: ClaimChange, answer: T },
}

/// Attempts `step` and, whenever the sandbox turns out to be different, the step that `next` makes of the current
/// record.
///
/// # Errors
///
/// [`SandboxError::Contended`] after [`MAX_ATTEMPTS`]; else what `next` or the store returns.
pub(crate) async fn update_sandbox<T>(
    store: &dyn SandboxStore,
    sandbox_id: &SandboxId,
    mut waits: Waits,
    mut step: Step<T>,
    next: impl Fn(Option<Sandbox>) -> Result<Step<T>, SandboxError>,
) -> Result<T, SandboxError> {
    for _ in 0..MAX_ATTEMPTS {
        let (update, claim, answer) = match step {
            Step::Done(answer) => return Ok(answer),
            Step::Write { update, claim, answer } => (update, claim, answer),
        };
        let outcome = match &claim {
            ClaimChange::None => store.update(&update).await?,
            ClaimChange::End(claim_key) => store.end_holding(&update, claim_key).await?,
            ClaimChange::Renew(renewed) => store.renew_claim(&update, renewed).await?,
        };
        step = match outcome {
            WriteOutcome::Done => return Ok(answer),
            WriteOutcome::PreconditionFailed { current } => next(current)?,
            WriteOutcome::Conflict | WriteOutcome::ClaimMismatch => {
                sleep(waits.next_wait()).await;
                Step::Write { update, claim, answer }
            }
        };
    }
    match step {
        Step::Done(answer) => Ok(answer),
        Step::Write { .. } => Err(SandboxError::Contended(sandbox_id.clone())),
    }
}
