//! What replicas share besides job leases: operators' commands, read every few seconds, and the list of live replicas,
//! on which the candidate order depends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::actor::{Activity, ActorName, ActorStatus, Control, DesiredState};
use crate::error::Chain;
use crate::guarded_csp::GuardedCsp;
use crate::jobs::cleanup::Cleanup;
use crate::jobs::csp_sync::CspSync;
use crate::jobs::expiry_reaper::Reaper;
use crate::jobs::expiry_timers::ExpiryTimers;
use crate::jobs::pool_stats::PoolStats;
use crate::jobs::stale_collector::StaleCollector;
use crate::jobs::{JobControl, JobHandle};
use crate::liveness::LivenessGuard;
use crate::pool::Pool;
use crate::ports::{Clock, SandboxStore, StoreError};
use crate::sandbox::ReplicaId;
use crate::stats::StatsWatch;

/// The number of missed heartbeats after which a replica counts as dead.
const MISSED_HEARTBEATS: u32 = 3;

/// The actors of this replica.
pub(crate) struct Actors {
    pub(crate) pool: Pool,
    /// The operators' command for the pool manager.
    pub(crate) pool_control: watch::Sender<Option<Control>>,
    /// The number of completed refreshes.
    pub(crate) refreshes: watch::Receiver<u64>,
    pub(crate) timers: ExpiryTimers,
    pub(crate) csp_sync: JobHandle<CspSync>,
    pub(crate) cleanup: JobHandle<Cleanup>,
    pub(crate) expiry_reaper: JobHandle<Reaper>,
    pub(crate) stale_collector: JobHandle<StaleCollector>,
    pub(crate) pool_stats: JobHandle<PoolStats>,
}

impl Actors {
    /// The driver of an actor that runs a job. A new actor does not compile until it has an arm here.
    pub(crate) fn job(&self, name: ActorName) -> Option<&dyn JobControl> {
        match name {
            ActorName::PoolManager => None,
            ActorName::CspSync => Some(&self.csp_sync),
            ActorName::Cleanup => Some(&self.cleanup),
            ActorName::ExpiryReaper => Some(&self.expiry_reaper),
            ActorName::StaleCollector => Some(&self.stale_collector),
            ActorName::PoolStats => Some(&self.pool_stats),
        }
    }

    /// Puts every actor into the state that operators want; an actor without a command runs.
    pub(crate) fn apply_controls(&self, controls: &[Control]) {
        for name in ActorName::ALL.iter().copied() {
            self.apply_control(name, controls.iter().find(|control| control.actor == name).cloned());
        }
    }

    fn apply_control(&self, name: ActorName, control: Option<Control>) {
        let is_paused = control.as_ref().is_some_and(|control| control.desired_state == DesiredState::Paused);
        metrics::gauge!("broker_actor_paused", "actor" => name.as_str()).set(f64::from(u8::from(is_paused)));
        match self.job(name) {
            Some(job) => {
                if name == ActorName::ExpiryReaper {
                    self.timers.set_paused(is_paused);
                }
                job.apply_control(control);
            }
            None => {
                self.pool.set_paused(is_paused);
                self.pool_control.send_replace(control);
            }
        }
    }

    async fn pool_status(&self) -> ActorStatus {
        let mut status = ActorStatus::dead(ActorName::PoolManager);
        let Some(snapshot) = self.pool.snapshot().await else { return status };
        status.status = if snapshot.paused { Activity::Paused } else { Activity::Idle };
        status.control = self.pool_control.borrow().clone();
        status.desired_state = status.control.as_ref().map_or(DesiredState::Running, |control| control.desired_state);
        status.iteration = *self.refreshes.borrow();
        status.details = serde_json::to_value(snapshot).ok();
        status
    }
}

