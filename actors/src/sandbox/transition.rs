//! How a sandbox changes: one pure function from state and event to a change, and the conditional update that carries
//! the change out.
//!
//! [`transition`] decides; a store only executes a [`ConditionalUpdate`] of named attributes (I5, I7).

use super::{
    Claim, ClaimKey, Epoch, Holding, IdempotencyKey, Owner, OwnerProof, Sandbox, SandboxId, Status, Timestamp, TrackId,
};

/// What happens to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A track claims it.
    Claim(Holding),
    /// Its owner extends the holding.
    Renew {
        /// The new end of the holding.
        expires_at: Timestamp,
    },
    /// The learner of a standby came: the lab's time starts.
    Activate {
        /// The new end of the holding.
        expires_at: Timestamp,
    },
    /// Its owner, or an operator on the owner's behalf, releases it.
    Release,
    /// Its holding ran out.
    Expire {
        /// `expires_at` plus the grace period: the earliest time to end the holding.
        due: Timestamp,
    },
    /// The CSP lists it.
    Listed,
    /// The CSP's listing lacks it.
    Missing {
        /// The TTL of the tombstone, if this event creates one.
        keep_until: Timestamp,
    },
    /// The CSP deleted it, or does not know it.
    DeletedAtCsp {
        /// The TTL of the tombstone.
        keep_until: Timestamp,
    },
    /// The CSP failed to delete it.
    DeletionAttemptFailed {
        /// The number of failed attempts, this one included.
        attempts: u32,
        /// The time of the next attempt; `None` after the last one.
        retry_at: Option<Timestamp>,
        /// The CSP's error.
        error: String,
    },
    /// An operator asks for another deletion attempt.
    RetryDeletion,
    /// It was stale for the whole grace period, or an operator discards it.
    Discard {
        /// The TTL of the tombstone.
        keep_until: Timestamp,
    },
}

impl Event {
    /// The event's name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim",
            Self::Renew { .. } => "renew",
            Self::Activate { .. } => "activate",
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

/// One attribute that a change sets, or removes where the value is `None`. Variants are named as the attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the attribute of that name")]
pub enum Field {
    AllocatedAt(Timestamp),
    ExpiresAt(Timestamp),
    AllocatedToTrack(TrackId),
    OwnerProof(OwnerProof),
    TrackName(Option<String>),
    LabSeconds(u64),
    Standby(bool),
    ActivatedAt(Timestamp),
    IdempotencyKey(IdempotencyKey),
    DeletionRequestedAt(Timestamp),
    DeletionRetryCount(u32),
    NextAttemptAt(Option<Timestamp>),
    LastError(Option<String>),
    Ttl(Timestamp),
    LastSynced(Timestamp),
}

/// A decided change. It also sets `updated_at` to `at`, increments `epoch` and moves the sandbox in the status index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mutation {
    /// The status after the change.
    pub to: Status,
    /// When it was decided.
    pub at: Timestamp,
    /// The position in the status index after the change; see [`Sandbox::shard_at`].
    pub shard_at: Timestamp,
    /// The other attributes that change.
    pub fields: Vec<Field>,
}

/// The condition of an update: what the writer knows about the sandbox (I5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// The record is still the one that the writer read.
    Unchanged {
        /// The status that was read.
        status: Status,
        /// The epoch that was read.
        epoch: Epoch,
    },
    /// The sandbox is allocated to this owner, who proves it, under this key. A sandbox is allocated once in its life, so
    /// owner and key fence a release as well as the epoch, without a read before it.
    HeldBy {
        /// The owner.
        owner: Owner,
        /// The owner's key.
        key: IdempotencyKey,
    },
}

/// A conditional change of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConditionalUpdate {
    /// The sandbox to change.
    pub sandbox_id: SandboxId,
    /// The condition.
    pub precondition: Precondition,
    /// The change.
    pub mutation: Mutation,
}

impl ConditionalUpdate {
    /// The release by an owner who knows only itself and its key.
    pub fn release_by_holder(sandbox_id: SandboxId, owner: Owner, key: IdempotencyKey, now: Timestamp) -> Self {
        let precondition = Precondition::HeldBy { owner, key };
        Self { sandbox_id, precondition, mutation: released(now) }
    }

    /// Applies `event` to the sandbox of a holding, fenced by the claim's epoch.
    ///
    /// # Errors
    ///
    /// [`Refused`] if an allocated sandbox cannot take the event.
    pub fn of_holding(claim: &Claim, event: Event, now: Timestamp) -> Result<Self, Refused> {
        Ok(Self {
            sandbox_id: claim.sandbox_id.clone(),
            precondition: Precondition::Unchanged { status: Status::Allocated, epoch: claim.epoch },
            mutation: transition(Status::Allocated, event, now)?,
        })
    }

