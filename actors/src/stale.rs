//! StaleCollector: turns sandboxes that stayed stale for the whole grace period into tombstones. Bulk deletion by an
//! operator goes the same way without the grace.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::concurrency::for_each;
use crate::job::{Job, JobError, StopSignal};
use crate::ports::{Clock, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Event, Sandbox, Status, Timestamp};

/// So many are turned at a time.
const CONCURRENCY: usize = 16;

/// What a run of the stale collector, or a bulk delete, did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DiscardReport {
    /// Turned into tombstones.
    pub deleted: u64,
}

/// The job.
#[derive(Clone)]
pub struct StaleCollector {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a sandbox must have been stale.
    pub(crate) grace: Duration,
    /// How long a tombstone stays.
    pub(crate) deleted_retention: Duration,
}

#[async_trait]
impl Job for StaleCollector {
    type Report = DiscardReport;

    fn name(&self) -> &'static str {
        "stale-collector"
    }

    async fn run(&self, stop: &StopSignal) -> Result<DiscardReport, JobError> {
        // Nothing changes a stale sandbox but its return and its end, so `updated_at` is when it became stale.
        let stale_since = self.clock.now().minus(self.grace);
        Ok(self.discard(Status::Stale, Some(stale_since), stop).await?)
    }
}

impl StaleCollector {
    /// Turns all sandboxes of `status` that have not changed since `unchanged_since` into tombstones.
    pub(crate) async fn discard(
        &self,
        status: Status,
        unchanged_since: Option<Timestamp>,
        stop: &StopSignal,
    ) -> Result<DiscardReport, StoreError> {
        let mut report = DiscardReport::default();
        let mut listing = Listing::of(status);
        loop {
            let page = self.store.list(&listing).await?;
            let due = page
                .sandboxes
                .into_iter()
                .filter(|sandbox| unchanged_since.is_none_or(|since| sandbox.updated_at <= since));
            let discard = |sandbox| async move { self.discard_one(&sandbox).await };
            for_each(due, CONCURRENCY, stop, discard, |discarded| report.deleted += u64::from(discarded)).await?;
            if page.next.is_none() || stop.is_requested() {
                return Ok(report);
            }
            listing.after = page.next;
        }
    }

    async fn discard_one(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let event = Event::Discard { keep_until: now.plus(self.deleted_retention) };
        let Ok(write) = sandbox.write(event, now) else { return Ok(false) };
        Ok(self.store.update(&write).await? == WriteOutcome::Done)
    }
}
