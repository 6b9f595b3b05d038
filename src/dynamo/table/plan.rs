//! What adoption makes of one item: pure, and a function of the item alone, so that a second look finds nothing to do.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use broker_actors::ports::StoreError;
use broker_actors::sandbox::{
    Claim, ClaimKey, Epoch, IdempotencyKey, Sandbox, SandboxId, ShardCount, Status, Timestamp, TrackId, UnixMillis,
};

use super::expression::Expression;
use super::items::Write;
use crate::dynamo::item::{
    Item, PK, SK, claim_item, claim_key, number, read_claim, read_sandbox, sandbox_key, status_shard, text, time,
};

/// The attribute that remembers which attributes of the old form adoption added, with their values. `table unadopt`
/// removes them again.
pub(super) const ADOPTED: &str = "adopted";

/// The longest owner and the longest key of a claim. DynamoDB takes sort keys of 1024 bytes.
const MAX_OWNER_BYTES: usize = 1000;

/// The sandbox attributes that every write of adoption requires to be as they were read, so that it never undoes what
/// another writer did meanwhile.
const WATCHED: [&str; 17] = [
    "status",
    "epoch",
    "status_shard",
    "shard_at",
    "allocated_at",
    "allocated_to_track",
    "idempotency_key",
    "expires_at",
    "deletion_retry_count",
    "next_attempt_at",
    "ttl",
    "created_at",
    "updated_at",
    "last_synced",
    "name",
    "external_id",
    "sfdc_account_id",
];

/// What a plan depends on beside the item.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanContext {
    /// The time, for epochs that are missing.
    pub(super) now: UnixMillis,
    /// How long a holding without an end lasts from its start; `None` if that is not known.
    pub(super) lab_duration: Option<Duration>,
    /// The number of shards of the status index.
    pub(super) shards: ShardCount,
}

/// What a sandbox item lacks.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The sandbox as it will be.
    pub(super) sandbox: Sandbox,
    /// The attributes to write.
    pub(super) changes: Vec<Change>,
    read: Item,
}

/// An attribute to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) name: &'static str,
    pub(super) value: AttributeValue,
    /// Whether the item has the attribute, with another value.
    pub(super) is_correction: bool,
}

/// Why there is no plan for an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unplannable {
    /// A holding has no end, and the length of a lab is not known.
    NoEnd,
    /// The item cannot be read.
    Unreadable(String),
}

/// Plans what a sandbox item needs to become one of this version's.
pub(super) fn plan(item: &Item, context: &PlanContext) -> Result<Plan, Unplannable> {
    let now = context.now.seconds();
    let mut draft = Draft { item: item.clone(), changes: Vec::new(), shared: HashMap::new() };
    let is_allocated = text_in(item, "status") == Some(Status::Allocated.as_str());

    let times = ["updated_at", "last_synced", "created_at"];
    let known = times.iter().find_map(|name| time_in(item, name)).unwrap_or(now);
    for name in times {
        draft.add_shared(name, time(known));
    }
    draft.add_shared("deletion_retry_count", number(0));
    if is_allocated {
        add_holding(&mut draft, context)?;
    } else {
        draft.add_shared("allocated_at", time(Timestamp(0)));
    }

    let stored_shard = text_in(item, "status_shard");
    let stored_status = stored_shard.and_then(|shard| shard.rsplit_once('#')).map(|(status, _)| status);
    match number_in(item, "epoch") {
        None => draft.add("epoch", number(Epoch::first(context.now).0)),
        // Another program changed the status and knows no epochs, so this write stands for that change.
        Some(epoch)
            if epoch < u64::MAX && stored_status.is_some_and(|stored| Some(stored) != text_in(item, "status")) =>
        {
            draft.set("epoch", number(Epoch(epoch).next().0));
        }
        Some(_) => {}
    }

    // The position is computed from the record, so whatever is stored must not make the record unreadable.
    let stored_position = time_in(item, "shard_at");
    draft.item.insert("shard_at".to_owned(), time(Timestamp(0)));
    let mut sandbox = read_sandbox(&draft.item).map_err(unreadable)?;
    if item.get(PK) != sandbox_key(&sandbox.sandbox_id).get(PK) {
        return Err(Unplannable::Unreadable(format!("sandbox_id is {}, not that of its key", sandbox.sandbox_id)));
    }
    sandbox.shard_at = sandbox.position();
    if sandbox.status == Status::Available && sandbox.shard_at > now {
        // A writer whose clock was ahead. An available sandbox is never placed in the future.
        sandbox.shard_at = stored_position.filter(|stored| *stored <= now).unwrap_or(now);
    }
    let shard = context.shards.shard_of(&sandbox.sandbox_id);
    draft.set("status_shard", text(status_shard(sandbox.status, shard)));
    draft.set_if_other("shard_at", item.get("shard_at"), time(sandbox.shard_at));
    draft.remember_shared();
    Ok(Plan { sandbox, changes: draft.changes, read: item.clone() })
}

