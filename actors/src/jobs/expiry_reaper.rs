//! ExpiryReaper: ends holdings that are past their end plus the grace period.
//!
//! Timers (`expiry_timers.rs`) end what this replica allocated on time. The sweep, this job, reads from the status index
//! what is overdue, and nothing else, and ends it. Both use the same conditional transaction: a renewal or a release meanwhile changes the epoch, and the
//! late write changes nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::concurrency::for_each;
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::ports::{Clock, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Claim, ConditionalUpdate, Event, Status, Timestamp};

/// Holdings that are ended concurrently.
pub(super) const CONCURRENCY: usize = 16;

/// The result of an expiry sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
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

    /// Ends an overdue holding that is still as the claim says. Returns whether this call ended it.
    pub(crate) async fn expire(&self, claim: &Claim) -> Result<bool, StoreError> {
        let due = self.due(claim.expires_at);
        let Ok(update) = ConditionalUpdate::of_holding(claim, Event::Expire { due }, self.clock.now()) else {
            return Ok(false);
        };
        let outcome = self.store.end_holding(&update, &claim.claim_key).await;
        if outcome.is_err() {
            metrics::counter!("broker_expiry_total", "outcome" => "error").increment(1);
        }
        let is_ended = outcome? == WriteOutcome::Done;
        let outcome = if is_ended { "expired" } else { "superseded" };
        metrics::counter!("broker_expiry_total", "outcome" => outcome).increment(1);
        if is_ended {
            metrics::counter!("broker_expiry_orphaned_total").increment(1);
            let (sandbox_id, track_id) = (&claim.sandbox_id, &claim.claim_key.track);
            tracing::info!(event = "holding_expired", %sandbox_id, %track_id, "holding expired");
        }
        Ok(is_ended)
    }

    /// Ends these holdings concurrently.
    async fn expire_all(
        &self,
        claims: Vec<Claim>,
        report: &mut ExpiryReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let expire = |claim| async move { self.expire(&claim).await };
        let tally = |is_ended| match is_ended {
            true => report.expired += 1,
            false => report.superseded += 1,
        };
        for_each(claims, CONCURRENCY, stop, expire, tally).await
    }
}

#[async_trait]
impl Job for Reaper {
    type Report = ExpiryReport;

    const NAME: ActorName = ActorName::ExpiryReaper;

    async fn run(&self, stop: &CancellationToken) -> Result<ExpiryReport, JobError> {
        // Allocated sandboxes are sorted by the end of their holding.
        let overdue = Listing::of(Status::Allocated).until(self.clock.now().minus(self.grace));
        let mut pages = self.store.pages(overdue);
        let mut report = ExpiryReport::default();
        let mut first_error = None;
        while !stop.is_cancelled()
            && let Some(page) = pages.next().await?
        {
            let claims = page.iter().filter_map(Claim::held).collect();
            first_error = first_error.or(self.expire_all(claims, &mut report, stop).await.err());
        }
        first_error.map_or(Ok(report), |error| Err(error.into()))
    }
}
