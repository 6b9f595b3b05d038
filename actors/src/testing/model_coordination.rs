//! Leases, commands, counts and heartbeats of the model store.

use async_trait::async_trait;

use super::model_store::{ModelStore, throttled};
use crate::actor::{ActorName, Control};
use crate::ports::{
    ClusterState, Coordination, HEARTBEAT_AHEAD, JobLease, LeaseOutcome, LeaseRequest, Stats, StoreError, StoredStats,
};
use crate::sandbox::{ReplicaId, Timestamp};

#[async_trait]
impl Coordination for ModelStore {
    async fn acquire_lease(&self, request: &LeaseRequest) -> Result<LeaseOutcome, StoreError> {
        let LeaseRequest { job, holder, until, stale, due } = request.clone();
        self.write("acquire_lease", throttled(), move |contents| {
            let current = contents.leases.get(&job).cloned();
            if let Some(current) = &current {
                let is_stale =
                    stale.is_some_and(|stale| is_same_term(current, &stale) && current.expires_at == stale.expires_at);
                let is_due = due.is_none_or(|due| {
                    current.ran_at.is_none_or(|ran_at| ran_at <= due.ran_until || ran_at > due.not_after)
                });
                if (current.is_held() && !is_stale) || !is_due {
                    return LeaseOutcome::Refused(current.clone());
                }
            }
            let (term, ran_at, last_run) =
                current.map_or((1, None, None), |current| (current.term + 1, current.ran_at, current.last_run));
            let lease = JobLease { job, holder, expires_at: until, term, ran_at, last_run };
            contents.leases.insert(job, lease.clone());
            LeaseOutcome::Acquired(lease)
        })
        .await
    }

    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write("extend_lease", throttled(), move |contents| {
            let held = contents.leases.get_mut(&lease.job).filter(|found| is_same_term(found, &lease));
            held.map(|held| held.expires_at = until).is_some()
        })
        .await
    }

    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write("release_lease", throttled(), move |contents| {
            let Some(held) = contents.leases.get_mut(&lease.job).filter(|found| is_same_term(found, &lease)) else {
                return false;
            };
            held.expires_at = Timestamp(0);
            held.ran_at = lease.ran_at.or(held.ran_at);
            held.last_run = lease.last_run.or(held.last_run.take());
            true
        })
        .await
    }

    async fn read_lease(&self, job: ActorName) -> Result<Option<JobLease>, StoreError> {
        self.read("read_lease", |contents| Ok(contents.leases.get(&job).cloned())).await
    }

    async fn put_control(&self, control: &Control) -> Result<Option<Timestamp>, StoreError> {
        let control = control.clone();
        self.write("put_control", throttled(), move |contents| {
            let current = contents.controls.get(&control.actor).map(|current| current.updated_at);
            if let Some(newer) = current.filter(|current| *current > control.updated_at) {
                return Some(newer);
            }
            contents.controls.insert(control.actor, control);
            None
        })
        .await
    }

    async fn cluster_state(&self) -> Result<ClusterState, StoreError> {
        self.read("cluster_state", |contents| {
            let controls = contents.controls.values().cloned().collect();
            Ok(ClusterState { controls, stats: contents.stats, queue: contents.queue })
        })
        .await
    }

    async fn put_stats(&self, counted_at: Timestamp, stats: &Stats) -> Result<(), StoreError> {
        let stats = *stats;
        self.write("put_stats", throttled(), move |contents| {
            contents.stats = StoredStats { counted_at: Some(counted_at), stats, ..contents.stats };
        })
        .await
    }

    async fn add_supply(&self, added: u64) -> Result<(), StoreError> {
        self.write("add_supply", throttled(), move |contents| contents.stats.supply += added).await
    }

    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError> {
        let replica = replica.clone();
        self.write("heartbeat", throttled(), move |contents| {
            contents.replicas.insert(replica, until);
            let latest = until.plus(HEARTBEAT_AHEAD);
            let live = |ends: Timestamp| now < ends && ends <= latest;
            contents.replicas.iter().filter(|(_, ends)| live(**ends)).map(|(replica, _)| replica.clone()).collect()
        })
        .await
    }

    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        let replica = replica.clone();
        self.write("leave", throttled(), move |contents| {
            contents.replicas.remove(&replica);
        })
        .await
    }
}

fn is_same_term(found: &JobLease, lease: &JobLease) -> bool {
    found.holder == lease.holder && found.term == lease.term
}
