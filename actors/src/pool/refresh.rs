//! The refresh loop: reads the available sandboxes from the status index for the pool manager. One refresh at a time,
//! at every interval and on request, with a gap between any two.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::MAX_CACHED;
use super::manager::{Pool, TakeError};
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::ports::{Listing, SandboxStore, StoreError};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Sandbox, Status};

/// The time between two refreshes, so that an empty pool under load does not query without pause.
const GAP: Duration = Duration::from_millis(100);

/// The gaps while the index does not answer.
const GAP_AFTER_FAILURE: RetryPolicy = RetryPolicy { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// The refresh loop of one pool.
pub(crate) struct Refresher {
    pub(crate) pool: Pool,
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) interval: Duration,
    pub(crate) jitter: Jitter,
    /// Counts the successful refreshes.
    pub(crate) completed: watch::Sender<u64>,
    pub(crate) _liveness: LivenessGuard,
}

impl Refresher {
    /// Refreshes until the pool manager is gone.
    pub(crate) async fn run(self) {
        let mut gaps = GAP_AFTER_FAILURE.waits(&self.jitter);
        loop {
            let gap = match self.refresh().await {
                Err(TakeError::Gone) => return,
                Err(_) => gaps.next_wait(),
                Ok(()) => {
                    gaps = GAP_AFTER_FAILURE.waits(&self.jitter);
                    GAP
                }
            };
            let ended_at = Instant::now();
            sleep(gap).await;
            tokio::select! {
                biased;
                () = self.pool.refresh_requested() => {}
                () = sleep_until(ended_at + self.interval) => {}
            }
        }
    }

    async fn refresh(&self) -> Result<(), TakeError> {
        let number = self.pool.start_refresh().await?;
        match self.read_available().await {
            Ok(listed) => {
                self.pool.end_refresh(number, Ok(listed)).await?;
                self.completed.send_modify(|completed| *completed += 1);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(event = "pool_refresh_failed", error = %Chain(&error), "pool refresh failed");
                metrics::counter!("broker_pool_refresh_failed_total").increment(1);
                self.pool.end_refresh(number, Err(error.clone())).await?;
                Err(TakeError::RefreshFailed(error))
            }
        }
    }

    async fn read_available(&self) -> Result<Vec<Sandbox>, StoreError> {
        let mut available = Vec::new();
        let mut pages = self.store.pages(Listing::of(Status::Available));
        // More than the cache holds is enough to see that it is full.
        while available.len() <= MAX_CACHED
            && let Some(page) = pages.next().await?
        {
            available.extend(page);
        }
        Ok(available)
    }
}
