//! Sandboxes: identifiers, states and the stored record.
//!
//! [`transition`](transition::transition) alone decides how a sandbox changes; [`claim`] holds what an owner has.

pub mod claim;
mod event;
pub mod owner;
pub mod transition;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::claim::{Claim, ClaimKey, Holding, LabTime};
pub use self::event::{AccountChanges, Event};
pub use self::owner::{Owner, OwnerProof};
pub use self::transition::{ConditionalUpdate, Field, Mutation, Precondition, Refused, transition};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a value that was validated where it entered (HTTP header, CSP record, table item).
            pub fn new(value: impl Into<String>) -> Self {
                Self(value.into())
            }

            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A sandbox: the CSP's numeric account id, as text.
    SandboxId
}
text_id! {
    /// A student's run of a lab. The caller that presents it owns what was allocated to it.
    TrackId
}
text_id! {
    /// One intent to allocate, unique within its track.
    IdempotencyKey
}
text_id! {
    /// One broker process, in leases, controls and logs.
    ReplicaId
}

/// A point in time, in whole seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Adds `duration`, rounded up to a whole second.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(seconds_rounded_up(duration)))
    }

    /// Subtracts `duration`, rounded up to a whole second. Stops at the Unix epoch.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(seconds_rounded_up(duration)))
    }

    /// The time from `earlier` to this moment; zero if this moment is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// A point in time, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The same moment, in whole seconds.
    pub fn seconds(self) -> Timestamp {
        Timestamp(self.0 / 1000)
    }
}

fn seconds_rounded_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// A part of the status index. Sandboxes are spread over the table's shards by their id, so that no key of the index has
/// to take all writes of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u16);

/// The number of shards of a table: 1 to 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ShardCount(u16);

impl ShardCount {
    /// The most shards of a table.
    pub const MAX: u16 = 512;

    /// This number of shards; `None` if it is 0 or more than [`Self::MAX`].
    pub fn new(count: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&count).then_some(Self(count))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// All shards.
    pub fn all(self) -> impl ExactSizeIterator<Item = Shard> + Clone {
        (0..self.0).map(Shard)
    }

    /// The shard of a sandbox: its id's FNV-1a hash modulo the number of shards. Stored in every item, so it never
    /// changes.
    pub fn shard_of(self, sandbox_id: &SandboxId) -> Shard {
        Shard((fnv1a(sandbox_id.as_str().bytes()) % u64::from(self.0)) as u16)
    }
}

fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Default for ShardCount {
    fn default() -> Self {
        Self(16)
    }
}

/// The version of a sandbox record. It grows by one with each change and fences every write (I5). It starts from the
/// clock in milliseconds, so that two records of one account never share an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a record that is created now.
    pub fn first(now: UnixMillis) -> Self {
        Self(now.0)
    }

    /// The epoch after one more change.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The state of a sandbox. A sandbox is in exactly one state at any time (I3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Free to be claimed.
    Available,
    /// Held by one owner.
    Allocated,
    /// Released or expired; the CSP has not deleted it yet.
    PendingDeletion,
    /// Missing from the CSP's listing while it was available.
    Stale,
    /// The CSP refused to delete it for so long that it was given up.
    DeletionFailed,
    /// Set aside by an operator: neither offered nor deleted.
    Quarantined,
    /// A tombstone, kept until its TTL so that a lagging CSP listing cannot bring the sandbox back.
    Deleted,
}

impl Status {
    /// Every status, tombstones last.
    pub const ALL: [Self; 7] = [
        Self::Available,
        Self::Allocated,
        Self::PendingDeletion,
        Self::Stale,
        Self::DeletionFailed,
        Self::Quarantined,
        Self::Deleted,
    ];

    /// Every status but tombstones.
    pub const LIVE: [Self; 6] =
        [Self::Available, Self::Allocated, Self::PendingDeletion, Self::Stale, Self::DeletionFailed, Self::Quarantined];

    /// The name in the table and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Allocated => "allocated",
            Self::PendingDeletion => "pending_deletion",
            Self::Stale => "stale",
            Self::DeletionFailed => "deletion_failed",
            Self::Quarantined => "quarantined",
            Self::Deleted => "deleted",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// An active sandbox account in the CSP's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CspAccount {
    /// `csp_id`, as text.
    pub sandbox_id: SandboxId,
    /// The account's name, if the CSP says it.
    pub name: Option<String>,
    /// `id`, in the form `identity/accounts/<uuid>`.
    pub external_id: String,
    /// The CRM account, if the CSP names one.
    pub sfdc_account_id: Option<String>,
    /// When the CSP created the account, if it says so.
    pub created_at: Option<Timestamp>,
}

impl CspAccount {
    /// From when on it may be handed out, unless that is now.
    pub fn available_from(&self, min_age: Duration, now: Timestamp) -> Option<Timestamp> {
        // A time in the future comes from a clock that is ahead.
        self.created_at.map(|at| at.min(now).plus(min_age)).filter(|at| *at > now)
    }
}

