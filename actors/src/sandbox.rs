//! The domain: what a sandbox is, the states it goes through, and the one function that decides a change.
//!
//! [`transition`] is pure. A store only carries its verdict out, as a conditional update of the named fields
//! (invariants I5 and I7).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        pub struct $name(String);

        impl $name {
            /// Wraps a value that its edge (HTTP header, CSP record, table item) has already checked.
            pub fn new(value: impl Into<String>) -> Self {
                Self(value.into())
            }

            /// The bare value.
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
    /// Names a sandbox: the CSP's numeric account id, as text.
    SandboxId
}
text_id! {
    /// Names a student's run of a lab; whoever presents it owns what was allocated to it.
    TrackId
}
text_id! {
    /// Names one intent to allocate, within its track.
    IdempotencyKey
}
text_id! {
    /// Names one broker process, in leases, controls and logs.
    ReplicaId
}

/// A point in time, in whole seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment moved on by `duration`, rounded up to a whole second.
    pub fn plus(self, duration: Duration) -> Self {
        let rounded_up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        Self(self.0.saturating_add(rounded_up))
    }

    /// This moment moved back by `duration`, rounded up to a whole second and stopping at the epoch.
    pub fn minus(self, duration: Duration) -> Self {
        let rounded_up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        Self(self.0.saturating_sub(rounded_up))
    }

    /// How long after `earlier` this moment is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Counts the changes of one sandbox; grows by one at each (I5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a sandbox that sync has just created.
    pub const FIRST: Self = Self(1);

    /// The epoch after one more change.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The state of a sandbox. Exactly one holds at any time (I3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Status {
    /// Free to be claimed.
    Available,
    /// Held by one owner.
    Allocated,
    /// Given back or expired; waits for its deletion at the CSP.
    PendingDeletion,
    /// Was available when it vanished from the CSP's listing.
    Stale,
    /// The CSP refused its deletion as often as is tried.
    DeletionFailed,
    /// A tombstone, kept until its TTL so that a lagging CSP listing cannot revive it.
    Deleted,
}

impl Status {
    /// Every status, tombstones last.
    pub const ALL: [Self; 6] =
        [Self::Available, Self::Allocated, Self::PendingDeletion, Self::Stale, Self::DeletionFailed, Self::Deleted];

    /// The name in the table and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Allocated => "allocated",
            Self::PendingDeletion => "pending_deletion",
            Self::Stale => "stale",
            Self::DeletionFailed => "deletion_failed",
            Self::Deleted => "deleted",
        }
    }

    /// The status with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One sandbox, as its table item holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// The CSP's numeric account id.
    pub sandbox_id: SandboxId,
    /// The human name; prefixes of it select a kind of sandbox.
    pub name: String,
    /// The path of the account at the CSP, `identity/accounts/<uuid>`.
    pub external_id: String,
    /// The CRM account that the CSP bills, where it tells one.
    pub sfdc_account_id: Option<String>,
    /// The one state it is in.
    pub status: Status,
    /// When it was claimed; the epoch's zero if it never was.
    pub allocated_at: Timestamp,
    /// When its holding ends, before grace.
    pub expires_at: Option<Timestamp>,
    /// The owner; stays after release, so that a repeated release is recognized.
    pub allocated_to_track: Option<TrackId>,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// The key under which the owner claimed it.
    pub idempotency_key: Option<IdempotencyKey>,
    /// When it was given back or expired.
    pub deletion_requested_at: Option<Timestamp>,
    /// How many deletions at the CSP have failed.
    pub deletion_retry_count: u32,
    /// Not before this is its deletion tried again.
    pub next_attempt_at: Option<Timestamp>,
    /// Why the last deletion failed.
    pub last_error: Option<String>,
    /// When DynamoDB may remove the item; tombstones only.
    pub ttl: Option<Timestamp>,
    /// When the account was created, at the CSP if it tells, else here.
    pub created_at: Timestamp,
    /// When the item last changed.
    pub updated_at: Timestamp,
    /// When sync last wrote the item.
    pub last_synced: Timestamp,
    /// Counts the changes.
    pub epoch: Epoch,
}

