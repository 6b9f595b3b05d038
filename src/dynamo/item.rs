//! Attributes of table items ↔ the domain. The one place that knows attribute names.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use broker_actors::actor::{ActorName, Control, DesiredState};
use broker_actors::ports::{JobLease, PreDeleteRecord, Stats, StoreError, StoredQueue, StoredStats, Ticket};
use broker_actors::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, Epoch, Field, IdempotencyKey, LabTime, OwnerProof, Precondition, ReplicaId,
    Sandbox, SandboxId, Shard, ShardCount, Status, Timestamp, TrackId, UnixMillis,
};

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

/// A table item, as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// The partition key of every item.
pub(super) const PK: &str = "PK";
/// The sort key of every item.
pub(super) const SK: &str = "SK";
/// The sandbox attributes whose names are reserved words in expressions.
const RESERVED: [&str; 3] = ["name", "status", "ttl"];
/// The sort key of items that are alone in their partition.
pub(super) const META: &str = "META";
/// The partition of the heartbeat items.
pub(super) const REPLICAS: &str = "LEASE#pool-manager";
/// The prefix of the heartbeat items' sort keys.
pub(super) const REPLICA_PREFIX: &str = "REPLICA#";

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn time(value: Timestamp) -> AttributeValue {
    number(value.0)
}

/// An attribute that is true, or absent.
fn flag(value: bool) -> Option<AttributeValue> {
    value.then_some(AttributeValue::Bool(true))
}

pub(super) fn key(partition: String, sort: String) -> Item {
    HashMap::from([(PK.to_owned(), text(partition)), (SK.to_owned(), text(sort))])
}

pub(super) fn sandbox_key(sandbox_id: &SandboxId) -> Item {
    key(format!("SBX#{sandbox_id}"), META.to_owned())
}

pub(super) fn claim_key(claim_key: &ClaimKey) -> Item {
    key(format!("TRACK#{}", claim_key.track), format!("CLAIM#{}", claim_key.key))
}

pub(super) fn lease_key(job: ActorName) -> Item {
    key(format!("LEASE#{job}"), META.to_owned())
}

pub(super) fn control_key(actor: ActorName) -> Item {
    key(format!("CTRL#{actor}"), META.to_owned())
}

pub(super) fn schema_key() -> Item {
    key("CTRL#schema".to_owned(), META.to_owned())
}

pub(super) fn stats_key() -> Item {
    key("STATS#latest".to_owned(), META.to_owned())
}