    /// Whether `current` is what this update makes of the record that its writer knew. A repeated request that finds this
    /// has found its own work.
    pub fn is_result(&self, current: &Sandbox) -> bool {
        let is_next = match &self.precondition {
            Precondition::Unchanged { epoch, .. } => current.epoch == epoch.next(),
            Precondition::HeldBy { owner, key } => {
                current.belongs_to(owner) && current.idempotency_key.as_ref() == Some(key)
            }
        };
        let repeated = Sandbox { epoch: current.epoch, ..current.after(&self.mutation) };
        is_next && repeated == *current
    }

    /// Whether the precondition holds for `current`.
    pub fn is_met_by(&self, current: &Sandbox) -> bool {
        match &self.precondition {
            Precondition::Unchanged { status, epoch } => current.status == *status && current.epoch == *epoch,
            Precondition::HeldBy { owner, key } => {
                current.status == Status::Allocated
                    && current.belongs_to(owner)
                    && current.idempotency_key.as_ref() == Some(key)
            }
        }
    }
}

impl Sandbox {
    /// The update that applies `event` to this record, fenced by its epoch.
    ///
    /// # Errors
    ///
    /// [`Refused`] if a sandbox in this state cannot take the event.
    pub fn update(&self, event: Event, now: Timestamp) -> Result<ConditionalUpdate, Refused> {
        Ok(ConditionalUpdate {
            sandbox_id: self.sandbox_id.clone(),
            precondition: Precondition::Unchanged { status: self.status, epoch: self.epoch },
            mutation: transition(self.status, event, now)?,
        })
    }

    /// The update that claims this sandbox, and the claim item to create with it.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the sandbox is not available.
    pub fn claim(&self, holding: Holding, now: Timestamp) -> Result<(ConditionalUpdate, Claim), Refused> {
        let claim = Claim {
            claim_key: ClaimKey { track: holding.owner.track.clone(), key: holding.key.clone() },
            owner_proof: holding.owner.proof.clone(),
            sandbox_id: self.sandbox_id.clone(),
            name: self.name.clone(),
            external_id: self.external_id.clone(),
            sfdc_account_id: self.sfdc_account_id.clone(),
            allocated_at: now,
            expires_at: holding.expires_at,
            track_name: holding.track_name.clone(),
            lab: holding.lab,
            epoch: self.epoch.next(),
        };
        Ok((self.update(Event::Claim(holding), now)?, claim))
    }

