//! The counts of the sandboxes, as this replica knows them: from the stats item, for gauges, log and consoles, and
//! exactly, for operators who ask.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use crate::guarded_csp::GuardedCsp;
pub use crate::ports::Stats;
use crate::ports::{Clock, SandboxStore, StoreError, StoredStats};

/// The pause between two exact counts, in durations of the first.
const PAUSE_BY_DURATION: u32 = 3;

/// The last count in the stats item.
#[derive(Clone, Debug)]
pub(crate) struct StatsWatch(watch::Sender<StoredStats>);

impl StatsWatch {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(StoredStats::default()))
    }

    /// Follows the counts.
    pub(crate) fn subscribe(&self) -> watch::Receiver<StoredStats> {
        self.0.subscribe()
    }

    /// Takes over what the stats item holds. Returns whether sandboxes became available since the last look.
    pub(crate) fn update(&self, stored: StoredStats, csp: &GuardedCsp) -> bool {
        let previous = self.0.send_replace(stored);
        if stored.counted_at.is_some() && stored.counted_at != previous.counted_at {
            set_gauges(&stored.stats);
            log(&stored.stats, csp);
        }
        stored.supply != previous.supply
    }
}

/// One line for each count. CloudWatch metrics are made of it.
fn log(stats: &Stats, csp: &GuardedCsp) {
    let Stats { total, available, allocated, standby, pending_deletion, stale, deletion_failed, warming, quarantined } =
        *stats;
    tracing::info!(
        event = "pool_stats",
        total,
        available,
        allocated,
        standby,
        pending_deletion,
        stale,
        deletion_failed,
        warming,
        quarantined,
        circuit_breaker = csp.snapshot().state.as_str(),
        "pool stats"
    );
}

fn set_gauges(stats: &Stats) {
    metrics::gauge!("broker_pool_sandboxes").set(stats.total as f64);
    metrics::gauge!("broker_pool_available").set(stats.available as f64);
    metrics::gauge!("broker_pool_allocated").set(stats.allocated as f64);
    metrics::gauge!("broker_pool_standby").set(stats.standby as f64);
    metrics::gauge!("broker_pool_pending_deletion").set(stats.pending_deletion as f64);
    metrics::gauge!("broker_pool_stale").set(stats.stale as f64);
    metrics::gauge!("broker_pool_deletion_failed").set(stats.deletion_failed as f64);
    metrics::gauge!("broker_pool_warming").set(stats.warming as f64);
    metrics::gauge!("broker_pool_quarantined").set(stats.quarantined as f64);
}

/// Counts on request. One count runs at a time, and the next one starts only after a pause; all who asked before it
/// started share it. So an answer is never older than its request, and reads take at most a quarter of the time.
pub(crate) struct ExactStats {
    store: Arc<dyn SandboxStore>,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Count>>,
}

#[derive(Clone, Copy)]
struct Count {
    stats: Stats,
    started: Instant,
    ended: Instant,
}

impl ExactStats {
    pub(crate) fn new(store: Arc<dyn SandboxStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, last: Mutex::new(None) }
    }

    pub(crate) async fn count(&self) -> Result<Stats, StoreError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(count) = *last {
            if count.started > asked {
                return Ok(count.stats);
            }
            sleep_until(count.ended + (count.ended - count.started) * PAUSE_BY_DURATION).await;
        }
        let started = Instant::now();
        let stats = self.store.count_all(self.clock.now()).await?.stats;
        *last = Some(Count { stats, started, ended: Instant::now() });
        Ok(stats)
    }
}