/// Adds what a holding needs.
fn add_holding(draft: &mut Draft, context: &PlanContext) -> Result<(), Unplannable> {
    let unreadable = |reason: &str| Unplannable::Unreadable(format!("it is allocated, but {reason}"));
    let track = text_in(&draft.item, "allocated_to_track").map(str::to_owned);
    let track = track.ok_or_else(|| unreadable("allocated_to_track is missing"))?;
    // A track that sent no key has its own name as the key.
    let key = text_in(&draft.item, "idempotency_key").unwrap_or(&track);
    if track.len() > MAX_OWNER_BYTES || key.len() > MAX_OWNER_BYTES {
        return Err(unreadable("its owner or key is longer than a claim's key may be"));
    }
    draft.add_shared("idempotency_key", text(track));
    if draft.item.contains_key("expires_at") {
        return Ok(());
    }
    let allocated_at = time_in(&draft.item, "allocated_at").filter(|at| *at > Timestamp(0));
    let allocated_at = allocated_at.ok_or_else(|| unreadable("allocated_at is missing or not a time"))?;
    let lab_duration = context.lab_duration.ok_or(Unplannable::NoEnd)?;
    draft.add("expires_at", time(allocated_at.plus(lab_duration)));
    Ok(())
}

fn unreadable(error: StoreError) -> Unplannable {
    Unplannable::Unreadable(match error {
        StoreError::Corrupt { reason, .. } => reason,
        error => error.to_string(),
    })
}

/// An item and what is added to it.
struct Draft {
    item: Item,
    changes: Vec<Change>,
    shared: HashMap<String, AttributeValue>,
}

impl Draft {
    /// Adds an attribute that is absent.
    fn add(&mut self, name: &'static str, value: AttributeValue) {
        if !self.item.contains_key(name) {
            self.set(name, value);
        }
    }

    /// Adds an attribute that other programs know as well.
    fn add_shared(&mut self, name: &'static str, value: AttributeValue) {
        if !self.item.contains_key(name) {
            self.shared.insert(name.to_owned(), value.clone());
            self.set(name, value);
        }
    }

    fn set(&mut self, name: &'static str, value: AttributeValue) {
        let stored = self.item.get(name).cloned();
        self.set_if_other(name, stored.as_ref(), value);
    }

    fn set_if_other(&mut self, name: &'static str, stored: Option<&AttributeValue>, value: AttributeValue) {
        if stored != Some(&value) {
            self.changes.push(Change { name, value: value.clone(), is_correction: stored.is_some() });
        }
        self.item.insert(name.to_owned(), value);
    }

    fn remember_shared(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let mut all = self.item.get(ADOPTED).and_then(|value| value.as_m().ok()).cloned().unwrap_or_default();
        all.extend(std::mem::take(&mut self.shared));
        self.set(ADOPTED, AttributeValue::M(all));
    }
}

impl Plan {
    /// Whether another program wrote the item: it lacks what every item of this version has.
    pub(super) fn is_incomplete(&self) -> bool {
        self.changes.iter().any(|change| !change.is_correction)
    }

    /// The write that makes the changes if the item is still as it was read; without changes, a check of that.
    pub(super) fn write(&self) -> Write {
        let mut expression = Expression::default();
        for name in WATCHED {
            expression.require_as_in(&self.read, name);
        }
        let key = sandbox_key(&self.sandbox.sandbox_id);
        if self.changes.is_empty() {
            return Write::check(key, expression);
        }
        expression.require_as_in(&self.read, ADOPTED);
        for change in &self.changes {
            expression.set(change.name, change.value.clone());
        }
        Write::update(key, expression)
    }