    /// This record after `mutation`.
    pub fn after(&self, mutation: &Mutation) -> Self {
        let mut after = self.clone();
        after.status = mutation.to;
        after.shard_at = mutation.shard_at;
        after.updated_at = mutation.at;
        after.epoch = self.epoch.next();
        for field in mutation.fields.iter().cloned() {
            match field {
                Field::AllocatedAt(at) => after.allocated_at = at,
                Field::ExpiresAt(at) => after.expires_at = Some(at),
                Field::AllocatedToTrack(track) => after.allocated_to_track = Some(track),
                Field::OwnerProof(proof) => after.owner_proof = Some(proof),
                Field::TrackName(name) => after.track_name = name,
                Field::LabSeconds(seconds) => after.lab.lab_seconds = Some(seconds),
                Field::Standby(standby) => after.lab.standby = standby,
                Field::ActivatedAt(at) => after.lab.activated_at = Some(at),
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
}

/// The event does not apply to a sandbox in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {status} cannot take the event `{event}`")]
pub struct Refused {
    /// The sandbox's state.
    pub status: Status,
    /// The event's name.
    pub event: &'static str,
}

/// Decides what `event` does to a sandbox in `status`. Nothing else decides a state.
///
/// # Errors
///
/// [`Refused`] if the event does not apply to that state.
pub fn transition(status: Status, event: Event, now: Timestamp) -> Result<Mutation, Refused> {
    let name = event.name();
    let to = |to: Status, fields: Vec<Field>| Ok(mutation(to, now, fields));
    match (status, event) {
        (Status::Available, Event::Claim(holding)) => {
            let mut fields = vec![
                Field::AllocatedAt(now),
                Field::ExpiresAt(holding.expires_at),
                Field::AllocatedToTrack(holding.owner.track),
                Field::TrackName(holding.track_name),
                Field::IdempotencyKey(holding.key),
            ];
            fields.extend(holding.owner.proof.map(Field::OwnerProof));
            fields.extend(holding.lab.lab_seconds.map(Field::LabSeconds));
            fields.extend(holding.lab.standby.then_some(Field::Standby(true)));
            to(Status::Allocated, fields)
        }
        (Status::Allocated, Event::Renew { expires_at }) => to(Status::Allocated, vec![Field::ExpiresAt(expires_at)]),
        (Status::Allocated, Event::Activate { expires_at }) => {
            to(Status::Allocated, vec![Field::ExpiresAt(expires_at), Field::Standby(false), Field::ActivatedAt(now)])
        }
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

fn released(now: Timestamp) -> Mutation {
    mutation(Status::PendingDeletion, now, vec![Field::DeletionRequestedAt(now)])
}

fn mutation(to: Status, at: Timestamp, fields: Vec<Field>) -> Mutation {
    let mut times = PositionTimes { updated_at: at, ..PositionTimes::default() };
    for field in &fields {
        match field {
            Field::ExpiresAt(at) => times.expires_at = Some(*at),
            Field::NextAttemptAt(at) => times.next_attempt_at = *at,
            Field::Ttl(at) => times.ttl = Some(*at),
            _ => {}
        }
    }
    Mutation { to, at, shard_at: times.position(to), fields }
}

/// The times of a record that place it in the status index.
#[derive(Clone, Copy, Debug, Default)]
struct PositionTimes {
    updated_at: Timestamp,
    expires_at: Option<Timestamp>,
    next_attempt_at: Option<Timestamp>,
    ttl: Option<Timestamp>,
}

impl PositionTimes {
    /// The one rule for [`Sandbox::shard_at`]. A record without the time of its status is placed by its last change.
    fn position(self, status: Status) -> Timestamp {
        let of_status = match status {
            // These statuses are entered by their last change.
            Status::Available | Status::Stale | Status::DeletionFailed => None,
            Status::Allocated => self.expires_at,
            // A deletion that no attempt has put off is due since it was asked for.
            Status::PendingDeletion => self.next_attempt_at,
            Status::Deleted => self.ttl,
        };
        of_status.unwrap_or(self.updated_at)
    }
}

impl Sandbox {
    /// The [`Self::shard_at`] that the other fields of this record call for. The transitions set the same one. Where it
    /// differs from the stored one, another program wrote the record.
    pub fn position(&self) -> Timestamp {
        let Self { updated_at, expires_at, next_attempt_at, ttl, .. } = *self;
        PositionTimes { updated_at, expires_at, next_attempt_at, ttl }.position(self.status)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sandbox::{CspAccount, LabTime, UnixMillis};

    fn events(now: Timestamp) -> Vec<Event> {
        let later = now.plus(Duration::from_secs(60));
        let failed = |retry_at| Event::DeletionAttemptFailed { attempts: 1, retry_at, error: "no".to_owned() };
        vec![
            Event::Claim(Holding {
                owner: Owner::named(TrackId::new("track")),
                track_name: None,
                key: IdempotencyKey::new("key"),
                expires_at: later,
                lab: LabTime::default(),
            }),
            Event::Renew { expires_at: later },
            Event::Activate { expires_at: later },
            Event::Release,
            Event::Listed,
            Event::Missing { keep_until: later },
            Event::DeletedAtCsp { keep_until: later },
            failed(Some(later)),
            failed(None),
            Event::RetryDeletion,
            Event::Discard { keep_until: later },
        ]
    }

    /// A position is computed from the record alone, so every record that the transitions make must have the computed one.
    #[test]
    fn every_path_of_transitions_leaves_the_position_that_the_record_calls_for() {
        let account = CspAccount {
            sandbox_id: SandboxId::new("1"),
            name: "lab-1".to_owned(),
            external_id: "identity/accounts/1".to_owned(),
            sfdc_account_id: None,
            created_at: Some(Timestamp(5)),
        };
        let mut records = vec![Sandbox::discovered(&account, UnixMillis(1_000_000))];
        for now in (2000..=6000).step_by(1000).map(Timestamp) {
            let mut next = Vec::new();
            for record in &records {
                assert_eq!(record.position(), record.shard_at, "{record:?}");
                for event in events(now) {
                    next.extend(record.update(event, now).ok().map(|update| record.after(&update.mutation)));
                }
            }
            records = next;
        }
        assert!(records.len() > 20, "{} records after five changes", records.len());
    }
}
