//! Sandboxes and their counts.

use std::time::Duration;

use broker_actors::allocation::held;
use broker_actors::{sandbox, stats};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{EXAMPLE_NOW, Epoch, IdempotencyKey, SandboxId, Timestamp, TrackId};
use crate::audit;

/// The state of a sandbox
///
/// `available`: free to be allocated. `allocated`: held by a track. `pending_deletion`: released or expired, not yet
/// deleted at the cloud provider. `stale`: missing from the cloud provider's listing. `deletion_failed`: its deletion was
/// given up; it is attempted once a day. `quarantined`: set aside by an operator, neither allocated nor deleted. `deleted`:
/// gone; the record is kept for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Available,
    Allocated,
    PendingDeletion,
    Stale,
    DeletionFailed,
    Quarantined,
    Deleted,
}

impl From<sandbox::Status> for Status {
    fn from(status: sandbox::Status) -> Self {
        match status {
            sandbox::Status::Available => Self::Available,
            sandbox::Status::Allocated => Self::Allocated,
            sandbox::Status::PendingDeletion => Self::PendingDeletion,
            sandbox::Status::Stale => Self::Stale,
            sandbox::Status::DeletionFailed => Self::DeletionFailed,
            sandbox::Status::Quarantined => Self::Quarantined,
            sandbox::Status::Deleted => Self::Deleted,
        }
    }
}

impl From<Status> for sandbox::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Available => Self::Available,
            Status::Allocated => Self::Allocated,
            Status::PendingDeletion => Self::PendingDeletion,
            Status::Stale => Self::Stale,
            Status::DeletionFailed => Self::DeletionFailed,
            Status::Quarantined => Self::Quarantined,
            Status::Deleted => Self::Deleted,
        }
    }
}

/// A sandbox, as its owner uses it
#[derive(Serialize, ToSchema)]
pub(crate) struct Claim {
    sandbox_id: SandboxId,
    /// The name for people
    name: String,
    /// The account's path at the cloud provider, `identity/accounts/<uuid>`
    external_id: String,
    /// When the holding started
    allocated_at: Timestamp,
    /// When the holding ends
    expires_at: Option<Timestamp>,
    /// The CRM account; absent if the cloud provider names none
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sfdc_account_id: Option<String>,
    /// True while the sandbox waits for its learner; absent otherwise
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    standby: Option<bool>,
}

impl From<sandbox::Claim> for Claim {
    fn from(claim: sandbox::Claim) -> Self {
        Self {
            sandbox_id: claim.sandbox_id.into(),
            name: claim.name,
            external_id: claim.external_id,
            allocated_at: claim.allocated_at.into(),
            expires_at: Some(claim.expires_at.into()),
            sfdc_account_id: claim.sfdc_account_id,
            standby: claim.lab.standby.then_some(true),
        }
    }
}

/// A sandbox of the calling track, with its state
#[derive(Serialize, ToSchema)]
pub(crate) struct OwnSandbox {
    #[serde(flatten)]
    claim: Claim,
    status: Status,
    /// The owner
    allocated_to_track: Option<TrackId>,
    /// The lab's slug
    track_name: Option<String>,
    /// Whether the account of an allocated sandbox is missing at the cloud provider; absent if it was read by its key
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    gone_at_provider: Option<bool>,
}

impl From<sandbox::Sandbox> for OwnSandbox {
    fn from(sandbox: sandbox::Sandbox) -> Self {
        Self {
            claim: Claim {
                sandbox_id: sandbox.sandbox_id.into(),
                name: sandbox.name,
                external_id: sandbox.external_id,
                allocated_at: sandbox.allocated_at.into(),
                expires_at: sandbox.expires_at.map(Timestamp::from),
                sfdc_account_id: sandbox.sfdc_account_id,
                standby: sandbox.lab.standby.then_some(true),
            },
            status: sandbox.status.into(),
            allocated_to_track: sandbox.allocated_to_track.map(TrackId::from),
            track_name: sandbox.track_name,
            gone_at_provider: Some(sandbox.gone_at_provider),
        }
    }
}