impl Sandbox {
    /// What a new account in the CSP's listing becomes.
    pub fn discovered(account: &crate::ports::CspAccount, now: Timestamp) -> Self {
        Self {
            sandbox_id: account.sandbox_id.clone(),
            name: account.name.clone(),
            external_id: account.external_id.clone(),
            sfdc_account_id: account.sfdc_account_id.clone(),
            status: Status::Available,
            allocated_at: Timestamp(0),
            expires_at: None,
            allocated_to_track: None,
            track_name: None,
            idempotency_key: None,
            deletion_requested_at: None,
            deletion_retry_count: 0,
            next_attempt_at: None,
            last_error: None,
            ttl: None,
            created_at: account.created_at.unwrap_or(now),
            updated_at: now,
            last_synced: now,
            epoch: Epoch::FIRST,
        }
    }

    /// The write that takes this view of the sandbox through `event`, fenced by the view's epoch.
    pub fn write(&self, event: Event, now: Timestamp) -> Result<Write, Refused> {
        Ok(Write {
            sandbox_id: self.sandbox_id.clone(),
            expect: Expect::View { status: self.status, epoch: self.epoch },
            change: transition(self.status, event, now)?,
        })
    }

    /// The write that claims this sandbox, and the claim item that goes with it.
    pub fn claim(&self, holding: Holding, now: Timestamp) -> Result<(Write, Claim), Refused> {
        let claim = Claim {
            claim_key: ClaimKey { track: holding.track.clone(), key: holding.key.clone() },
            sandbox_id: self.sandbox_id.clone(),
            name: self.name.clone(),
            external_id: self.external_id.clone(),
            sfdc_account_id: self.sfdc_account_id.clone(),
            allocated_at: now,
            expires_at: holding.expires_at,
            epoch: self.epoch.next(),
        };
        Ok((self.write(Event::Claim(holding), now)?, claim))
    }

    /// The sandbox after `change`.
    pub fn changed(&self, change: &Change) -> Self {
        let mut after = self.clone();
        after.status = change.to;
        after.updated_at = change.at;
        after.epoch = self.epoch.next();
        for field in change.fields.iter().cloned() {
            match field {
                Field::AllocatedAt(at) => after.allocated_at = at,
                Field::ExpiresAt(at) => after.expires_at = Some(at),
                Field::AllocatedToTrack(track) => after.allocated_to_track = Some(track),
                Field::TrackName(name) => after.track_name = name,
                Field::IdempotencyKey(key) => after.idempotency_key = Some(key),
                Field::DeletionRequestedAt(at) => after.deletion_requested_at = Some(at),
                Field::DeletionRetryCount(count) => after.deletion_retry_count = count,
                Field::NextAttemptAt(at) => after.next_attempt_at = at,
                Field::LastError(error) => after.last_error = error,
                Field::Ttl(at) => after.ttl = Some(at),
                Field::LastSynced(at) => after.last_synced = at,
            }
        }
        after
    }

    /// Whether `track` holds this sandbox now or gave it back.
    pub fn belongs_to(&self, track: &TrackId) -> bool {
        self.allocated_to_track.as_ref() == Some(track)
    }
}

/// Who claims a sandbox, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The owner.
    pub track: TrackId,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// The owner's key for this claim.
    pub key: IdempotencyKey,
    /// When the holding ends, before grace.
    pub expires_at: Timestamp,
}

/// What happens to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A track claims it.
    Claim(Holding),
    /// Its owner holds it longer.
    Renew {
        /// The new end of the holding.
        expires_at: Timestamp,
    },
    /// Its owner, or an operator in the owner's stead, gives it back.
    Release,
    /// Its holding ran out: `due` is `expires_at` plus grace.
    Expire {
        /// From when on the holding may be ended.
        due: Timestamp,
    },
    /// The CSP lists it.
    Listed,
    /// The CSP's listing lacks it.
    Missing {
        /// Until when a tombstone must stay, if this makes one.
        keep_until: Timestamp,
    },
    /// The CSP deleted it, or never knew it.
    DeletedAtCsp {
        /// Until when the tombstone must stay.
        keep_until: Timestamp,
    },
    /// The CSP failed to delete it.
    DeletionAttemptFailed {
        /// How many attempts have failed, with this one.
        attempts: u32,
        /// When to try next; `None` if the attempts are used up.
        retry_at: Option<Timestamp>,
        /// What the CSP said.
        error: String,
    },
    /// An operator wants its deletion tried again.
    RetryDeletion,
    /// It stayed stale for the whole grace period, or an operator discards it.
    Discard {
        /// Until when the tombstone must stay.
        keep_until: Timestamp,
    },
}

