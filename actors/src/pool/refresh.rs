//! The refresh loop: reads available sandboxes from the status index for the pool manager. One refresh at a time: at
//! every interval what is new in this replica's shards, and these or all shards in full when that is requested or due.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::cache::{Listed, MAX_CACHED, Refresh, Scope};
use super::manager::{Pool, TakeError};
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::ports::{Clock, Listing, SandboxStore, StoreError};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Status, Timestamp};

/// The time from one full read of this replica's shards to the next.
const FULL_INTERVAL: Duration = Duration::from_secs(600);

/// How far clocks of replicas may differ: a read of what is new reaches back this much further.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// The shortest time between two full reads for which requests wait.
const URGENT_GAP: Duration = Duration::from_millis(100);

/// The shortest time between two full reads for which none waits.
const GAP: Duration = Duration::from_secs(1);

/// The gap between two full reads is at least this many times the duration of the last one.
const GAP_BY_DURATION: u32 = 3;

/// The gaps while the index does not answer.
const GAP_AFTER_FAILURE: RetryPolicy = RetryPolicy { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// The refresh loop of one pool.
pub(crate) struct Refresher {
    pub(crate) pool: Pool,
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) interval: Duration,
    pub(crate) jitter: Jitter,
    /// Counts the successful refreshes.
    pub(crate) completed: watch::Sender<u64>,
    pub(crate) _liveness: LivenessGuard,
}

/// The end of the last full read.
#[derive(Clone, Copy)]
struct LastFull {
    ended_at: Instant,
    took: Duration,
}

impl Refresher {
    /// Refreshes until the pool manager is gone.
    pub(crate) async fn run(self) {
        let mut failures = GAP_AFTER_FAILURE.waits(&self.jitter);
        let mut last_full: Option<LastFull> = None;
        // When the last successful read of this replica's shards started, by this replica's clock.
        let mut read_at = Timestamp(0);
        let mut scope = Scope::Own;
        loop {
            let (started_at, started) = (self.clock.now(), Instant::now());
            let not_before = match self.refresh(scope, read_at.minus(CLOCK_SKEW)).await {
                Err(TakeError::Gone) => return,
                Err(_) => {
                    // What was asked for is still wanted.
                    self.pool.requests().add(scope, false);
                    Instant::now() + failures.next_wait()
                }
                Ok(()) => {
                    failures = GAP_AFTER_FAILURE.waits(&self.jitter);
                    read_at = started_at;
                    if scope > Scope::New {
                        last_full = Some(LastFull { ended_at: Instant::now(), took: started.elapsed() });
                    }
                    Instant::now()
                }
            };
            scope = self.next_scope(not_before, last_full).await;
        }
    }

    /// Waits until a refresh is due or requested and may be made, and returns what to read.
    async fn next_scope(&self, not_before: Instant, last_full: Option<LastFull>) -> Scope {
        let requests = self.pool.requests();
        let interval_ends = Instant::now().max(not_before) + self.interval;
        loop {
            let wanted = requests.peek();
            let gap = if wanted.is_urgent { URGENT_GAP } else { GAP };
            let may_read_fully = last_full.map(|last| last.ended_at + gap.max(last.took * GAP_BY_DURATION));
            let start_at = not_before.max(may_read_fully.unwrap_or(not_before));
            let requested = async {
                match wanted.scope {
                    Some(_) => sleep_until(start_at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = requested => return requests.take().unwrap_or(Scope::Own),
                // The interval passes also while a requested read must wait for its gap.
                () = sleep_until(interval_ends) => {
                    let is_due = last_full.is_none_or(|last| last.ended_at.elapsed() >= FULL_INTERVAL);
                    return if is_due { Scope::Own } else { Scope::New };
                }
                () = requests.changed() => {}
            }
        }
    }

    async fn refresh(&self, scope: Scope, new_since: Timestamp) -> Result<(), TakeError> {
        let refresh = self.pool.start_refresh(scope).await?;
        match self.read(&refresh, new_since).await {
            Ok(listed) => {
                self.pool.end_refresh(refresh, Ok(listed)).await?;
                self.completed.send_modify(|completed| *completed += 1);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(event = "pool_refresh_failed", error = %Chain(&error), "pool refresh failed");
                metrics::counter!("broker_pool_refresh_failed_total").increment(1);
                self.pool.end_refresh(refresh, Err(error.clone())).await?;
                Err(TakeError::RefreshFailed(error))
            }
        }
    }

    async fn read(&self, refresh: &Refresh, new_since: Timestamp) -> Result<Listed, StoreError> {
        let mut listing = Listing::of(Status::Available);
        if refresh.scope == Scope::New {
            listing = listing.from(new_since);
        }
        let now = self.clock.now();
        let mut sandboxes = Vec::new();
        let mut pages = self.store.pages_of(listing, refresh.shards.iter().copied());
        while let Some(page) = pages.next().await? {
            sandboxes.extend(page.into_iter().filter(|sandbox| !sandbox.is_warming(now)));
            if sandboxes.len() > MAX_CACHED {
                return Ok(Listed { sandboxes, is_truncated: true });
            }
        }
        Ok(Listed { sandboxes, is_truncated: false })
    }
}
