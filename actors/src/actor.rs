//! The actors by name, the operators' commands to them, and their status.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sandbox::{ReplicaId, Timestamp};

macro_rules! actor_names {
    ($($(#[$doc:meta])* $variant:ident => $name:literal),* $(,)?) => {
        /// An actor that operators can command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum ActorName {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl ActorName {
            /// Every actor.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the API, the table, logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

actor_names! {
    /// Caches available sandboxes and hands out candidates.
    PoolManager => "pool-manager",
    /// Brings the table in line with the CSP's listing.
    CspSync => "csp-sync",
    /// Ends expired holdings.
    ExpiryReaper => "expiry-reaper",
    /// Deletes released sandboxes at the CSP.
    Cleanup => "cleanup",
    /// Turns sandboxes that stayed stale into tombstones.
    StaleCollector => "stale-collector",
    /// Counts the sandboxes, for all replicas.
    PoolStats => "pool-stats",
}

impl ActorName {
    /// The actor with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|actor| actor.as_str() == name)
    }
}

impl fmt::Display for ActorName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The state that operators want an actor to be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// The actor works.
    #[default]
    Running,
    /// The actor does nothing until it is resumed.
    Paused,
}

impl fmt::Display for DesiredState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
        })
    }
}

/// A control item: the last operator command for one actor, on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Control {
    /// The commanded actor.
    pub actor: ActorName,
    /// The state it must be in.
    #[serde(rename = "desired")]
    pub desired_state: DesiredState,
    /// The operator's reason.
    pub reason: String,
    /// The operator.
    #[serde(rename = "by")]
    pub requested_by: String,
    /// When the command was given.
    #[serde(rename = "at")]
    pub updated_at: Timestamp,
}

/// What an actor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Waiting for its next run, or for requests.
    Idle,
    /// Running on this replica.
    Running,
    /// Paused by an operator.
    Paused,
    /// The actor died; the process is about to end.
    Dead,
}

/// How one run of a job went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The replica that ran it.
    pub replica: ReplicaId,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: u64,
    /// The job's report, if the run completed.
    pub report: Option<serde_json::Value>,
    /// Why the run failed.
    pub error: Option<String>,
}

/// The status of an actor, as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActorStatus {
    /// The actor.
    pub name: ActorName,
    /// What it is doing on this replica.
    pub status: Activity,
    /// The state that operators want.
    pub desired_state: DesiredState,
    /// The last operator command for this actor, if any.
    pub control: Option<Control>,
    /// The replica that runs the job or ran it last; none for an actor that runs on every replica.
    pub leader: Option<ReplicaId>,
    /// Since when it is running here.
    pub running_since: Option<Timestamp>,
    /// The number of runs that this replica has started.
    pub iteration: u64,
    /// The last run on any replica.
    pub last_run: Option<RunRecord>,
    /// When this replica checks again whether a run is due.
    pub next_run: Option<Timestamp>,
    /// What only this actor has: the pool's cache, the circuit breaker.
    pub details: Option<serde_json::Value>,
}

impl ActorStatus {
    /// The status of an actor that does not answer.
    pub(crate) fn dead(name: ActorName) -> Self {
        Self {
            name,
            status: Activity::Dead,
            desired_state: DesiredState::Running,
            control: None,
            leader: None,
            running_since: None,
            iteration: 0,
            last_run: None,
            next_run: None,
            details: None,
        }
    }
}
