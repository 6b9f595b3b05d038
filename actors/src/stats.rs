//! Counts of the sandboxes by status, for gauges, the log and consoles, so that none of them reads the table.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::breaker::GuardedCsp;
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::ports::{SandboxStore, StoreError};
use crate::sandbox::Status;

/// The time from one count to the next.
const INTERVAL: Duration = Duration::from_secs(60);

/// The same while a console watches.
const WATCHED_INTERVAL: Duration = Duration::from_secs(2);

/// The number of sandboxes in each status, without tombstones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The sum of all statuses below.
    pub total: u64,
    /// Free.
    pub available: u64,
    /// Held by a track.
    pub allocated: u64,
    /// Waiting for deletion.
    pub pending_deletion: u64,
    /// Missing from the CSP's listing.
    pub stale: u64,
    /// Not deleted after the last attempt.
    pub deletion_failed: u64,
}

impl Stats {
    /// Counts the sandboxes in the status index.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::count`].
    pub async fn count(store: &dyn SandboxStore) -> Result<Self, StoreError> {
        let (available, allocated, pending_deletion, stale, deletion_failed) = tokio::try_join!(
            store.count(Status::Available),
            store.count(Status::Allocated),
            store.count(Status::PendingDeletion),
            store.count(Status::Stale),
            store.count(Status::DeletionFailed),
        )?;
        let total = available + allocated + pending_deletion + stale + deletion_failed;
        Ok(Self { total, available, allocated, pending_deletion, stale, deletion_failed })
    }
}

/// The last count, and who waits for the next one.
#[derive(Clone, Debug)]
pub(crate) struct StatsWatch {
    stats: watch::Sender<Option<Stats>>,
    watched: Arc<Notify>,
}

impl StatsWatch {
    pub(crate) fn new() -> Self {
        Self { stats: watch::Sender::new(None), watched: Arc::new(Notify::new()) }
    }

    /// Follows the counts, which are made more often while the receiver exists; `None` before the first.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Stats>> {
        let stats = self.stats.subscribe();
        self.watched.notify_one();
        stats
    }
}

/// The loop that counts.
pub(crate) struct StatsCounter {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) csp: Arc<GuardedCsp>,
    pub(crate) watch: StatsWatch,
    pub(crate) stop: CancellationToken,
    pub(crate) _liveness: LivenessGuard,
}

impl StatsCounter {
    /// Counts until the broker stops.
    pub(crate) async fn run(self) {
        let mut log_at = Instant::now();
        loop {
            match Stats::count(&*self.store).await {
                Ok(stats) => {
                    set_gauges(&stats);
                    self.watch.stats.send_replace(Some(stats));
                    if Instant::now() >= log_at {
                        self.log(&stats);
                        log_at = Instant::now() + INTERVAL;
                    }
                }
                Err(error) => tracing::warn!(event = "pool_stats_failed", error = %Chain(&error), "count failed"),
            }
            let interval = if self.watch.stats.receiver_count() > 0 { WATCHED_INTERVAL } else { INTERVAL };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.watch.watched.notified() => {}
                () = sleep(interval) => {}
            }
        }
    }

    /// One line a minute. CloudWatch metrics are made of it.
    fn log(&self, stats: &Stats) {
        let Stats { total, available, allocated, pending_deletion, stale, deletion_failed } = *stats;
        tracing::info!(
            event = "pool_stats",
            total,
            available,
            allocated,
            pending_deletion,
            stale,
            deletion_failed,
            circuit_breaker = self.csp.snapshot().state.as_str(),
            "pool stats"
        );
    }
}

fn set_gauges(stats: &Stats) {
    metrics::gauge!("broker_pool_total").set(stats.total as f64);
    metrics::gauge!("broker_pool_available").set(stats.available as f64);
    metrics::gauge!("broker_pool_allocated").set(stats.allocated as f64);
    metrics::gauge!("broker_pool_pending_deletion").set(stats.pending_deletion as f64);
    metrics::gauge!("broker_pool_stale").set(stats.stale as f64);
    metrics::gauge!("broker_pool_deletion_failed").set(stats.deletion_failed as f64);
}
