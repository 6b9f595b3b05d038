//! Reads the available sandboxes from the status index for the pool manager: one refresh at a time, at every
//! interval and when asked, with a gap between any two.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::pool::{MAX_CACHED, Pool, TakeError};
use crate::ports::{Listing, MAX_PAGE, SandboxStore, StoreError};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Sandbox, Status};
use crate::supervision::Vital;

/// Between two refreshes, so that an empty pool under load does not query without end.
const GAP: Duration = Duration::from_millis(100);

/// The gaps while the index does not answer.
const GAP_AFTER_FAILURE: RetryPolicy = RetryPolicy { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// The refresh loop of one pool.
pub(crate) struct Refresher {
    pub(crate) pool: Pool,
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) interval: Duration,
    pub(crate) jitter: Jitter,
    /// Counts the refreshes that ended well.
    pub(crate) done: watch::Sender<u64>,
    pub(crate) _vital: Vital,
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
                () = self.pool.refresh_wanted() => {}
                () = sleep_until(ended_at + self.interval) => {}
            }
        }
    }

    async fn refresh(&self) -> Result<(), TakeError> {
        let number = self.pool.begin_refresh().await?;
        match self.read_available().await {
            Ok(listed) => {
                self.pool.end_refresh(number, Ok(listed)).await?;
                self.done.send_modify(|done| *done += 1);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "the pool could not be refreshed");
                metrics::counter!("broker_pool_refresh_failed_total").increment(1);
                self.pool.end_refresh(number, Err(error.clone())).await?;
                Err(TakeError::RefreshFailed(error))
            }
        }
    }

    async fn read_available(&self) -> Result<Vec<Sandbox>, StoreError> {
        let mut available = Vec::new();
        let mut listing = Listing::of(Status::Available);
        // One page past the bound of the cache is enough to see that it is reached.
        for _ in 0..=MAX_CACHED / MAX_PAGE as usize {
            let page = self.store.list(&listing).await?;
            available.extend(page.sandboxes);
            if page.next.is_none() {
                break;
            }
            listing.after = page.next;
        }
        Ok(available)
    }
}