impl From<sandbox::Claim> for OwnSandbox {
    fn from(claim: sandbox::Claim) -> Self {
        Self {
            status: Status::Allocated,
            allocated_to_track: Some(claim.claim_key.track.clone().into()),
            track_name: claim.track_name.clone(),
            gone_at_provider: None,
            claim: claim.into(),
        }
    }
}

/// A renewed holding
#[derive(Serialize, ToSchema)]
pub(crate) struct Renewed {
    #[serde(flatten)]
    claim: Claim,
    /// Whether the longest holding cut the renewal short
    capped: bool,
}

impl From<held::Renewed> for Renewed {
    fn from(renewed: held::Renewed) -> Self {
        Self { claim: renewed.claim.into(), capped: renewed.capped }
    }
}

/// What a key gave back
#[derive(Serialize, ToSchema)]
pub(crate) struct ReleasedHeld {
    /// Whether this call gave something back: a sandbox, or a place in the queue
    released: bool,
    /// The sandbox that was given back
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sandbox_id: Option<SandboxId>,
    /// Always `pending_deletion`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    status: Option<Status>,
}

impl From<held::ReleasedHeld> for ReleasedHeld {
    fn from(answer: held::ReleasedHeld) -> Self {
        Self {
            released: answer.released,
            status: answer.sandbox_id.as_ref().map(|_| Status::PendingDeletion),
            sandbox_id: answer.sandbox_id.map(SandboxId::from),
        }
    }
}

/// A sandbox that was given back
#[derive(Serialize, ToSchema)]
pub(crate) struct Released {
    sandbox_id: SandboxId,
    /// Always `pending_deletion`
    status: Status,
    /// When it was first given back
    deletion_requested_at: Timestamp,
}

impl Released {
    pub(crate) fn new(sandbox_id: sandbox::SandboxId, deletion_requested_at: sandbox::Timestamp) -> Self {
        Self {
            sandbox_id: sandbox_id.into(),
            status: Status::PendingDeletion,
            deletion_requested_at: deletion_requested_at.into(),
        }
    }
}

/// A sandbox, as operators see it
#[derive(Serialize, ToSchema)]
pub(crate) struct Sandbox {
    sandbox_id: SandboxId,
    /// The name for people. Its prefix selects a kind of sandbox
    name: String,
    /// The account's path at the cloud provider, `identity/accounts/<uuid>`
    external_id: String,
    /// The CRM account; absent if the cloud provider names none
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sfdc_account_id: Option<String>,
    status: Status,
    /// Another account that the cloud provider lists under the same id; it is deleted too
    replaced_by: Option<String>,
    /// Whether the account of an allocated sandbox is missing at the cloud provider
    gone_at_provider: bool,
    /// From when on it may be allocated, if its account was too young when it was found
    available_from: Option<Timestamp>,
    /// When it was last allocated; 0 if never
    allocated_at: Timestamp,
    /// When the holding ends, without the grace period
    expires_at: Option<Timestamp>,
    /// Whether it is held for a learner who has not come yet
    standby: bool,
    /// When the lab of a sandbox that was on standby started
    activated_at: Option<Timestamp>,
    /// The owner, or the last owner of a released sandbox
    allocated_to_track: Option<TrackId>,
    /// The lab's slug
    track_name: Option<String>,
    /// The idempotency key of the allocation
    idempotency_key: Option<IdempotencyKey>,
    /// When it was released or expired
    deletion_requested_at: Option<Timestamp>,
    /// The number of failed deletions
    deletion_retry_count: u32,
    /// When the first of these deletions failed
    deletion_failing_since: Option<Timestamp>,
    /// The earliest time of the next attempt to delete it
    next_attempt_at: Option<Timestamp>,
    /// The error of the last failed deletion
    last_error: Option<String>,
    /// It is not deleted before this time
    freeze_until: Option<Timestamp>,
    /// Why it is quarantined
    quarantine_reason: Option<String>,
    /// Who quarantined it
    quarantined_by: Option<String>,
    /// When it was deleted
    deleted_at: Option<Timestamp>,
    /// When the record of a deleted sandbox may be removed
    ttl: Option<Timestamp>,
    /// When the account was created at the cloud provider or, if that is unknown, when it was first seen
    created_at: Timestamp,
    /// When the record last changed
    updated_at: Timestamp,
    /// When csp-sync last wrote the record
    last_synced: Timestamp,
    epoch: Epoch,
}

