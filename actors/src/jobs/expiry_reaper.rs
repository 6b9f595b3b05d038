//! ExpiryReaper: ends holdings that are past their end plus the grace period.
//!
//! Timers (`expiry_timers.rs`) end what this replica allocated on time. The sweep, this job, reads the status index and
//! ends the rest. Both use the same conditional transaction: a renewal or a release meanwhile changes the epoch, and the
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
const CONCURRENCY: usize = 16;

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
    /// The shortest holding. It bounds what the sweep reads.
    pub(crate) lab_duration: Duration,
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
        let is_ended = self.store.end_holding(&update, &claim.claim_key).await? == WriteOutcome::Done;
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
    pub(crate) async fn expire_all(
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
        let result = for_each(claims, CONCURRENCY, stop, expire, tally).await;
        if result.is_err() {
            metrics::counter!("broker_expiry_total", "outcome" => "error").increment(1);
        }
        result
    }
}

#[async_trait]
impl Job for Reaper {
    type Report = ExpiryReport;

    const NAME: ActorName = ActorName::ExpiryReaper;

    async fn run(&self, stop: &CancellationToken) -> Result<ExpiryReport, JobError> {
        let now = self.clock.now();
        // A holding lasts at least one lab duration, so nothing allocated later can be overdue.
        let allocated_until = now.minus(self.lab_duration).minus(self.grace);
        let listing = Listing { allocated_until: Some(allocated_until), ..Listing::of(Status::Allocated) };
        let mut pages = self.store.pages(listing);
        let mut report = ExpiryReport::default();
        while !stop.is_cancelled()
            && let Some(page) = pages.next().await?
        {
            let held = page.iter().filter_map(Claim::held);
            let overdue = held.filter(|claim| self.due(claim.expires_at) <= now).collect();
            self.expire_all(overdue, &mut report, stop).await?;
        }
        Ok(report)
    }
}
