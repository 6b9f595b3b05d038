//! Start order, handles, drain order.

use std::time::Duration;

use serde::Serialize;

use crate::allocation::{AccessError, Allocator};
use crate::job::{ActorStatus, JobError};
use crate::ports::{Cursor, Listing, Page, StoreError};
use crate::sandbox::{SandboxId, Status};

/// How many sandboxes are in each state; tombstones count nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The sum of all below.
    pub total: u64,
    /// Free.
    pub available: u64,
    /// Held.
    pub allocated: u64,
    /// Waiting for deletion.
    pub pending_deletion: u64,
    /// Vanished from the CSP.
    pub stale: u64,
    /// Could not be deleted.
    pub deletion_failed: u64,
}

/// What a sync did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// Sandboxes in the CSP's listing.
    pub synced: u64,
    /// New ones, now available.
    pub added: u64,
    /// Stale ones that are back.
    pub revived: u64,
    /// Available ones that vanished.
    pub marked_stale: u64,
    /// deletion_failed ones that vanished, now tombstones.
    pub confirmed_deleted: u64,
    /// Allocated ones that vanished; left alone.
    pub allocated_missing: u64,
    /// Records of the CSP that lack what is kept.
    pub skipped: u64,
    /// Whether this only tells what would be done.
    pub dry_run: bool,
}

/// What a cleanup run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CleanupReport {
    /// Deleted at the CSP, or gone there already.
    pub deleted: u64,
    /// Failed, to be tried again.
    pub failed: u64,
    /// Failed for the last time.
    pub gave_up: u64,
    /// Not yet due for their next attempt.
    pub waiting: u64,
}

/// What an expiry sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExpiryReport {
    /// Holdings ended.
    pub expired: u64,
}

/// What a run of the stale collector, or a bulk delete, did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiscardReport {
    /// Turned into tombstones.
    pub deleted: u64,
}

/// How a sync is asked for by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncOptions {
    /// Tell the differences, write nothing.
    pub dry_run: bool,
    /// Do it even if the mass-stale guard objects.
    pub force: bool,
}

/// Why an actor did not obey.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ActorError {
    /// There is no such actor.
    #[error("no actor has the name `{0}`")]
    Unknown(String),
    /// It cannot do that.
    #[error("{0}")]
    NotApplicable(&'static str),
    /// The run failed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The running broker: what the HTTP side talks to.
#[derive(Clone, Debug)]
pub struct Broker {}

impl Broker {
    /// Allocation, release, renewal, read.
    pub fn allocator(&self) -> &Allocator {
        unimplemented!()
    }

    /// Counts the sandboxes of each state in the table.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        unimplemented!()
    }

    /// Lists one page of sandboxes of one status, or of all of them when `status` is `None` (tombstones excepted).
    pub async fn sandboxes(
        &self,
        _status: Option<Status>,
        _limit: u32,
        _after: Option<Cursor>,
    ) -> Result<Page, StoreError> {
        let _: Option<Listing> = None;
        unimplemented!()
    }

    /// Syncs now. A refusal of the guard is `JobError::GuardRefused`; an open breaker `JobError::Csp(BreakerOpen)`.
    pub async fn sync(&self, _options: SyncOptions) -> Result<SyncReport, JobError> {
        unimplemented!()
    }

    /// Cleans up now.
    pub async fn cleanup(&self) -> Result<CleanupReport, JobError> {
        unimplemented!()
    }

    /// Sweeps expired holdings now.
    pub async fn expire(&self) -> Result<ExpiryReport, JobError> {
        unimplemented!()
    }

    /// Collects stale sandboxes now, with this grace period or the configured one.
    pub async fn delete_stale(&self, _grace: Option<Duration>) -> Result<DiscardReport, JobError> {
        unimplemented!()
    }

    /// Turns all sandboxes of a status (stale or deletion_failed) into tombstones, without a call to the CSP.
    pub async fn bulk_delete(&self, _status: Status) -> Result<DiscardReport, AccessError> {
        unimplemented!()
    }

    /// Ends a holding in its owner's stead.
    pub async fn force_release(&self, _sandbox_id: &SandboxId) -> Result<crate::sandbox::Sandbox, AccessError> {
        unimplemented!()
    }

    /// Puts a deletion_failed sandbox back to pending_deletion.
    pub async fn retry_deletion(&self, _sandbox_id: &SandboxId) -> Result<crate::sandbox::Sandbox, AccessError> {
        unimplemented!()
    }

    /// All actors.
    pub async fn actors(&self) -> Result<Vec<ActorStatus>, StoreError> {
        unimplemented!()
    }

    /// One actor.
    pub async fn actor(&self, _name: &str) -> Result<ActorStatus, ActorError> {
        unimplemented!()
    }

    /// Pauses an actor on every replica.
    pub async fn pause(&self, _name: &str, _reason: &str, _by: &str) -> Result<ActorStatus, ActorError> {
        unimplemented!()
    }

    /// Lets an actor work again, on every replica.
    pub async fn resume(&self, _name: &str, _by: &str) -> Result<ActorStatus, ActorError> {
        unimplemented!()
    }

    /// Runs an actor's job now and waits for its end.
    pub async fn run(&self, _name: &str) -> Result<ActorStatus, ActorError> {
        unimplemented!()
    }

    /// What keeps this replica from serving, check by check; `Ok` checks included.
    pub async fn checks(&self) -> Vec<(&'static str, Result<(), String>)> {
        unimplemented!()
    }
}