impl From<sandbox::Sandbox> for Sandbox {
    fn from(sandbox: sandbox::Sandbox) -> Self {
        Self {
            sandbox_id: sandbox.sandbox_id.into(),
            name: sandbox.name,
            external_id: sandbox.external_id,
            sfdc_account_id: sandbox.sfdc_account_id,
            status: sandbox.status.into(),
            replaced_by: sandbox.replaced_by,
            gone_at_provider: sandbox.gone_at_provider,
            available_from: sandbox.available_from.map(Timestamp::from),
            allocated_at: sandbox.allocated_at.into(),
            expires_at: sandbox.expires_at.map(Timestamp::from),
            standby: sandbox.lab.standby,
            activated_at: sandbox.lab.activated_at.map(Timestamp::from),
            allocated_to_track: sandbox.allocated_to_track.map(TrackId::from),
            track_name: sandbox.track_name,
            idempotency_key: sandbox.idempotency_key.map(IdempotencyKey::from),
            deletion_requested_at: sandbox.deletion_requested_at.map(Timestamp::from),
            deletion_retry_count: sandbox.deletion_retry_count,
            deletion_failing_since: sandbox.deletion_failing_since.map(Timestamp::from),
            next_attempt_at: sandbox.next_attempt_at.map(Timestamp::from),
            last_error: sandbox.last_error,
            freeze_until: sandbox.freeze_until.map(Timestamp::from),
            quarantine_reason: sandbox.quarantine_reason,
            quarantined_by: sandbox.quarantined_by,
            deleted_at: sandbox.deleted_at.map(Timestamp::from),
            ttl: sandbox.ttl.map(Timestamp::from),
            created_at: sandbox.created_at.into(),
            updated_at: sandbox.updated_at.into(),
            last_synced: sandbox.last_synced.into(),
            epoch: sandbox.epoch.into(),
        }
    }
}

/// A sandbox, with its last changes
#[derive(Serialize, ToSchema)]
pub(crate) struct SandboxDetails {
    #[serde(flatten)]
    sandbox: Sandbox,
    /// The last move to each state, in the order of time. Who moved it: an actor, `owner`, or an operator
    history: Vec<Change>,
}

/// A move of a sandbox to another state
#[derive(Serialize, ToSchema)]
pub(crate) struct Change {
    at: Timestamp,
    to: Status,
    /// Who moved it; the first 24 bytes of a longer name
    by: String,
}

impl SandboxDetails {
    pub(crate) fn new(sandbox: sandbox::Sandbox, history: Vec<audit::Change>) -> Self {
        let change = |audit::Change { at, to, by }| Change { at: at.into(), to: to.into(), by };
        Self { sandbox: sandbox.into(), history: history.into_iter().map(change).collect() }
    }

    pub(crate) fn example() -> Self {
        let sandbox = allocated_example();
        let claimed = audit::Change { at: sandbox.allocated_at, to: sandbox.status, by: "owner".to_owned() };
        Self::new(sandbox, vec![claimed])
    }
}

/// A page of sandboxes
#[derive(Serialize, ToSchema)]
pub(crate) struct SandboxPage {
    sandboxes: Vec<Sandbox>,
    /// The number of sandboxes on this page
    count: usize,
    /// Where the next page starts; null on the last page
    cursor: Option<String>,
}

