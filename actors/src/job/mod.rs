//! The driver of background jobs.
//!
//! A [`Job`] is a bounded, idempotent function of the ports and the time that returns a typed report. Everything else
//! is the driver's ([`JobHandle`]): the timer, which starts again when a run has ended; activation by hand, of which
//! at most one is queued behind a running one; pause and resume; the status; and leadership: a run takes the job's
//! lease first (`lease.rs`), so that over any number of replicas one runs the job at a time, and whoever finds the job
//! not due leaves it alone.

mod driver;
mod lease;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::driver::JobHandle;
pub(crate) use self::driver::Surroundings;
use crate::ports::{Control, CspError, Desired, StoreError};
use crate::sandbox::{ReplicaId, Timestamp};

/// One background job.
#[async_trait]
pub trait Job: Send + Sync + 'static {
    /// What a run tells.
    type Report: Clone + std::fmt::Debug + Serialize + Send + Sync + 'static;

    /// The name of the actor that runs it.
    fn name(&self) -> &'static str;

    /// Does what is due now, and returns early with what it has done when `stop` is requested. It may be dropped at
    /// any await, and run again from the start.
    async fn run(&self, stop: &StopSignal) -> Result<Self::Report, JobError>;

    /// Counts an ended run in the job's own metrics, beside those that every job has.
    fn measure(&self, _outcome: &'static str, _duration: Duration) {}
}

/// Tells a run that it should come to an end: its actor was paused or the broker stops.
#[derive(Clone, Debug)]
pub struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// A signal and the switch that gives it.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (switch, signal) = watch::channel(false);
        (switch, Self(signal))
    }

    /// Whether to end now.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the end is requested.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            // Nobody is left who could request it.
            std::future::pending::<()>().await;
        }
    }
}

/// Why a run of a job gave no report.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JobError {
    /// An operator has paused the actor.
    #[error("the actor is paused")]
    Paused,
    /// It runs already, here or on another replica.
    #[error("it runs already on replica {holder}")]
    Busy {
        /// Where.
        holder: ReplicaId,
    },
    /// Another replica took the lease over in the middle of the run.
    #[error("the job's lease was lost during the run")]
    LeaseLost,
    /// The run did not end when it should.
    #[error("the run was cut off {} s after it was told to end", patience.as_secs())]
    CutOff {
        /// How long it was waited for.
        patience: Duration,
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
    /// A bounded set of names, for metrics.
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
            Self::Csp(_) => "csp_error",
            Self::Store(_) => "store_error",
        }
    }
}

/// What an actor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Activity {
    /// Waiting for its next run, or for requests.
    Idle,
    /// At work on this replica.
    Running,
    /// Resting on an operator's word.
    Paused,
    /// Gone; the process is about to end.
    Dead,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RunRecord {
    /// Where it ran.
    pub replica: ReplicaId,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// What it reports, if it came to its end.
    pub report: Option<serde_json::Value>,
    /// Why it did not.
    pub error: Option<String>,
}

/// What an operator sees of an actor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ActorStatus {
    /// `pool-manager`, `csp-sync`, `expiry-reaper`, `cleanup` or `stale-collector`.
    pub name: &'static str,
    /// What it is doing on this replica.
    pub status: Activity,
    /// What operators want of it.
    pub desired_state: Desired,
    /// The word that says so, if there ever was one.
    pub control: Option<Control>,
    /// The replica that runs the job, or ran it last; none for an actor that every replica runs.
    pub leader: Option<ReplicaId>,
    /// Since when it is running here.
    pub running_since: Option<Timestamp>,
    /// How many runs this replica has begun.
    pub iteration: u64,
    /// The last run on any replica.
    pub last_run: Option<RunRecord>,
    /// When this replica looks again whether a run is due.
    pub next_run: Option<Timestamp>,
    /// What only this actor has to say: the pool's cache, the circuit breaker.
    pub details: Option<serde_json::Value>,
}
