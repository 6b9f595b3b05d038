//! What an owner holds: the claim item beside the sandbox.

use super::{Epoch, IdempotencyKey, Owner, OwnerProof, Sandbox, SandboxId, Status, Timestamp, TrackId};

/// The key of a claim item. At most one claim exists under it (I2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The owner.
    pub track: TrackId,
    /// The owner's key.
    pub key: IdempotencyKey,
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
            epoch: sandbox.epoch,
        })
    }
}
