//! Conditional updates as expressions, and the history that they leave in a sandbox's item.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use broker_actors::ports::StoreError;
use broker_actors::sandbox::{ConditionalUpdate, Field, Precondition, ShardCount, Status, Timestamp};

use super::item::{Item, Reader, flag, number, status_shard, text, time};

/// The sandbox attributes whose names are reserved words in expressions.
const RESERVED: [&str; 3] = ["name", "status", "ttl"];

/// A move of a sandbox to another status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// The status that it entered.
    pub to: Status,
    /// Who moved it: an actor, `owner`, or an operator.
    pub by: String,
}

/// The parts of a conditional update, as the SDK's builders take them.
#[derive(Debug, Default, PartialEq)]
pub struct UpdateParts {
    /// The update expression.
    pub update: String,
    /// The condition expression.
    pub condition: String,
    /// What the placeholders for names stand for.
    pub names: HashMap<String, String>,
    /// What the placeholders for values stand for.
    pub values: HashMap<String, AttributeValue>,
}

/// The update expression of a conditional update.
pub fn update_of(update: &ConditionalUpdate, shards: ShardCount) -> UpdateParts {
    let ConditionalUpdate { sandbox_id, precondition, mutation } = update;
    let mut parts = UpdateParts::default();
    let mut sets = vec![
        parts.assign("status", text(mutation.to.as_str())),
        parts.assign("status_shard", text(status_shard(mutation.to, shards.shard_of(sandbox_id)))),
        parts.assign("shard_at", time(mutation.shard_at)),
        parts.assign("updated_at", time(mutation.at)),
    ];
    if update.changes_status() {
        sets.push(parts.assign(&entered(mutation.to), text(entry(mutation.at, &mutation.by))));
    }
    let mut removals = Vec::new();
    for field in &mutation.fields {
        match field_value(field) {
            (name, Some(value)) => sets.push(parts.assign(name, value)),
            (name, None) => removals.push(parts.name(name)),
        }
    }
    let epoch = parts.name("epoch");
    let one = parts.value("one", number(1));
    sets.push(format!("{epoch} = {epoch} + {one}"));
    parts.update = format!("SET {}", sets.join(", "));
    if !removals.is_empty() {
        parts.update = format!("{} REMOVE {}", parts.update, removals.join(", "));
    }
    let conditions = match precondition {
        Precondition::Unchanged { status, epoch } => {
            vec![parts.equals("status", text(status.as_str())), parts.equals("epoch", number(epoch.0))]
        }
        Precondition::HeldBy { owner, key } => vec![
            parts.equals("status", text(Status::Allocated.as_str())),
            parts.equals("allocated_to_track", text(owner.track.as_str())),
            parts.equals("idempotency_key", text(key.as_str())),
            match &owner.proof {
                None => "attribute_not_exists(owner_proof)".to_owned(),
                Some(proof) => {
                    let is_proven = parts.equals("owner_proof", text(proof.as_str()));
                    format!("(attribute_not_exists(owner_proof) OR {is_proven})")
                }
            },
        ],
    };
    parts.condition = conditions.join(" AND ");
    parts
}

/// The attribute that tells when a sandbox last entered a status, and who moved it there. One attribute for each status
/// bounds the history without a read before the write.
fn entered(status: Status) -> String {
    format!("in_{status}")
}

/// The most bytes of the name in a history entry.
const MAX_BY_BYTES: usize = 24;

fn entry(at: Timestamp, by: &str) -> String {
    let end = (0..=MAX_BY_BYTES.min(by.len())).rev().find(|end| by.is_char_boundary(*end)).unwrap_or_default();
    format!("{} {}", at.0, &by[..end])
}

/// The last move of a sandbox to each status, in the order of time.
pub(super) fn read_changes(item: &Item) -> Result<Vec<Change>, StoreError> {
    let reader = Reader(item);
    let mut changes = Vec::new();
    for to in Status::ALL {
        let Some(entry) = reader.optional_text(&entered(to))? else { continue };
        let (at, by) = entry.split_once(' ').ok_or_else(|| reader.corrupt("a change has no time"))?;
        let at = at.parse().map_err(|_| reader.corrupt("a change has no time"))?;
        changes.push(Change { at: Timestamp(at), to, by: by.to_owned() });
    }
    changes.sort_by_key(|change| change.at);
    Ok(changes)
}

impl UpdateParts {
    /// An attribute's name as expressions take it: reserved words need a placeholder, and each costs time to write and read.
    fn name(&mut self, name: &str) -> String {
        if !RESERVED.contains(&name) {
            return name.to_owned();
        }
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, name: &str, value: AttributeValue) -> String {
        let placeholder = format!(":{name}");
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    fn assign(&mut self, name: &str, value: AttributeValue) -> String {
        format!("{} = {}", self.name(name), self.value(name, value))
    }

    fn equals(&mut self, name: &str, value: AttributeValue) -> String {
        format!("{} = {}", self.name(name), self.value(&format!("expected_{name}"), value))
    }
}

fn field_value(field: &Field) -> (&'static str, Option<AttributeValue>) {
    match field {
        Field::Name(name) => ("name", Some(text(name))),
        Field::ExternalId(external_id) => ("external_id", Some(text(external_id))),
        Field::SfdcAccountId(account) => ("sfdc_account_id", Some(text(account))),
        Field::CreatedAt(at) => ("created_at", Some(time(*at))),
        Field::AvailableFrom(at) => ("available_from", at.map(time)),
        Field::ReplacedBy(external_id) => ("replaced_by", external_id.as_ref().map(text)),
        Field::GoneAtProvider(is_gone) => ("gone_at_provider", flag(*is_gone)),
        Field::AllocatedAt(at) => ("allocated_at", Some(time(*at))),
        Field::ExpiresAt(at) => ("expires_at", Some(time(*at))),
        Field::OwnerProof(proof) => ("owner_proof", Some(text(proof.as_str()))),
        Field::AllocatedToTrack(track) => ("allocated_to_track", Some(text(track.as_str()))),
        Field::TrackName(name) => ("track_name", name.as_ref().map(text)),
        Field::LabSeconds(seconds) => ("lab_seconds", Some(number(*seconds))),
        Field::Standby(standby) => ("standby", standby.then_some(AttributeValue::Bool(true))),
        Field::ActivatedAt(at) => ("activated_at", Some(time(*at))),
        Field::IdempotencyKey(key) => ("idempotency_key", Some(text(key.as_str()))),
        Field::DeletionRequestedAt(at) => ("deletion_requested_at", Some(time(*at))),
        Field::DeletionRetryCount(count) => ("deletion_retry_count", Some(number((*count).into()))),
        Field::NextAttemptAt(at) => ("next_attempt_at", at.map(time)),
        Field::DeletionFailingSince(at) => ("deletion_failing_since", at.map(time)),
        Field::LastError(error) => ("last_error", error.as_ref().map(text)),
        Field::NiosxaasCleanedAt(at) => ("niosxaas_cleaned_at", at.map(time)),
        Field::FreezeUntil(at) => ("freeze_until", Some(time(*at))),
        Field::QuarantineReason(reason) => ("quarantine_reason", reason.as_ref().map(text)),
        Field::QuarantinedBy(requested_by) => ("quarantined_by", requested_by.as_ref().map(text)),
        Field::DeletedAt(at) => ("deleted_at", at.map(time)),
        Field::Ttl(at) => ("ttl", at.map(time)),
        Field::LastSynced(at) => ("last_synced", Some(time(*at))),
    }
}
