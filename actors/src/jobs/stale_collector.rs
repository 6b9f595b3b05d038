//! StaleCollector: turns sandboxes that stayed stale for the whole grace period into tombstones. An operator's bulk
//! delete uses the same code without the grace period.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::concurrency::{for_each, listed};
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::ports::{Clock, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Event, Sandbox, Status};

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
        // Stale sandboxes are sorted by when they became stale.
        let due = Listing::of(Status::Stale).until(self.clock.now().minus(self.grace));
        Ok(self.discard(due, stop).await?)
    }
}

impl StaleCollector {
    /// Turns all sandboxes of a listing into tombstones.
    pub(crate) async fn discard(
        &self,
        listing: Listing,
        stop: &CancellationToken,
    ) -> Result<DiscardReport, StoreError> {
        let mut report = DiscardReport::default();
        let discard = |sandbox| async move { self.discard_one(&sandbox).await };
        let tally = |is_discarded| report.deleted += u64::from(is_discarded);
        for_each(listed(self.store.pages(listing)), CONCURRENCY, stop, discard, tally).await?;
        Ok(report)
    }

    async fn discard_one(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let event = Event::Discard { keep_until: now.plus(self.deleted_retention) };
        let Ok(update) = sandbox.update(event, now) else { return Ok(false) };
        Ok(self.store.update(&update).await? == WriteOutcome::Done)
    }
}