/// The key and the attributes of the record of a step before a deletion. One without a value does not apply.
pub(super) fn pre_delete_record(record: &PreDeleteRecord) -> (Item, Vec<(&'static str, Option<AttributeValue>)>) {
    let PreDeleteRecord { sandbox, cleaned_at, is_skipped, failed_reason, deleted_at, ttl } = record;
    let key = key(format!("NIOSXAAS#{}", sandbox.sandbox_id), "CLEANUP".to_owned());
    // Without `allocated_at` the record is in no index.
    let optional = [
        ("track_name", sandbox.track_name.as_ref().map(text)),
        ("allocated_to_track", sandbox.allocated_to_track.as_ref().map(|track| text(track.as_str()))),
        ("niosxaas_cleaned_at", cleaned_at.map(time)),
        ("niosxaas_cleanup_failed_reason", failed_reason.as_ref().map(text)),
    ];
    let attributes = [
        ("sandbox_id", text(sandbox.sandbox_id.as_str())),
        ("sandbox_name", text(&sandbox.name)),
        ("external_id", text(&sandbox.external_id)),
        ("niosxaas_cleanup_skipped", AttributeValue::Bool(*is_skipped)),
        ("deleted_at", time(*deleted_at)),
        ("ttl", time(*ttl)),
    ];
    let attributes = attributes.into_iter().map(|(name, value)| (name, Some(value)));
    (key, attributes.chain(optional).collect())
}

pub(super) fn replica_key(replica: &ReplicaId) -> Item {
    key(REPLICAS.to_owned(), format!("{REPLICA_PREFIX}{replica}"))
}

pub(super) fn queue_control_key() -> Item {
    key("CTRL#queue".to_owned(), META.to_owned())
}

/// The shards that the tickets are spread over. Stored tickets depend on it, so it never changes.
pub(super) const TICKET_SHARDS: u64 = 16;

/// The partition of a shard of the tickets.
pub(super) fn ticket_partition(shard: u64) -> String {
    format!("QUEUE#{shard}")
}

pub(super) fn ticket_key(claim_key: &ClaimKey) -> Item {
    // A `#` in the track is escaped, or two keys could have one ticket.
    let track = claim_key.track.as_str().replace('%', "%25").replace('#', "%23");
    key(ticket_partition(claim_key.hash() % TICKET_SHARDS), format!("{track}#{}", claim_key.key))
}

/// Reads a ticket.
pub(super) fn read_ticket(item: &Item) -> Result<Ticket, StoreError> {
    let item = Reader(item);
    Ok(Ticket {
        claim_key: ClaimKey {
            track: TrackId::new(item.text("ticket_track")?),
            key: IdempotencyKey::new(item.text("ticket_key")?),
        },
        owner_proof: item.optional_text("owner_proof")?.map(OwnerProof::stored),
        enqueued_at: UnixMillis(item.number("enqueued_ms")?),
        name_prefix: item.optional_text("name_prefix")?,
        open_until: item.time("open_until")?,
        seen_at: item.time("seen_at")?,
    })
}

/// Reads what a replica announced about the queue.
pub(super) fn read_queue(item: &Item) -> Result<StoredQueue, StoreError> {
    let item = Reader(item);
    Ok(StoredQueue { until: item.time("open_until")?, waiting: item.number("waiting")? })
}

/// The hash key of the status index.
pub fn status_shard(status: Status, shard: Shard) -> String {
    format!("{status}#{:02x}", shard.0)
}

/// The whole item of a sandbox; only for its creation.
pub fn sandbox_item(sandbox: &Sandbox, shards: ShardCount) -> Item {
    let mut item = sandbox_key(&sandbox.sandbox_id);
    let mut put = |name: &str, value: Option<AttributeValue>| {
        if let Some(value) = value {
            item.insert(name.to_owned(), value);
        }
    };
    put("sandbox_id", Some(text(sandbox.sandbox_id.as_str())));
    put("name", Some(text(&sandbox.name)));
    put("external_id", Some(text(&sandbox.external_id)));
    put("sfdc_account_id", sandbox.sfdc_account_id.as_ref().map(text));
    put("status", Some(text(sandbox.status.as_str())));
    put("status_shard", Some(text(status_shard(sandbox.status, shards.shard_of(&sandbox.sandbox_id)))));
    put("shard_at", Some(time(sandbox.shard_at)));
    put("replaced_by", sandbox.replaced_by.as_ref().map(text));
    put("gone_at_provider", flag(sandbox.gone_at_provider));
    put("available_from", sandbox.available_from.map(time));
    put("allocated_at", Some(time(sandbox.allocated_at)));
    put("expires_at", sandbox.expires_at.map(time));
    put("allocated_to_track", sandbox.allocated_to_track.as_ref().map(|track| text(track.as_str())));
    put("owner_proof", sandbox.owner_proof.as_ref().map(|proof| text(proof.as_str())));
    put("track_name", sandbox.track_name.as_ref().map(text));
    put_lab(&sandbox.lab, &mut put);
    put("idempotency_key", sandbox.idempotency_key.as_ref().map(|key| text(key.as_str())));
    put("deletion_requested_at", sandbox.deletion_requested_at.map(time));
    put("deletion_retry_count", Some(number(sandbox.deletion_retry_count.into())));
    put("deletion_failing_since", sandbox.deletion_failing_since.map(time));
    put("next_attempt_at", sandbox.next_attempt_at.map(time));
    put("last_error", sandbox.last_error.as_ref().map(text));
    put("niosxaas_cleaned_at", sandbox.niosxaas_cleaned_at.map(time));
    put("freeze_until", sandbox.freeze_until.map(time));
    put("quarantine_reason", sandbox.quarantine_reason.as_ref().map(text));
    put("quarantined_by", sandbox.quarantined_by.as_ref().map(text));
    put("deleted_at", sandbox.deleted_at.map(time));
    put("ttl", sandbox.ttl.map(time));
    put("created_at", Some(time(sandbox.created_at)));
    put("updated_at", Some(time(sandbox.updated_at)));
    put("last_synced", Some(time(sandbox.last_synced)));
    put("epoch", Some(number(sandbox.epoch.0)));
    item
}

/// The attributes of the lab's time, as sandbox and claim have them.
fn put_lab(lab: &LabTime, put: &mut impl FnMut(&str, Option<AttributeValue>)) {
    put("lab_seconds", lab.lab_seconds.map(number));
    put("standby", lab.standby.then_some(AttributeValue::Bool(true)));
    put("activated_at", lab.activated_at.map(time));
}

/// Reads a sandbox item.
pub fn read_sandbox(item: &Item) -> Result<Sandbox, StoreError> {
    let item = Reader(item);
    Ok(Sandbox {
        sandbox_id: SandboxId::new(item.text("sandbox_id")?),
        name: item.text("name")?,
        external_id: item.text("external_id")?,
        sfdc_account_id: item.optional_text("sfdc_account_id")?,
        status: item.status()?,
        shard_at: item.time("shard_at")?,
        replaced_by: item.optional_text("replaced_by")?,
        gone_at_provider: item.0.get("gone_at_provider").is_some(),
        available_from: item.optional_time("available_from")?,
        allocated_at: item.time("allocated_at")?,
        expires_at: item.optional_time("expires_at")?,
        allocated_to_track: item.optional_text("allocated_to_track")?.map(TrackId::new),
        owner_proof: item.optional_text("owner_proof")?.map(OwnerProof::stored),
        track_name: item.optional_text("track_name")?,
        lab: item.lab()?,
        idempotency_key: item.optional_text("idempotency_key")?.map(IdempotencyKey::new),
        deletion_requested_at: item.optional_time("deletion_requested_at")?,
        deletion_retry_count: u32::try_from(item.number("deletion_retry_count")?)
            .map_err(|_| item.corrupt("deletion_retry_count is too large"))?,
        deletion_failing_since: item.optional_time("deletion_failing_since")?,
        next_attempt_at: item.optional_time("next_attempt_at")?,
        last_error: item.optional_text("last_error")?,
        niosxaas_cleaned_at: item.optional_time("niosxaas_cleaned_at")?,
        freeze_until: item.optional_time("freeze_until")?,
        quarantine_reason: item.optional_text("quarantine_reason")?,
        quarantined_by: item.optional_text("quarantined_by")?,
        deleted_at: item.optional_time("deleted_at")?,
        ttl: item.optional_time("ttl")?,
        created_at: item.time("created_at")?,
        updated_at: item.time("updated_at")?,
        last_synced: item.time("last_synced")?,
        epoch: item.epoch()?,
    })
}

/// The whole item of a claim. No attribute is a key of an index, or the claim would show up in it; hence `held_since`.
pub fn claim_item(claim: &Claim) -> Item {
    let mut item = claim_key(&claim.claim_key);
    item.extend([
        ("sandbox_id".to_owned(), text(claim.sandbox_id.as_str())),
        ("name".to_owned(), text(&claim.name)),
        ("external_id".to_owned(), text(&claim.external_id)),
        ("held_since".to_owned(), time(claim.allocated_at)),
        ("expires_at".to_owned(), time(claim.expires_at)),
        ("epoch".to_owned(), number(claim.epoch.0)),
    ]);
    if let Some(account) = &claim.sfdc_account_id {
        item.insert("sfdc_account_id".to_owned(), text(account));
    }
    let mut put = |name: &str, value: Option<AttributeValue>| {
        item.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("owner_proof", claim.owner_proof.as_ref().map(|proof| text(proof.as_str())));
    put("track_name", claim.track_name.as_ref().map(text));
    put_lab(&claim.lab, &mut put);
    item
}

/// Reads a claim item; whose it is stands in its key.
pub fn read_claim(item: &Item) -> Result<Claim, StoreError> {
    let item = Reader(item);
    let after = |name: &str, prefix: &str| {
        let value = item.text(name)?;
        value.strip_prefix(prefix).map(str::to_owned).ok_or_else(|| item.corrupt(&format!("{name} is not {prefix}…")))
    };
    Ok(Claim {
        claim_key: ClaimKey {
            track: TrackId::new(after(PK, "TRACK#")?),
            key: IdempotencyKey::new(after(SK, "CLAIM#")?),
        },
        owner_proof: item.optional_text("owner_proof")?.map(OwnerProof::stored),
        sandbox_id: SandboxId::new(item.text("sandbox_id")?),
        name: item.text("name")?,
        external_id: item.text("external_id")?,
        sfdc_account_id: item.optional_text("sfdc_account_id")?,
        allocated_at: item.time("held_since")?,
        expires_at: item.time("expires_at")?,
        track_name: item.optional_text("track_name")?,
        lab: item.lab()?,
        epoch: item.epoch()?,
    })
}

/// Reads the lease item of `job`.
pub(super) fn read_lease(job: ActorName, item: &Item) -> Result<JobLease, StoreError> {
    let item = Reader(item);
    Ok(JobLease {
        job,
        holder: ReplicaId::new(item.text("holder")?),
        expires_at: item.time("expires_at")?,
        term: item.number("term")?,
        ran_at: item.optional_time("ran_at")?,
        last_run: item.optional_text("last_run")?,
    })
}

/// Reads a control item.
pub(super) fn read_control(item: &Item) -> Result<Control, StoreError> {
    let item = Reader(item);
    let desired_state = match item.text("desired")?.as_str() {
        "running" => DesiredState::Running,
        "paused" => DesiredState::Paused,
        other => return Err(item.corrupt(&format!("desired is `{other}`"))),
    };
    let name = item.text("actor")?;
    let actor = ActorName::from_name(&name).ok_or_else(|| item.corrupt(&format!("actor is `{name}`")))?;
    Ok(Control {
        actor,
        desired_state,
        reason: item.optional_text("reason")?.unwrap_or_default(),
        requested_by: item.text("by")?,
        updated_at: item.time("at")?,
    })
}

/// A heartbeat item.
#[derive(Debug)]
pub(super) struct Heartbeat {
    pub(super) replica: ReplicaId,
    pub(super) expires_at: Timestamp,
}

pub(super) fn read_heartbeat(item: &Item) -> Result<Heartbeat, StoreError> {
    let item = Reader(item);
    Ok(Heartbeat { replica: ReplicaId::new(item.text("holder")?), expires_at: item.time("expires_at")? })
}

/// Reads the stats item. Before the first count it has only the supply counter.
pub(super) fn read_stats(item: &Item) -> Result<StoredStats, StoreError> {
    let item = Reader(item);
    let count = |name: &str| item.optional_number(name).map(Option::unwrap_or_default);
    Ok(StoredStats {
        counted_at: item.optional_time("counted_at")?,
        stats: Stats {
            total: count("total")?,
            available: count("available")?,
            allocated: count("allocated")?,
            pending_deletion: count("pending_deletion")?,
            stale: count("stale")?,
            deletion_failed: count("deletion_failed")?,
            warming: count("warming")?,
            quarantined: count("quarantined")?,
        },
        supply: count("supply")?,
    })
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

/// Reads attributes, and names the item in what it finds wrong.
pub(super) struct Reader<'a>(pub(super) &'a Item);

impl Reader<'_> {
    pub(super) fn corrupt(&self, reason: &str) -> StoreError {
        let part = |name| self.0.get(name).and_then(|value| value.as_s().ok()).map_or("?", String::as_str);
        StoreError::Corrupt { key: format!("{}/{}", part(PK), part(SK)), reason: reason.to_owned() }
    }

    pub(super) fn optional_text(&self, name: &str) -> Result<Option<String>, StoreError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let text = value.as_s().map_err(|_| self.corrupt(&format!("{name} is not a string")))?;
        Ok(Some(text.clone()))
    }

    pub(super) fn text(&self, name: &str) -> Result<String, StoreError> {
        self.optional_text(name)?.ok_or_else(|| self.corrupt(&format!("{name} is missing")))
    }

    pub(super) fn optional_number(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_n().ok().and_then(|number| number.parse().ok());
        number.map(Some).ok_or_else(|| self.corrupt(&format!("{name} is not a whole number")))
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, StoreError> {
        self.optional_number(name)?.ok_or_else(|| self.corrupt(&format!("{name} is missing")))
    }

    pub(super) fn optional_time(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.optional_number(name)?.map(Timestamp))
    }

    pub(super) fn time(&self, name: &str) -> Result<Timestamp, StoreError> {
        self.number(name).map(Timestamp)
    }

    fn lab(&self) -> Result<LabTime, StoreError> {
        Ok(LabTime {
            lab_seconds: self.optional_number("lab_seconds")?,
            standby: self.0.get("standby") == Some(&AttributeValue::Bool(true)),
            activated_at: self.optional_time("activated_at")?,
        })
    }

    /// An epoch that has one after it; counting from one, none ever has not.
    fn epoch(&self) -> Result<Epoch, StoreError> {
        let epoch = self.number("epoch")?;
        if epoch == u64::MAX { Err(self.corrupt("epoch is too large")) } else { Ok(Epoch(epoch)) }
    }

    fn status(&self) -> Result<Status, StoreError> {
        let name = self.text("status")?;
        Status::from_name(&name).ok_or_else(|| self.corrupt(&format!("status is `{name}`")))
    }
}
