//! ExpiryReaper: ends holdings that are past their end plus the grace period.
//!
//! Timers (`expiry_timers.rs`) end what this replica allocated on time. The sweep, this job, reads from the status index
//! what is overdue, and nothing else, and ends it. Both use the same conditional transaction: a renewal or a release meanwhile changes the epoch, and the
//! late write changes nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::concurrency::{for_each, listed};
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::error::cause;
use crate::ports::{Clock, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Claim, ConditionalUpdate, Event, Sandbox, Status, Timestamp};

/// Attempts to end a holding on which other transactions work.
const MAX_CONFLICTS: u32 = 5;

/// The waits between these attempts.
const CONFLICT_WAITS: RetryPolicy = RetryPolicy { base: Duration::from_millis(20), max: Duration::from_millis(200) };

/// Holdings that are ended concurrently.
pub(super) const CONCURRENCY: usize = 16;

/// The result of an expiry sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryReport {
    /// Holdings ended.
    pub expired: u64,
    /// Holdings that were renewed or released before the sweep reached them.
    #[serde(alias = "overtaken")]
    pub superseded: u64,
}

/// Ends expired holdings. As a job, it sweeps.
#[derive(Clone)]
pub struct Reaper {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a holding lasts past its end.
    pub(crate) grace: Duration,
    pub(crate) jitter: Jitter,
}

impl Reaper {
    /// When a holding that ends at `expires_at` may be ended.
    pub(crate) fn due(&self, expires_at: Timestamp) -> Timestamp {
        expires_at.plus(self.grace)
    }

    /// Whether the holding may be ended now.
    pub(crate) fn is_overdue(&self, claim: &Claim) -> bool {
        self.due(claim.expires_at) <= self.clock.now()
    }

    /// Ends an overdue holding that is still as the claim says. Returns whether this call ended it; if not, the sandbox is
    /// not held as the claim says.
    ///
    /// # Errors
    ///
    /// If the store fails, or another transaction keeps working on the items.
    pub(crate) async fn expire(&self, claim: &Claim) -> Result<bool, StoreError> {
        let due = self.due(claim.expires_at);
        let Ok(update) = ConditionalUpdate::of_holding(claim, Event::Expire { due }, self.clock.now()) else {
            return Ok(false);
        };
        let result = self.end(&update, claim).await;
        let outcome = match &result {
            Ok(true) => "expired",
            Ok(false) => "superseded",
            Err(_) => "error",
        };
        metrics::counter!("broker_expiry_total", "outcome" => outcome).increment(1);
        if let Ok(true) = result {
            metrics::counter!("broker_expiry_orphaned_total").increment(1);
            let (sandbox_id, track_id) = (&claim.sandbox_id, &claim.claim_key.track);
            tracing::info!(event = "holding_expired", %sandbox_id, %track_id, "holding expired");
        }
        result
    }

    async fn end(&self, update: &ConditionalUpdate, claim: &Claim) -> Result<bool, StoreError> {
        let mut waits = CONFLICT_WAITS.waits(&self.jitter);
        for _ in 0..MAX_CONFLICTS {
            match self.store.end_holding(update, &claim.claim_key).await? {
                WriteOutcome::Done => return Ok(true),
                WriteOutcome::PreconditionFailed { .. } => return Ok(false),
                WriteOutcome::Conflict | WriteOutcome::ClaimMismatch => sleep(waits.next_wait()).await,
            }
        }
        Err(StoreError::Throttled(cause("other transactions keep working on the holding")))
    }
}

#[async_trait]
impl Job for Reaper {
    type Report = ExpiryReport;

    const NAME: ActorName = ActorName::ExpiryReaper;

    async fn run(&self, stop: &CancellationToken) -> Result<ExpiryReport, JobError> {
        // Allocated sandboxes are sorted by the end of their holding.
        let overdue = Listing::of(Status::Allocated).until(self.clock.now().minus(self.grace));
        let mut report = ExpiryReport::default();
        let expire = |sandbox: Sandbox| async move {
            match Claim::held(&sandbox) {
                Some(claim) => self.expire(&claim).await,
                None => Ok(false),
            }
        };
        let tally = |is_ended| match is_ended {
            true => report.expired += 1,
            false => report.superseded += 1,
        };
        for_each(listed(self.store.pages(overdue)), CONCURRENCY, stop, expire, tally).await?;
        Ok(report)
    }
}
