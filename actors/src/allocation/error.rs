//! Why a track got no sandbox.

use std::time::Duration;

use crate::ports::StoreError;
use crate::queue::Standing;
use crate::quota::QuotaExceeded;

/// Why a track got no sandbox.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AllocateError {
    /// At some moment during the request the pool had no matching sandbox (I4).
    #[error("no sandboxes available")]
    NoneAvailable,
    /// Waited, and there was none yet. The key keeps its rank.
    #[error("still waiting for a sandbox")]
    Waiting(Standing),
    /// As many wait as may.
    #[error("{limit} wait already")]
    QueueFull {
        /// The most that may wait.
        limit: usize,
    },
    /// The key's ticket was withdrawn while it waited.
    #[error("the place in the queue was given up")]
    Withdrawn,
    /// The key holds a sandbox, and the caller does not prove that it owns it (I10).
    #[error("this key holds a sandbox of an owner with another secret")]
    NotOwner,
    /// A longer holding is asked for than one may last.
    #[error("a holding may last {} minutes", max.as_secs() / 60)]
    TooLong {
        /// The longest holding.
        max: Duration,
    },
    /// The caller's credential has made as many new claims as it may.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// An operator paused the pool manager.
    #[error("allocation is paused")]
    Paused,
    /// Too many claims are in flight.
    #[error("more than {limit} allocations are in flight")]
    Overloaded {
        /// The most that may be in flight.
        limit: usize,
    },
    /// The allocation's budget ran out.
    #[error("the allocation took longer than {} ms", budget.as_millis())]
    TimedOut {
        /// The budget.
        budget: Duration,
    },
    /// The broker is stopping, or its pool manager is dead.
    #[error("the broker is stopping")]
    Stopping,
    /// The table holds more available sandboxes than the cache, so that it is not known whether one matches.
    #[error("the pool is too large to be read in full")]
    NotReadInFull,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