/// This replica as a member of the cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) csp: Arc<GuardedCsp>,
    pub(crate) replica: ReplicaId,
    pub(crate) actors: Arc<Actors>,
    pub(crate) stats: StatsWatch,
    /// The time from one look at the operators' commands to the next.
    pub(crate) control_poll: Duration,
    pub(crate) heartbeat_interval: Duration,
}

impl Cluster {
    /// Reads what all replicas share and applies it.
    async fn apply_state(&self) -> Result<(), StoreError> {
        let state = self.store.cluster_state().await?;
        self.actors.apply_controls(&state.controls);
        if self.stats.update(state.stats, &self.csp) {
            self.actors.pool.request_refresh_of_own();
        }
        Ok(())
    }

    /// Stores a command for one actor, on every replica, and applies it here.
    pub(crate) async fn command(
        &self,
        actor: ActorName,
        desired_state: DesiredState,
        reason: &str,
        requested_by: &str,
    ) -> Result<ActorStatus, StoreError> {
        let (reason, requested_by) = (reason.to_owned(), requested_by.to_owned());
        let mut control = Control { actor, desired_state, reason, requested_by, updated_at: self.clock.now() };
        // The last command counts, also when the replica that stored the one before has a clock that is ahead.
        while let Some(newer) = self.store.put_control(&control).await? {
            control.updated_at = newer;
        }
        self.actors.apply_control(actor, Some(control));
        self.status(actor).await
    }

    /// The status of one actor, with what the job's lease says about other replicas.
    pub(crate) async fn status(&self, name: ActorName) -> Result<ActorStatus, StoreError> {
        let mut status = self.local_status(name).await;
        if self.actors.job(name).is_some()
            && let Some(lease) = self.store.read_lease(name).await?
        {
            status.last_run = lease.record().or(status.last_run);
            status.leader = Some(lease.holder);
        }
        Ok(status)
    }

    /// The status of one actor, as far as this replica knows it. Its last look at the lease, when a run was due, showed
    /// what other replicas did.
    pub(crate) async fn local_status(&self, name: ActorName) -> ActorStatus {
        let Some(job) = self.actors.job(name) else { return self.actors.pool_status().await };
        let mut status = job.status().await.unwrap_or_else(|| ActorStatus::dead(name));
        if matches!(name, ActorName::CspSync | ActorName::Cleanup) {
            status.details = Some(serde_json::json!({ "circuit_breaker": self.csp.snapshot() }));
        }
        status
    }

    /// Applies commands and counts, and sends heartbeats, until the broker stops.
    pub(crate) async fn run(self, stop: CancellationToken, _liveness: LivenessGuard) {
        let mut heartbeat_at = Instant::now() + self.heartbeat_interval;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(self.control_poll) => {}
            }
            if let Err(error) = self.apply_state().await {
                tracing::warn!(event = "cluster_state_unreadable", error = %Chain(&error), "commands were not read");
            }
            if Instant::now() >= heartbeat_at {
                self.send_heartbeat().await;
                heartbeat_at = Instant::now() + self.heartbeat_interval;
            }
        }
    }

    /// Keeps this replica listed and learns which others are live.
    pub(crate) async fn send_heartbeat(&self) {
        let now = self.clock.now();
        let until = now.plus(self.heartbeat_interval * MISSED_HEARTBEATS);
        match self.store.heartbeat(&self.replica, now, until).await {
            Ok(live) => self.actors.pool.set_replicas(live),
            Err(error) => tracing::warn!(event = "heartbeat_failed", error = %Chain(&error), "heartbeat failed"),
        }
    }

    /// Ends all jobs, gives their leases back and removes this replica from the list.
    pub(crate) async fn leave(&self) {
        let jobs = ActorName::ALL.iter().filter_map(|name| self.actors.job(*name));
        join_all(jobs.map(JobControl::stop)).await;
        if let Err(error) = self.store.leave(&self.replica).await {
            let error = Chain(&error);
            tracing::warn!(event = "leave_failed", %error, "this replica stays listed until its heartbeat expires");
        }
    }
}
