//! The part of the table that replicas coordinate by.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::labs::{LabStats, StoredLabs};
use crate::actor::{ActorName, Control, RunRecord};
use crate::sandbox::{ReplicaId, Status, Timestamp};

/// A heartbeat that lasts this much longer than the reader's own would was sent by a clock that was ahead. It counts as
/// expired, so that a dead replica does not stay listed until that time.
pub const HEARTBEAT_AHEAD: Duration = Duration::from_secs(600);

/// The right to run one job, for a limited time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobLease {
    /// The job's actor.
    pub job: ActorName,
    /// The replica that runs the job, or ran it last.
    pub holder: ReplicaId,
    /// When the lease ends unless it is extended; 0 once it was given back.
    pub expires_at: Timestamp,
    /// Grows by one with each acquisition. It fences the holder's writes to the lease.
    pub term: u64,
    /// When the last completed or failed run ended.
    pub ran_at: Option<Timestamp>,
    /// The record of that run, as JSON.
    pub last_run: Option<String>,
}

impl JobLease {
    /// The record of the last run.
    pub fn record(&self) -> Option<RunRecord> {
        self.last_run.as_ref().and_then(|record| serde_json::from_str(record).ok())
    }

    /// Whether a replica holds it.
    pub fn is_held(&self) -> bool {
        self.expires_at > Timestamp(0)
    }
}

/// The outcome of an attempt to acquire a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// The caller holds it.
    Acquired(JobLease),
    /// Another replica holds it, or the job is not due. The lease as it is.
    Refused(JobLease),
}

/// A request for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The job's actor.
    pub job: ActorName,
    /// The replica that asks.
    pub holder: ReplicaId,
    /// The end of the lease.
    pub until: Timestamp,
    /// A lease that its holder has not changed for a lease's length. It may be taken over. No stored time decides that,
    /// because the holder's clock may be wrong; the caller has observed it on its own monotonic clock.
    pub stale: Option<JobLease>,
    /// Only if the job is due.
    pub due: Option<DueCondition>,
}

/// When a job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueCondition {
    /// The last run ended then or before.
    pub ran_until: Timestamp,
    /// The last run ended later than this: a time in the future, stamped by a clock that was ahead.
    pub not_after: Timestamp,
}

/// The number of sandboxes in each status, without tombstones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The sum of all statuses below. A standby is allocated.
    pub total: u64,
    /// Free to be handed out.
    pub available: u64,
    /// Held by a track.
    pub allocated: u64,
    /// Those of the allocated ones that wait for their learner.
    #[serde(default)]
    pub standby: u64,
    /// Waiting for deletion.
    pub pending_deletion: u64,
    /// Missing from the CSP's listing.
    pub stale: u64,
    /// Given up after deletions that failed for too long.
    pub deletion_failed: u64,
    /// Available and not old enough to be handed out.
    #[serde(default)]
    pub warming: u64,
    /// Set aside by an operator.
    #[serde(default)]
    pub quarantined: u64,
}

/// The stats item: the last count of the whole table, made by one replica for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredStats {
    /// When the count ended; `None` before the first.
    pub counted_at: Option<Timestamp>,
    /// The count.
    pub stats: Stats,
    /// Grows with each sync that made sandboxes available.
    pub supply: u64,
}

/// The queue, as a replica with waiters announced it last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredQueue {
    /// Some wait until then at least.
    pub until: Timestamp,
    /// The number of those who wait.
    pub waiting: u64,
}

/// What all replicas read every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// The operators' commands. An actor without a command is absent.
    pub controls: Vec<Control>,
    /// The stats item.
    pub stats: StoredStats,
    /// The queue.
    pub queue: StoredQueue,
}

impl Stats {
    /// Adds sandboxes of a status. Tombstones do not count.
    pub fn add(&mut self, status: Status, is_warming: bool, count: u64) {
        let of_status = match status {
            Status::Available if is_warming => &mut self.warming,
            Status::Available => &mut self.available,
            Status::Allocated => &mut self.allocated,
            Status::PendingDeletion => &mut self.pending_deletion,
            Status::Stale => &mut self.stale,
            Status::DeletionFailed => &mut self.deletion_failed,
            Status::Quarantined => &mut self.quarantined,
            Status::Deleted => return,
        };
        *of_status += count;
        self.total += count;
    }
}

/// A count of the whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The sandboxes by status.
    pub stats: Stats,
    /// The labs with the most sandboxes, the largest first.
    pub labs: Vec<LabStats>,
}

/// The part of the table that replicas coordinate by: job leases, operators' commands, the stats item, the list of live
/// replicas. One request for each method unless it says otherwise.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Acquires a lease that no replica holds, or a stale one; see [`LeaseRequest`].
    async fn acquire_lease(&self, request: &LeaseRequest) -> Result<LeaseOutcome, StoreError>;

    /// Extends a lease; `false` if this holder lost it.
    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError>;

    /// Gives a lease back, with `ran_at` and `last_run`; `false` if this holder lost it.
    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError>;

    /// Reads the lease of `job`; `None` if the job never ran.
    async fn read_lease(&self, job: ActorName) -> Result<Option<JobLease>, StoreError>;

    /// Stores a command, unless a newer one is stored: then returns the time of that one.
    async fn put_control(&self, control: &Control) -> Result<Option<Timestamp>, StoreError>;

    /// Reads the commands and the stats item, eventually consistent.
    async fn cluster_state(&self) -> Result<ClusterState, StoreError>;

    /// Stores a count.
    async fn put_stats(&self, counted_at: Timestamp, stats: &Stats) -> Result<(), StoreError>;

    /// Stores the figures of the labs.
    async fn put_labs(&self, counted_at: Timestamp, labs: &[LabStats]) -> Result<(), StoreError>;

    /// Reads the figures of the labs.
    async fn labs(&self) -> Result<StoredLabs, StoreError>;

    /// Raises the supply counter of the stats item.
    async fn add_supply(&self, added: u64) -> Result<(), StoreError>;

    /// Keeps `replica` listed until `until`, returns the replicas listed at `now`, without those of [`HEARTBEAT_AHEAD`], and
    /// removes those that are long dead. Two requests, and one for each removal.
    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError>;

    /// Removes `replica` from the list.
    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError>;
}