    /// The claim that belongs to the sandbox; `None` if it is not held.
    pub(super) fn claim(&self) -> Option<Claim> {
        Claim::held(&self.sandbox)
    }
}

/// A claim item, as far as it can be read.
#[derive(Clone, Debug)]
pub(super) struct StoredClaim {
    /// The owner and its key.
    pub(super) key: ClaimKey,
    /// Its content, or why it cannot be read.
    pub(super) content: Result<Claim, String>,
    /// Whether it has a `ttl`, as the claims of the first form have. DynamoDB would delete it.
    pub(super) has_ttl: bool,
    /// The attributes by which a write recognizes it.
    identity: Item,
}

impl StoredClaim {
    const IDENTITY: [&str; 2] = ["sandbox_id", "epoch"];

    /// `None` if the item is no claim by its key.
    pub(super) fn read(item: &Item) -> Option<Self> {
        let key = ClaimKey {
            track: TrackId::new(text_in(item, PK)?.strip_prefix("TRACK#")?),
            key: IdempotencyKey::new(text_in(item, SK)?.strip_prefix("CLAIM#")?),
        };
        let content = read_claim(item).map_err(|error| match error {
            StoreError::Corrupt { reason, .. } => reason,
            error => error.to_string(),
        });
        let identity = Self::IDENTITY
            .iter()
            .filter_map(|name| item.get_key_value(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Some(Self { key, content, has_ttl: item.contains_key("ttl"), identity })
    }

    /// The sandbox that it names.
    pub(super) fn sandbox_id(&self) -> Option<SandboxId> {
        text_in(&self.identity, "sandbox_id").map(SandboxId::new)
    }

    /// Whether it is what `claim` should be.
    pub(super) fn is(&self, claim: &Claim) -> bool {
        !self.has_ttl && self.content.as_ref() == Ok(claim)
    }

    /// Deletes it, if it is still as it was read.
    pub(super) fn deletion(&self) -> Write {
        let mut expression = Expression::default();
        for name in Self::IDENTITY {
            expression.require_as_in(&self.identity, name);
        }
        Write::delete(claim_key(&self.key), expression)
    }
}

/// The write that makes the claim item what `claim` says, if it is still `stored`.
pub(super) fn claim_write(claim: &Claim, stored: Option<&StoredClaim>) -> Write {
    let mut expression = Expression::default();
    let Some(stored) = stored else {
        expression.require_as_in(&Item::new(), PK);
        return Write::put(claim_item(claim), expression);
    };
    for name in StoredClaim::IDENTITY {
        expression.require_as_in(&stored.identity, name);
    }
    if stored.sandbox_id().as_ref() != Some(&claim.sandbox_id) {
        // Nothing of a claim to another sandbox may stay.
        return Write::put(claim_item(claim), expression);
    }
    if stored.has_ttl {
        expression.remove("ttl");
    }
    if claim.sfdc_account_id.is_none() {
        expression.remove("sfdc_account_id");
    }
    for (name, value) in claim_item(claim) {
        if name != PK && name != SK {
            expression.set(&name, value);
        }
    }
    Write::update(claim_key(&claim.claim_key), expression)
}

/// Requires that the sandbox is not held under this key.
pub(super) fn not_held_check(sandbox_id: &SandboxId, key: &ClaimKey) -> Write {
    let mut expression = Expression::default();
    expression.require_not_all(&[
        ("status", text(Status::Allocated.as_str())),
        ("allocated_to_track", text(key.track.as_str())),
        ("idempotency_key", text(key.key.as_str())),
    ]);
    Write::check(sandbox_key(sandbox_id), expression)
}

/// The key under which a sandbox item is held, whether or not the rest of it can be read; `None` if it is not held.
pub(super) fn held_under(item: &Item) -> Option<ClaimKey> {
    if text_in(item, "status") != Some(Status::Allocated.as_str()) {
        return None;
    }
    let track = text_in(item, "allocated_to_track")?;
    let key = text_in(item, "idempotency_key").unwrap_or(track);
    Some(ClaimKey { track: TrackId::new(track), key: IdempotencyKey::new(key) })
}

/// A string attribute.
pub(super) fn text_in<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// A number attribute, if it is a whole number.
pub(super) fn number_in(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

fn time_in(item: &Item, name: &str) -> Option<Timestamp> {
    number_in(item, name).map(Timestamp)
}

#[cfg(test)]
mod tests;
