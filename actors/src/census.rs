//! The census: every replica counts the sandboxes of each state from time to time, so that gauges, the log and the
//! operators' consoles have figures without a read of the table for each of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::inventory::Stats;
use crate::supervision::Vital;
use crate::system::Broker;

/// From one count to the next while nobody watches.
const INTERVAL: Duration = Duration::from_secs(60);

/// The same while somebody does.
const WATCHED_INTERVAL: Duration = Duration::from_secs(2);

/// The last count, and who watches for the next.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    counts: watch::Sender<Option<Stats>>,
    watched: Arc<Notify>,
}

impl Census {
    pub(crate) fn new() -> Self {
        Self { counts: watch::Sender::new(None), watched: Arc::new(Notify::new()) }
    }

    /// Follows the counts, which come every few seconds as long as the receiver lives; `None` before the first.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Stats>> {
        let counts = self.counts.subscribe();
        self.watched.notify_one();
        counts
    }

    /// Counts until the broker stops.
    pub(crate) async fn run(self, broker: Broker, _vital: Vital) {
        let mut stopping = broker.stopping();
        let mut report_at = Instant::now();
        loop {
            match broker.inventory().stats().await {
                Ok(stats) => {
                    publish(&stats);
                    self.counts.send_replace(Some(stats));
                    if Instant::now() >= report_at {
                        report(&broker, &stats);
                        report_at = Instant::now() + INTERVAL;
                    }
                }
                Err(error) => tracing::warn!(%error, "the sandboxes could not be counted"),
            }
            let pause = if self.counts.receiver_count() > 0 { WATCHED_INTERVAL } else { INTERVAL };
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = self.watched.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }
}

fn publish(stats: &Stats) {
    metrics::gauge!("broker_pool_total").set(stats.total as f64);
    metrics::gauge!("broker_pool_available").set(stats.available as f64);
    metrics::gauge!("broker_pool_allocated").set(stats.allocated as f64);
    metrics::gauge!("broker_pool_pending_deletion").set(stats.pending_deletion as f64);
    metrics::gauge!("broker_pool_stale").set(stats.stale as f64);
    metrics::gauge!("broker_pool_deletion_failed").set(stats.deletion_failed as f64);
}

/// One line a minute; alarms that are made of log lines read it.
fn report(broker: &Broker, stats: &Stats) {
    let Stats { total, available, allocated, pending_deletion, stale, deletion_failed } = *stats;
    let circuit_breaker = broker.circuit_breaker().state;
    tracing::info!(
        total,
        available,
        allocated,
        pending_deletion,
        stale,
        deletion_failed,
        circuit_breaker,
        "pool census"
    );
}
