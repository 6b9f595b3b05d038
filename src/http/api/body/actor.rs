//! Actors and the circuit breaker.

use std::time::Duration;

use broker_actors::{actor, breaker, sandbox};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::report::SyncReport;
use super::values::{EXAMPLE_NOW, ReplicaId, Timestamp};

/// An actor that operators can pause, resume and run
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
struct ActorName(actor::ActorName);

impl From<actor::ActorName> for ActorName {
    fn from(name: actor::ActorName) -> Self {
        Self(name)
    }
}

impl PartialSchema for ActorName {
    fn schema() -> RefOr<Schema> {
        let names = actor::ActorName::ALL.iter().map(|name| name.as_str());
        let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
        schema.description(Some("An actor that operators can pause, resume and run")).build().into()
    }
}

impl ToSchema for ActorName {}

/// The state that operators want an actor to be in
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DesiredState {
    Running,
    Paused,
}

impl From<actor::DesiredState> for DesiredState {
    fn from(state: actor::DesiredState) -> Self {
        match state {
            actor::DesiredState::Running => Self::Running,
            actor::DesiredState::Paused => Self::Paused,
        }
    }
}

/// An operator's command for an actor; it holds on every replica
#[derive(Debug, Serialize, ToSchema)]
struct Control {
    actor: ActorName,
    /// The state that the operator wants
    desired: DesiredState,
    /// The operator's reason; empty for a resume
    reason: String,
    /// The operator
    by: String,
    /// When the command was given
    at: Timestamp,
}

impl From<actor::Control> for Control {
    fn from(control: actor::Control) -> Self {
        let actor::Control { actor, desired_state, reason, requested_by, updated_at } = control;
        Self { actor: actor.into(), desired: desired_state.into(), reason, by: requested_by, at: updated_at.into() }
    }
}

/// What an actor is doing
///
/// `idle`: waiting for its next run, or for requests. `running`: its job is running on this replica. `paused`: paused by an
/// operator. `dead`: failed; the process is about to end.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Activity {
    Idle,
    Running,
    Paused,
    Dead,
}

impl From<actor::Activity> for Activity {
    fn from(activity: actor::Activity) -> Self {
        match activity {
            actor::Activity::Idle => Self::Idle,
            actor::Activity::Running => Self::Running,
            actor::Activity::Paused => Self::Paused,
            actor::Activity::Dead => Self::Dead,
        }
    }
}

/// One run of a job
#[derive(Debug, Serialize, ToSchema)]
struct RunRecord {
    /// The replica that ran it
    replica: ReplicaId,
    /// When it started
    started_at: Timestamp,
    duration_ms: u64,
    /// The job's report; null if the run failed
    report: Option<Value>,
    /// Why the run failed; null if it completed
    error: Option<String>,
}

impl From<actor::RunRecord> for RunRecord {
    fn from(run: actor::RunRecord) -> Self {
        let actor::RunRecord { replica, started_at, duration_ms, report, error } = run;
        Self { replica: replica.into(), started_at: started_at.into(), duration_ms, report, error }
    }
}

/// The status of an actor, as this replica sees it
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ActorStatus {
    name: ActorName,
    /// What it is doing on this replica
    status: Activity,
    desired_state: DesiredState,
    /// The last operator command for this actor, if any
    control: Option<Control>,
    /// The replica that runs the job or ran it last; null for an actor that works on every replica
    leader: Option<ReplicaId>,
    /// Since when its job is running on this replica
    running_since: Option<Timestamp>,
    /// The number of runs that this replica has started
    iteration: u64,
    /// The last run on any replica
    last_run: Option<RunRecord>,
    /// When this replica next checks whether a run is due
    next_run: Option<Timestamp>,
    /// What only this actor has: the cache of `pool-manager`, the circuit breaker of `csp-sync` and `cleanup`
    details: Option<Value>,
}

