//! How a sandbox changes: one pure function from state and event to a change, and the conditional update that carries
//! the change out.
//!
//! [`transition`] decides; a store only executes a [`ConditionalUpdate`] of named attributes (I5, I7).

use std::borrow::Cow;

use super::event::{Event, OWNER};
use super::{
    Claim, ClaimKey, Epoch, Holding, IdempotencyKey, Owner, OwnerProof, Sandbox, SandboxId, Status, Timestamp, TrackId,
};

/// One attribute that a change sets, or removes where the value is `None`. Variants are named as the attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the attribute of that name")]
pub enum Field {
    Name(String),
    ExternalId(String),
    SfdcAccountId(String),
    CreatedAt(Timestamp),
    AvailableFrom(Option<Timestamp>),
    ReplacedBy(Option<String>),
    GoneAtProvider(bool),
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
    DeletionFailingSince(Option<Timestamp>),
    NextAttemptAt(Option<Timestamp>),
    LastError(Option<String>),
    NiosxaasCleanedAt(Option<Timestamp>),
    FreezeUntil(Timestamp),
    QuarantineReason(Option<String>),
    QuarantinedBy(Option<String>),
    DeletedAt(Option<Timestamp>),
    Ttl(Option<Timestamp>),
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
    /// Who changes it: an actor's name, `owner`, or an operator. A store keeps who changed the status last, to each.
    pub by: Cow<'static, str>,
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
        Self { sandbox_id, precondition, mutation: released(now, OWNER) }
    }

    /// The same update, made by an operator.
    #[must_use]
    pub fn made_by(mut self, operator: &str) -> Self {
        self.mutation.by = Cow::Owned(operator.to_owned());
        self
    }

    /// Whether the update moves the sandbox to another status.
    pub fn changes_status(&self) -> bool {
        self.from() != self.mutation.to
    }

    /// The status before the change.
    pub fn from(&self) -> Status {
        match &self.precondition {
            Precondition::Unchanged { status, .. } => *status,
            Precondition::HeldBy { .. } => Status::Allocated,
        }
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
        let mut mutation = transition(self.status, event, now)?;
        // Times that the event leaves as they are count too.
        mutation.shard_at = self.after(&mutation).position();
        Ok(ConditionalUpdate {
            sandbox_id: self.sandbox_id.clone(),
            precondition: Precondition::Unchanged { status: self.status, epoch: self.epoch },
            mutation,
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
                Field::Name(name) => after.name = name,
                Field::ExternalId(external_id) => after.external_id = external_id,
                Field::SfdcAccountId(account) => after.sfdc_account_id = Some(account),
                Field::CreatedAt(at) => after.created_at = at,
                Field::AvailableFrom(at) => after.available_from = at,
                Field::ReplacedBy(external_id) => after.replaced_by = external_id,
                Field::GoneAtProvider(is_gone) => after.gone_at_provider = is_gone,
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
                Field::DeletionFailingSince(at) => after.deletion_failing_since = at,
                Field::NextAttemptAt(at) => after.next_attempt_at = at,
                Field::LastError(error) => after.last_error = error,
                Field::NiosxaasCleanedAt(at) => after.niosxaas_cleaned_at = at,
                Field::FreezeUntil(at) => after.freeze_until = Some(at),
                Field::QuarantineReason(reason) => after.quarantine_reason = reason,
                Field::QuarantinedBy(requested_by) => after.quarantined_by = requested_by,
                Field::DeletedAt(at) => after.deleted_at = at,
                Field::Ttl(at) => after.ttl = at,
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
    let (name, by) = (event.name(), event.made_by());
    let to = |to: Status, fields: Vec<Field>| Ok(mutation(to, now, fields, by));
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
        (Status::Allocated, Event::Release) => Ok(released(now, by)),
        (Status::Allocated, Event::Expire { due }) if due <= now => Ok(released(now, by)),
        (Status::Available | Status::Stale, Event::Listed(changes)) => {
            let mut fields = vec![Field::LastSynced(now)];
            fields.extend(changes.name.map(Field::Name));
            fields.extend(changes.external_id.map(Field::ExternalId));
            fields.extend(changes.sfdc_account_id.map(Field::SfdcAccountId));
            fields.extend(changes.created_at.map(Field::CreatedAt));
            fields.extend(changes.available_from.map(|at| Field::AvailableFrom(Some(at))));
            to(Status::Available, fields)
        }
        (Status::Available, Event::Missing { .. }) => to(Status::Stale, vec![Field::LastSynced(now)]),
        (
            Status::Allocated | Status::PendingDeletion | Status::DeletionFailed,
            Event::Observed { is_gone, replaced_by },
        ) => {
            let mut fields = vec![Field::GoneAtProvider(is_gone), Field::ReplacedBy(replaced_by)];
            if status == Status::PendingDeletion {
                // The next attempt knows more than the last one.
                fields.push(Field::NextAttemptAt(None));
            }
            to(status, fields)
        }
        (Status::PendingDeletion | Status::DeletionFailed, Event::Prepared) => {
            to(status, vec![Field::NiosxaasCleanedAt(Some(now))])
        }
        (Status::DeletionFailed, Event::Missing { keep_until })
        | (Status::PendingDeletion | Status::DeletionFailed, Event::DeletedAtCsp { keep_until })
        | (Status::Stale | Status::DeletionFailed, Event::Discard { keep_until }) => to(
            Status::Deleted,
            vec![Field::Ttl(Some(keep_until)), Field::DeletedAt(Some(now)), Field::NextAttemptAt(None)],
        ),
        (Status::Deleted, Event::KeepTombstone { keep_until }) => {
            to(Status::Deleted, vec![Field::Ttl(Some(keep_until)), Field::LastSynced(now)])
        }
        (Status::Deleted, Event::ListedAfterDeletion { deletion_requested_at, replaced_by }) => {
            let mut fields = fresh_deletion();
            fields.extend([
                Field::DeletionRequestedAt(deletion_requested_at),
                Field::ReplacedBy(replaced_by),
                Field::NiosxaasCleanedAt(None),
                Field::DeletedAt(None),
                Field::Ttl(None),
            ]);
            to(Status::PendingDeletion, fields)
        }
        (
            Status::PendingDeletion | Status::DeletionFailed,
            Event::DeletionAttemptFailed { attempts, failing_since, retry_at, error },
        ) => to(
            if retry_at.is_some() { Status::PendingDeletion } else { Status::DeletionFailed },
            vec![
                Field::DeletionRetryCount(attempts),
                Field::DeletionFailingSince(Some(failing_since)),
                Field::NextAttemptAt(retry_at),
                Field::LastError(Some(error)),
            ],
        ),
        (Status::PendingDeletion | Status::DeletionFailed, Event::DeletionAccepted { retry_at }) => to(
            Status::PendingDeletion,
            vec![Field::NextAttemptAt(Some(retry_at)), Field::LastError(Some(ACCEPTED.to_owned()))],
        ),
        (Status::DeletionFailed, Event::RetryDeletion) => to(Status::PendingDeletion, fresh_deletion()),
        (
            Status::Available | Status::PendingDeletion | Status::DeletionFailed,
            Event::Quarantine { reason, requested_by },
        ) => to(
            Status::Quarantined,
            vec![Field::QuarantineReason(Some(reason)), Field::QuarantinedBy(Some(requested_by))],
        ),
        (Status::Quarantined, Event::Unquarantine { was_held }) => {
            let mut fields = fresh_deletion();
            fields.extend([Field::QuarantineReason(None), Field::QuarantinedBy(None)]);
            to(if was_held { Status::PendingDeletion } else { Status::Available }, fields)
        }
        (Status::Allocated | Status::PendingDeletion, Event::Freeze { until }) => {
            to(status, vec![Field::FreezeUntil(until)])
        }
        (status, _) => Err(Refused { status, event: name }),
    }
}

/// Stored as the last error of a deletion that the CSP has accepted and not finished.
const ACCEPTED: &str = "the CSP has accepted the deletion and not finished it";

/// A deletion without a past.
fn fresh_deletion() -> Vec<Field> {
    vec![
        Field::DeletionRetryCount(0),
        Field::DeletionFailingSince(None),
        Field::NextAttemptAt(None),
        Field::LastError(None),
    ]
}

fn released(now: Timestamp, by: &'static str) -> Mutation {
    mutation(Status::PendingDeletion, now, vec![Field::DeletionRequestedAt(now)], by)
}

fn mutation(to: Status, at: Timestamp, fields: Vec<Field>, by: &'static str) -> Mutation {
    let mut times = PositionTimes { updated_at: at, ..PositionTimes::default() };
    for field in &fields {
        match field {
            Field::ExpiresAt(at) => times.expires_at = Some(*at),
            Field::NextAttemptAt(at) => times.next_attempt_at = *at,
            Field::Ttl(at) => times.ttl = *at,
            Field::AvailableFrom(at) => times.available_from = *at,
            _ => {}
        }
    }
    Mutation { to, at, shard_at: times.position(to), fields, by: Cow::Borrowed(by) }
}

/// The times of a record that place it in the status index.
#[derive(Clone, Copy, Debug, Default)]
struct PositionTimes {
    updated_at: Timestamp,
    available_from: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    next_attempt_at: Option<Timestamp>,
    ttl: Option<Timestamp>,
}

impl PositionTimes {
    /// The one rule for [`Sandbox::shard_at`]. A record without the time of its status is placed by its last change.
    fn position(self, status: Status) -> Timestamp {
        let of_status = match status {
            // These statuses are entered by their last change.
            Status::Stale | Status::DeletionFailed | Status::Quarantined => None,
            // What was added lately is at the end, and so is what may not be handed out yet.
            Status::Available => self.available_from.map(|at| at.max(self.updated_at)),
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
        let Self { updated_at, available_from, expires_at, next_attempt_at, ttl, .. } = *self;
        PositionTimes { updated_at, available_from, expires_at, next_attempt_at, ttl }.position(self.status)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sandbox::{AccountChanges, CspAccount, LabTime, UnixMillis};

    fn events(now: Timestamp) -> Vec<Event> {
        let later = now.plus(Duration::from_secs(60));
        let failed = |retry_at| Event::DeletionAttemptFailed {
            attempts: 1,
            failing_since: now,
            retry_at,
            error: "no".to_owned(),
        };
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
            Event::Listed(AccountChanges { available_from: Some(later), ..AccountChanges::default() }),
            Event::Observed { is_gone: true, replaced_by: None },
            Event::ListedAfterDeletion { deletion_requested_at: now, replaced_by: None },
            Event::KeepTombstone { keep_until: later },
            Event::DeletionAccepted { retry_at: later },
            Event::Prepared,
            Event::Quarantine { reason: "damaged".to_owned(), requested_by: "ops".to_owned() },
            Event::Unquarantine { was_held: false },
            Event::Freeze { until: later },
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
            name: Some("lab-1".to_owned()),
            external_id: "identity/accounts/1".to_owned(),
            sfdc_account_id: None,
            created_at: Some(Timestamp(5)),
        };
        let mut records = vec![Sandbox::discovered(&account, Duration::from_secs(1200), UnixMillis(1_000_000))];
        for now in (2000..=5000).step_by(1000).map(Timestamp) {
            let mut next = Vec::new();
            for record in &records {
                assert_eq!(record.position(), record.shard_at, "{record:?}");
                for event in events(now) {
                    next.extend(record.update(event, now).ok().map(|update| record.after(&update.mutation)));
                }
            }
            records = next;
        }
        assert!(records.len() > 20, "{} records after four changes", records.len());
    }
}
