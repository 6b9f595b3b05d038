//! The driver of background jobs.

use serde::Serialize;

use crate::ports::{Control, CspError, Desired, StoreError};
use crate::sandbox::{ReplicaId, Timestamp};

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

/// What an actor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
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