/// A sandbox, as the table stores it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Sandbox {
    /// The CSP's numeric account id.
    pub sandbox_id: SandboxId,
    /// The name for people. Its prefix selects a kind of sandbox.
    pub name: String,
    /// The account's path at the CSP, `identity/accounts/<uuid>`.
    pub external_id: String,
    /// The CRM account that the CSP bills, if it names one.
    pub sfdc_account_id: Option<String>,
    /// The state.
    pub status: Status,
    /// The position in the status index: since when it is available, stale, deletion_failed or quarantined, or from when
    /// on it may be handed out; when its holding ends; when its deletion is due; when its tombstone may go.
    #[serde(skip)]
    pub shard_at: Timestamp,
    /// Another account that the CSP lists under the same id. Its deletion deletes both.
    pub replaced_by: Option<String>,
    /// Whether the CSP's last listing lacks the account of a sandbox that is held.
    pub gone_at_provider: bool,
    /// From when on it may be handed out, if the account was too young when it was found.
    pub available_from: Option<Timestamp>,
    /// When it was claimed; 0 if it never was.
    pub allocated_at: Timestamp,
    /// When its holding ends, without the grace period.
    pub expires_at: Option<Timestamp>,
    /// The owner. Kept after release, so that a repeated release is recognized.
    pub allocated_to_track: Option<TrackId>,
    /// The proof of the owner's secret, if it sent one. Kept after release, like the owner.
    #[serde(skip)]
    pub owner_proof: Option<OwnerProof>,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// The lab's time, while it is held.
    pub lab: LabTime,
    /// The key of the owner's claim.
    pub idempotency_key: Option<IdempotencyKey>,
    /// When it was released or expired.
    pub deletion_requested_at: Option<Timestamp>,
    /// The number of failed deletions at the CSP.
    pub deletion_retry_count: u32,
    /// When the first of these deletions failed.
    pub deletion_failing_since: Option<Timestamp>,
    /// The earliest time of the next deletion attempt.
    pub next_attempt_at: Option<Timestamp>,
    /// The error of the last failed deletion.
    pub last_error: Option<String>,
    /// When the step before its deletion was done.
    pub niosxaas_cleaned_at: Option<Timestamp>,
    /// It is not deleted before this time, on an operator's request.
    pub freeze_until: Option<Timestamp>,
    /// Why it is quarantined.
    pub quarantine_reason: Option<String>,
    /// Who quarantined it.
    pub quarantined_by: Option<String>,
    /// When it became a tombstone.
    pub deleted_at: Option<Timestamp>,
    /// When DynamoDB may remove the item; set on tombstones only.
    pub ttl: Option<Timestamp>,
    /// When the account was created at the CSP, or else when the item was created.
    pub created_at: Timestamp,
    /// When the item last changed.
    pub updated_at: Timestamp,
    /// When csp-sync last wrote the item.
    pub last_synced: Timestamp,
    /// The version of the record.
    pub epoch: Epoch,
}

impl Sandbox {
    /// The record of an account that the CSP lists for the first time. It may be handed out once it is `min_age` old.
    pub fn discovered(account: &CspAccount, min_age: Duration, now: UnixMillis) -> Self {
        let epoch = Epoch::first(now);
        let now = now.seconds();
        let available_from = account.available_from(min_age, now);
        Self {
            sandbox_id: account.sandbox_id.clone(),
            name: account.name.clone().unwrap_or_else(|| account.sandbox_id.to_string()),
            external_id: account.external_id.clone(),
            sfdc_account_id: account.sfdc_account_id.clone(),
            status: Status::Available,
            shard_at: available_from.unwrap_or(now),
            replaced_by: None,
            gone_at_provider: false,
            available_from,
            allocated_at: Timestamp(0),
            expires_at: None,
            allocated_to_track: None,
            owner_proof: None,
            track_name: None,
            lab: LabTime::default(),
            idempotency_key: None,
            deletion_requested_at: None,
            deletion_retry_count: 0,
            deletion_failing_since: None,
            next_attempt_at: None,
            last_error: None,
            niosxaas_cleaned_at: None,
            freeze_until: None,
            quarantine_reason: None,
            quarantined_by: None,
            deleted_at: None,
            ttl: None,
            created_at: account.created_at.unwrap_or(now),
            updated_at: now,
            last_synced: now,
            epoch,
        }
    }

    /// The accounts that its deletion deletes.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        [Some(self.external_id.as_str()), self.replaced_by.as_deref()].into_iter().flatten()
    }

    /// Whether a track had it.
    pub fn was_held(&self) -> bool {
        self.allocated_at > Timestamp(0) || self.deletion_requested_at.is_some()
    }

    /// Whether it is available and not old enough to be handed out.
    pub fn is_warming(&self, now: Timestamp) -> bool {
        self.status == Status::Available && self.available_from > Some(now)
    }

    /// Whether an operator keeps it from being deleted.
    pub fn is_frozen(&self, now: Timestamp) -> bool {
        self.freeze_until > Some(now)
    }

    /// Whether `owner` holds this sandbox or held it last, and proves it.
    pub fn belongs_to(&self, owner: &Owner) -> bool {
        self.allocated_to_track.as_ref() == Some(&owner.track) && owner.proves(self.owner_proof.as_ref())
    }
}