impl Event {
    /// The event's name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim",
            Self::Renew { .. } => "renew",
            Self::Release => "release",
            Self::Expire { .. } => "expire",
            Self::Listed => "listed",
            Self::Missing { .. } => "missing",
            Self::DeletedAtCsp { .. } => "deleted at CSP",
            Self::DeletionAttemptFailed { .. } => "deletion attempt failed",
            Self::RetryDeletion => "retry deletion",
            Self::Discard { .. } => "discard",
        }
    }
}

/// One named attribute that a change sets, or removes where the value is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `allocated_at`
    AllocatedAt(Timestamp),
    /// `expires_at`
    ExpiresAt(Timestamp),
    /// `allocated_to_track`
    AllocatedToTrack(TrackId),
    /// `track_name`
    TrackName(Option<String>),
    /// `idempotency_key`
    IdempotencyKey(IdempotencyKey),
    /// `deletion_requested_at`
    DeletionRequestedAt(Timestamp),
    /// `deletion_retry_count`
    DeletionRetryCount(u32),
    /// `next_attempt_at`
    NextAttemptAt(Option<Timestamp>),
    /// `last_error`
    LastError(Option<String>),
    /// `ttl`
    Ttl(Timestamp),
    /// `last_synced`
    LastSynced(Timestamp),
}

/// A decided change: the new status and the attributes that go with it. `updated_at` becomes `at`, `epoch` grows by one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The status after the change.
    pub to: Status,
    /// When it was decided.
    pub at: Timestamp,
    /// What else changes.
    pub fields: Vec<Field>,
}

/// What the writer believes of the sandbox; the write's condition (I5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// The item is as the writer read it.
    View {
        /// The status that was read.
        status: Status,
        /// The epoch that was read.
        epoch: Epoch,
    },
    /// The item is allocated to this owner under this key. A sandbox is allocated once in its life (it never comes
    /// back from deletion), so owner and key fence a release as well as the epoch would, without a read before it.
    HeldBy {
        /// The owner.
        track: TrackId,
        /// The owner's key.
        key: IdempotencyKey,
    },
}

/// A conditional change of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Which sandbox.
    pub sandbox_id: SandboxId,
    /// Under which condition.
    pub expect: Expect,
    /// What changes.
    pub change: Change,
}

impl Write {
    /// The release by an owner who knows only its track and its key.
    pub fn release_by_holder(sandbox_id: SandboxId, claim: ClaimKey, now: Timestamp) -> Self {
        Self { sandbox_id, expect: Expect::HeldBy { track: claim.track, key: claim.key }, change: released(now) }
    }

    /// The write that takes the sandbox of a holding through `event`, fenced by the epoch that the claim knows.
    pub fn of_holding(claim: &Claim, event: Event, now: Timestamp) -> Result<Self, Refused> {
        Ok(Self {
            sandbox_id: claim.sandbox_id.clone(),
            expect: Expect::View { status: Status::Allocated, epoch: claim.epoch },
            change: transition(Status::Allocated, event, now)?,
        })
    }

    /// Whether the condition holds for the sandbox that is there.
    pub fn expects(&self, found: &Sandbox) -> bool {
        match &self.expect {
            Expect::View { status, epoch } => found.status == *status && found.epoch == *epoch,
            Expect::HeldBy { track, key } => {
                found.status == Status::Allocated
                    && found.belongs_to(track)
                    && found.idempotency_key.as_ref() == Some(key)
            }
        }
    }
}

/// The key of a claim item: at most one claim lives under it (I2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The owner.
    pub track: TrackId,
    /// The owner's key.
    pub key: IdempotencyKey,
}

