//! StaleCollector: turns sandboxes that stayed stale for the whole grace period into tombstones. An operator's bulk
//! delete uses the same code without the grace period.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::concurrency::for_each;
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::ports::{Clock, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Event, Sandbox, Status, Timestamp};

/// Sandboxes that are updated concurrently.
const CONCURRENCY: usize = 16;

/// The result of a run of the stale collector, or of a bulk delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardReport {
    /// Sandboxes turned into tombstones.
    pub deleted: u64,
}

/// The job.
#[derive(Clone)]
pub struct StaleCollector {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a sandbox must have been stale.
    pub(crate) grace: Duration,
    /// How long a tombstone is kept.
    pub(crate) deleted_retention: Duration,
}

#[async_trait]
impl Job for StaleCollector {
    type Report = DiscardReport;

    const NAME: ActorName = ActorName::StaleCollector;

    async fn run(&self, stop: &CancellationToken) -> Result<DiscardReport, JobError> {
        // A stale sandbox changes only when it stops being stale, so `updated_at` is when it became stale.
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
        stop: &CancellationToken,
    ) -> Result<DiscardReport, StoreError> {
        let mut report = DiscardReport::default();
        let mut pages = self.store.pages(Listing::of(status));
        while !stop.is_cancelled()
            && let Some(page) = pages.next().await?
        {
            let is_due = |sandbox: &Sandbox| unchanged_since.is_none_or(|since| sandbox.updated_at <= since);
            let discard = |sandbox| async move { self.discard_one(&sandbox).await };
            let tally = |is_discarded| report.deleted += u64::from(is_discarded);
            for_each(page.into_iter().filter(is_due), CONCURRENCY, stop, discard, tally).await?;
        }
        Ok(report)
    }

    async fn discard_one(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let event = Event::Discard { keep_until: now.plus(self.deleted_retention) };
        let Ok(update) = sandbox.update(event, now) else { return Ok(false) };
        Ok(self.store.update(&update).await? == WriteOutcome::Done)
    }
}
