//! Background jobs and the driver that runs them.
//!
//! A [`Job`] is a bounded, idempotent function of the ports and the time that returns a typed report. The driver
//! ([`JobHandle`]) does the rest: the timer, which starts again after each run; activation on request, of which at most
//! one waits behind the current run; pause and resume; the status; and leadership. Each run takes the job's lease first
//! (`lease.rs`), so that over any number of replicas one runs the job at a time.

pub mod cleanup;
pub(crate) mod concurrency;
pub mod csp_sync;
mod driver;
pub mod expiry_reaper;
pub mod expiry_timers;
mod lease;
pub mod pace;
pub mod pool_stats;
pub mod stale_collector;
mod sync_plan;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub(crate) use self::driver::JobControl;
pub use self::driver::JobHandle;
use crate::actor::ActorName;
use crate::ports::{Clock, CspError, SandboxStore, StoreError};
use crate::retry::Jitter;
use crate::sandbox::ReplicaId;

/// One background job.
#[async_trait]
pub trait Job: Send + Sync + 'static {
    /// What a run reports.
    type Report: Clone + std::fmt::Debug + Serialize + Send + Sync + 'static;

    /// The actor that runs it.
    const NAME: ActorName;

    /// Does what is due now. Returns early with what it has done once `stop` is cancelled. The future may be dropped at
    /// any await, and the run repeated from the start.
    async fn run(&self, stop: &CancellationToken) -> Result<Self::Report, JobError>;

    /// Whether the run ended before its work was done, so that the next one is due at once.
    fn is_unfinished(_report: &Self::Report) -> bool {
        false
    }

    /// Counts an ended run in the job's own metrics, in addition to those of all jobs.
    fn measure(&self, _outcome: &'static str, _duration: Duration) {}
}

/// What every job's driver needs.
pub(crate) struct JobContext {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replica: ReplicaId,
    /// How long a lease lasts without extension.
    pub(crate) lease: Duration,
    /// How long to wait for a run after it was told to stop.
    pub(crate) stop_timeout: Duration,
    /// The randomness of the waits after failed runs.
    pub(crate) jitter: Jitter,
}

/// Why a run of a job returned no report.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JobError {
    /// An operator paused the actor.
    #[error("the actor is paused")]
    Paused,
    /// The job is running, on this replica or another.
    #[error("the job is already running on replica {holder}")]
    Busy {
        /// The replica.
        holder: ReplicaId,
    },
    /// Another replica acquired the lease during the run.
    #[error("the job's lease was lost during the run")]
    LeaseLost,
    /// The run did not stop in time.
    #[error("the run was aborted {} s after it was told to stop", timeout.as_secs())]
    CutOff {
        /// How long it was given.
        timeout: Duration,
    },
    /// The sync would make too many sandboxes stale.
    #[error("{0}")]
    GuardRefused(String),
    /// The run panicked.
    #[error("the run panicked: {0}")]
    Panicked(String),
    /// The broker is stopping, or the actor is dead.
    #[error("the broker is stopping")]
    Stopping,
    /// The CSP failed.
    #[error(transparent)]
    Csp(#[from] CspError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JobError {
    /// The label in metrics and logs.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Busy { .. } => "busy",
            Self::LeaseLost => "lease_lost",
            Self::CutOff { .. } => "cut_off",
            Self::GuardRefused(_) => "refused",
            Self::Panicked(_) => "panicked",
            Self::Stopping => "stopping",
            Self::Csp(CspError::BreakerOpen { .. }) => "breaker_open",
            Self::Csp(CspError::Silenced { .. }) => "silenced",
            Self::Csp(_) => "csp_error",
            Self::Store(_) => "store_error",
        }
    }
}
