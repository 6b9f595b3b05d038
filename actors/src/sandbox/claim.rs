//! What an owner holds: the claim item beside the sandbox.

use serde::Serialize;

use super::{Epoch, IdempotencyKey, Owner, OwnerProof, Sandbox, SandboxId, Status, Timestamp, TrackId, fnv1a};

/// The key of a claim item. At most one claim exists under it (I2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The owner.
    pub track: TrackId,
    /// The owner's key.
    pub key: IdempotencyKey,
}

impl ClaimKey {
    /// A hash that never changes: it spreads tickets over the shards of the queue, and waits over time.
    pub fn hash(&self) -> u64 {
        fnv1a(self.track.as_str().bytes().chain(*b"#").chain(self.key.as_str().bytes()))
    }
}

/// How long a lab takes, and since when its time runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct LabTime {
    /// The lab's length in seconds; `None` in holdings that were stored without it.
    pub lab_seconds: Option<u64>,
    /// The holding waits for its learner: the lab's time does not run yet.
    pub standby: bool,
    /// When the learner of a standby came.
    pub activated_at: Option<Timestamp>,
}

/// Who claims a sandbox, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The owner.
    pub owner: Owner,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// The owner's key for this claim.
    pub key: IdempotencyKey,
    /// When the holding ends, without the grace period.
    pub expires_at: Timestamp,
    /// The lab's time.
    pub lab: LabTime,
}

/// A claim item. It repeats what an allocation answers, so that a replay needs no second read. It has no TTL: every way
/// out of `allocated` deletes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The owner and its key.
    pub claim_key: ClaimKey,
    /// The proof of the owner's secret, if it sent one.
    pub owner_proof: Option<OwnerProof>,
    /// The sandbox that is held.
    pub sandbox_id: SandboxId,
    /// The sandbox's name.
    pub name: String,
    /// The sandbox's path at the CSP.
    pub external_id: String,
    /// The CRM account, if the CSP names one.
    pub sfdc_account_id: Option<String>,
    /// When the holding started.
    pub allocated_at: Timestamp,
    /// When the holding ends, without the grace period.
    pub expires_at: Timestamp,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// The lab's time.
    pub lab: LabTime,
    /// The sandbox's epoch while it is held.
    pub epoch: Epoch,
}

impl Claim {
    /// The claim that belongs to a sandbox; `None` if the sandbox is not allocated.
    pub fn held(sandbox: &Sandbox) -> Option<Self> {
        if sandbox.status != Status::Allocated {
            return None;
        }
        Some(Self {
            claim_key: ClaimKey { track: sandbox.allocated_to_track.clone()?, key: sandbox.idempotency_key.clone()? },
            owner_proof: sandbox.owner_proof.clone(),
            sandbox_id: sandbox.sandbox_id.clone(),
            name: sandbox.name.clone(),
            external_id: sandbox.external_id.clone(),
            sfdc_account_id: sandbox.sfdc_account_id.clone(),
            allocated_at: sandbox.allocated_at,
            expires_at: sandbox.expires_at?,
            track_name: sandbox.track_name.clone(),
            lab: sandbox.lab,
            epoch: sandbox.epoch,
        })
    }
}