impl From<actor::ActorStatus> for ActorStatus {
    fn from(actor: actor::ActorStatus) -> Self {
        Self {
            name: actor.name.into(),
            status: actor.status.into(),
            desired_state: actor.desired_state.into(),
            control: actor.control.map(Control::from),
            leader: actor.leader.map(ReplicaId::from),
            running_since: actor.running_since.map(Timestamp::from),
            iteration: actor.iteration,
            last_run: actor.last_run.map(RunRecord::from),
            next_run: actor.next_run.map(Timestamp::from),
            details: actor.details,
        }
    }
}

/// All actors
#[derive(Serialize, ToSchema)]
pub(crate) struct ActorList {
    actors: Vec<ActorStatus>,
}

impl From<Vec<actor::ActorStatus>> for ActorList {
    fn from(actors: Vec<actor::ActorStatus>) -> Self {
        Self { actors: actors.into_iter().map(ActorStatus::from).collect() }
    }
}

/// The state of the circuit breaker in front of the cloud provider
///
/// `closed`: calls go through. `open`: calls are refused. `half_open`: one call goes through as a probe.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl From<breaker::BreakerState> for BreakerState {
    fn from(state: breaker::BreakerState) -> Self {
        match state {
            breaker::BreakerState::Closed => Self::Closed,
            breaker::BreakerState::Open => Self::Open,
            breaker::BreakerState::HalfOpen => Self::HalfOpen,
        }
    }
}

/// The circuit breaker in front of the cloud provider
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BreakerSnapshot {
    state: BreakerState,
    /// Calls that failed in a row
    consecutive_failures: u32,
    /// Seconds until a probe goes through, while it is open
    retry_in_seconds: Option<u64>,
    /// Seconds for which no call is made, because the cloud provider asked for that (`Retry-After`)
    silent_for_seconds: Option<u64>,
}

impl From<breaker::BreakerSnapshot> for BreakerSnapshot {
    fn from(snapshot: breaker::BreakerSnapshot) -> Self {
        let breaker::BreakerSnapshot { state, consecutive_failures, retry_in_seconds, silent_for_seconds } = snapshot;
        Self { state: state.into(), consecutive_failures, retry_in_seconds, silent_for_seconds }
    }
}

impl ActorStatus {
    pub(crate) fn running_example() -> Self {
        sync_example().into()
    }

    pub(crate) fn paused_example() -> Self {
        let control = actor::Control {
            actor: actor::ActorName::Cleanup,
            desired_state: actor::DesiredState::Paused,
            reason: "freeze deletions until 14:00".to_owned(),
            requested_by: "anna@192.0.2.7".to_owned(),
            updated_at: EXAMPLE_NOW,
        };
        let paused = actor::ActorStatus {
            name: actor::ActorName::Cleanup,
            status: actor::Activity::Paused,
            desired_state: actor::DesiredState::Paused,
            control: Some(control),
            iteration: 3,
            next_run: None,
            last_run: None,
            ..sync_example()
        };
        paused.into()
    }
}

impl ActorList {
    pub(crate) fn example() -> Self {
        Self { actors: vec![ActorStatus::running_example(), ActorStatus::paused_example()] }
    }
}

impl BreakerSnapshot {
    pub(crate) fn example() -> Self {
        Self { state: BreakerState::Closed, consecutive_failures: 0, retry_in_seconds: None, silent_for_seconds: None }
    }
}

/// An idle csp-sync with one run.
pub(crate) fn sync_example() -> actor::ActorStatus {
    let replica = sandbox::ReplicaId::new("broker-1");
    actor::ActorStatus {
        name: actor::ActorName::CspSync,
        status: actor::Activity::Idle,
        desired_state: actor::DesiredState::Running,
        control: None,
        leader: Some(replica.clone()),
        running_since: None,
        iteration: 17,
        last_run: Some(actor::RunRecord {
            replica,
            started_at: EXAMPLE_NOW,
            duration_ms: 412,
            report: serde_json::to_value(SyncReport::example()).ok(),
            error: None,
        }),
        next_run: Some(EXAMPLE_NOW.plus(Duration::from_secs(300))),
        details: Some(json!({ "circuit_breaker": BreakerSnapshot::example() })),
    }
}