impl SandboxPage {
    pub(crate) fn new(sandboxes: Vec<sandbox::Sandbox>, cursor: Option<String>) -> Self {
        let sandboxes: Vec<_> = sandboxes.into_iter().map(Sandbox::from).collect();
        Self { count: sandboxes.len(), sandboxes, cursor }
    }
}

/// The number of sandboxes in each state, without deleted ones
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stats {
    /// The sum of all states below; `standby` is a part of `allocated`
    total: u64,
    /// Free to be allocated
    available: u64,
    /// Held by a track
    allocated: u64,
    /// Those of the allocated ones that wait for their learner
    standby: u64,
    /// Waiting for their deletion at the cloud provider
    pending_deletion: u64,
    /// Missing from the cloud provider's listing
    stale: u64,
    /// Their deletions failed for too long and were given up
    deletion_failed: u64,
    /// Available and not old enough to be allocated; not counted as available
    warming: u64,
    /// Set aside by an operator
    quarantined: u64,
}

impl From<stats::Stats> for Stats {
    fn from(stats: stats::Stats) -> Self {
        let stats::Stats {
            total,
            available,
            allocated,
            standby,
            pending_deletion,
            stale,
            deletion_failed,
            warming,
            quarantined,
        } = stats;
        Self { total, available, allocated, standby, pending_deletion, stale, deletion_failed, warming, quarantined }
    }
}

impl Claim {
    pub(crate) fn example() -> Self {
        OwnSandbox::example().claim
    }
}

impl OwnSandbox {
    pub(crate) fn example() -> Self {
        allocated_example().into()
    }
}

impl Renewed {
    pub(crate) fn example() -> Self {
        Self { claim: Claim::example(), capped: false }
    }
}

impl ReleasedHeld {
    pub(crate) fn example() -> Self {
        held::ReleasedHeld { released: true, sandbox_id: Some(allocated_example().sandbox_id) }.into()
    }
}

impl Released {
    pub(crate) fn example() -> Self {
        Self::new(allocated_example().sandbox_id, EXAMPLE_NOW)
    }
}

impl Sandbox {
    pub(crate) fn allocated_example() -> Self {
        allocated_example().into()
    }

    pub(crate) fn released_example() -> Self {
        after(&allocated_example(), sandbox::Event::Release).into()
    }
}

impl SandboxPage {
    pub(crate) fn example() -> Self {
        Self::new(vec![allocated_example()], Some("allocated.ZXhhbXBsZQ".to_owned()))
    }
}

impl Stats {
    pub(crate) fn example() -> Self {
        Self {
            total: 400,
            available: 250,
            allocated: 140,
            standby: 30,
            pending_deletion: 5,
            stale: 1,
            deletion_failed: 1,
            warming: 2,
            quarantined: 1,
        }
    }
}

fn allocated_example() -> sandbox::Sandbox {
    let account = sandbox::CspAccount {
        sandbox_id: sandbox::SandboxId::new("2000013"),
        name: Some("lab-00013".to_owned()),
        external_id: "identity/accounts/00000000-0000-4000-8000-000000000013".to_owned(),
        sfdc_account_id: Some("crm-00013".to_owned()),
        created_at: Some(sandbox::Timestamp(1_795_400_000)),
    };
    let holding = sandbox::Holding {
        owner: sandbox::Owner::named(sandbox::TrackId::new("student-1")),
        track_name: Some("first-steps".to_owned()),
        key: sandbox::IdempotencyKey::new("student-1"),
        expires_at: EXAMPLE_NOW.plus(Duration::from_secs(4 * 3600)),
        lab: sandbox::LabTime::default(),
    };
    after(
        &sandbox::Sandbox::discovered(&account, Duration::ZERO, sandbox::UnixMillis(1_795_400_100_000)),
        sandbox::Event::Claim(holding),
    )
}

fn after(sandbox: &sandbox::Sandbox, event: sandbox::Event) -> sandbox::Sandbox {
    sandbox.after(&sandbox::transition(sandbox.status, event, EXAMPLE_NOW).expect("the example follows the states"))
}