/// A claim item: what its owner holds, in full, so that a replay needs no second read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Whose claim, under which key.
    pub claim_key: ClaimKey,
    /// What is held.
    pub sandbox_id: SandboxId,
    /// The sandbox's name.
    pub name: String,
    /// The sandbox's path at the CSP.
    pub external_id: String,
    /// The CRM account, where the CSP tells one.
    pub sfdc_account_id: Option<String>,
    /// When the holding began.
    pub allocated_at: Timestamp,
    /// When the holding ends, before grace.
    pub expires_at: Timestamp,
    /// The sandbox's epoch while it is held.
    pub epoch: Epoch,
}

impl Claim {
    /// The claim that goes with a sandbox, if it is allocated.
    pub fn held(sandbox: &Sandbox) -> Option<Self> {
        if sandbox.status != Status::Allocated {
            return None;
        }
        Some(Self {
            claim_key: ClaimKey { track: sandbox.allocated_to_track.clone()?, key: sandbox.idempotency_key.clone()? },
            sandbox_id: sandbox.sandbox_id.clone(),
            name: sandbox.name.clone(),
            external_id: sandbox.external_id.clone(),
            sfdc_account_id: sandbox.sfdc_account_id.clone(),
            allocated_at: sandbox.allocated_at,
            expires_at: sandbox.expires_at?,
            epoch: sandbox.epoch,
        })
    }

    /// When DynamoDB may drop the item as forgotten. Release and expiry delete it long before; a month past its end
    /// it can only be rubbish.
    pub fn ttl(&self) -> Timestamp {
        self.expires_at.plus(Duration::from_secs(30 * 24 * 3600))
    }
}

/// The event does not apply to a sandbox in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {status} cannot take the event `{event}`")]
pub struct Refused {
    /// The state it is in.
    pub status: Status,
    /// The event's name.
    pub event: &'static str,
}

/// Decides what `event` does to a sandbox in `status`. Nothing else decides a state.
pub fn transition(status: Status, event: Event, now: Timestamp) -> Result<Change, Refused> {
    let name = event.name();
    let to = |to: Status, fields: Vec<Field>| Ok(Change { to, at: now, fields });
    match (status, event) {
        (Status::Available, Event::Claim(holding)) => to(
            Status::Allocated,
            vec![
                Field::AllocatedAt(now),
                Field::ExpiresAt(holding.expires_at),
                Field::AllocatedToTrack(holding.track),
                Field::TrackName(holding.track_name),
                Field::IdempotencyKey(holding.key),
            ],
        ),
        (Status::Allocated, Event::Renew { expires_at }) => to(Status::Allocated, vec![Field::ExpiresAt(expires_at)]),
        (Status::Allocated, Event::Release) => Ok(released(now)),
        (Status::Allocated, Event::Expire { due }) if due <= now => Ok(released(now)),
        (Status::Stale, Event::Listed) => to(Status::Available, vec![Field::LastSynced(now)]),
        (Status::Available, Event::Missing { .. }) => to(Status::Stale, vec![Field::LastSynced(now)]),
        (Status::DeletionFailed, Event::Missing { keep_until })
        | (Status::PendingDeletion, Event::DeletedAtCsp { keep_until })
        | (Status::Stale | Status::DeletionFailed, Event::Discard { keep_until }) => {
            to(Status::Deleted, vec![Field::Ttl(keep_until), Field::NextAttemptAt(None)])
        }
        (Status::PendingDeletion, Event::DeletionAttemptFailed { attempts, retry_at, error }) => to(
            if retry_at.is_some() { Status::PendingDeletion } else { Status::DeletionFailed },
            vec![Field::DeletionRetryCount(attempts), Field::NextAttemptAt(retry_at), Field::LastError(Some(error))],
        ),
        (Status::DeletionFailed, Event::RetryDeletion) => to(
            Status::PendingDeletion,
            vec![Field::DeletionRetryCount(0), Field::NextAttemptAt(None), Field::LastError(None)],
        ),
        (status, _) => Err(Refused { status, event: name }),
    }
}

fn released(now: Timestamp) -> Change {
    Change { to: Status::PendingDeletion, at: now, fields: vec![Field::DeletionRequestedAt(now)] }
}
