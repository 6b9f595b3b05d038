//! One allocation: take a candidate, claim it, answer. Release, renewal and read stand beside it.

use crate::ports::StoreError;
use crate::sandbox::{Claim, IdempotencyKey, Sandbox, SandboxId, Timestamp, TrackId};
use std::time::Duration;

/// What a track asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateRequest {
    /// Who asks.
    pub track: TrackId,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// Which of the track's intents this is.
    pub key: IdempotencyKey,
    /// Only sandboxes whose name starts so.
    pub name_prefix: Option<String>,
}

/// What a track got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// What it holds.
    pub claim: Claim,
    /// Whether it held it before this request.
    pub replayed: bool,
}

/// Why a track got nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AllocateError {
    /// The pool had none that fits at some moment during the request (I4).
    #[error("no sandboxes available")]
    NoneAvailable,
    /// An operator has paused the pool manager.
    #[error("allocation is paused")]
    Paused,
    /// The budget of one allocation ran out.
    #[error("the allocation took longer than {} ms", budget.as_millis())]
    TimedOut {
        /// The budget.
        budget: Duration,
    },
    /// The broker is stopping, or its pool manager is dead.
    #[error("the broker is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A sandbox that its owner has given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Which sandbox.
    pub sandbox_id: SandboxId,
    /// When it was given back first.
    pub deletion_requested_at: Timestamp,
}

/// Why a track may not act on a sandbox.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no such sandbox, or no longer.
    #[error("no sandbox has the id {0}")]
    NotFound(SandboxId),
    /// Another track holds it, or nobody does.
    #[error("the sandbox {0} does not belong to this track")]
    NotOwner(SandboxId),
    /// It is not in a state that allows this.
    #[error(transparent)]
    Refused(#[from] crate::sandbox::Refused),
    /// Others keep changing it; try again.
    #[error("the sandbox {0} keeps changing")]
    Contended(SandboxId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Allocates, renews, reads and releases.
#[derive(Clone, Debug)]
pub struct Allocator {}

impl Allocator {
    /// Gives the track a sandbox: the one its key already holds, or a new one.
    pub async fn allocate(&self, _request: AllocateRequest) -> Result<Allocation, AllocateError> {
        unimplemented!()
    }

    /// Gives a sandbox back.
    pub async fn release(&self, _sandbox_id: &SandboxId, _track: &TrackId) -> Result<Released, AccessError> {
        unimplemented!()
    }

    /// Holds a sandbox for another full lab duration from now.
    pub async fn renew(&self, _sandbox_id: &SandboxId, _track: &TrackId) -> Result<Claim, AccessError> {
        unimplemented!()
    }

    /// Reads a sandbox that the track holds or has given back.
    pub async fn read(&self, _sandbox_id: &SandboxId, _track: &TrackId) -> Result<Sandbox, AccessError> {
        unimplemented!()
    }
}
