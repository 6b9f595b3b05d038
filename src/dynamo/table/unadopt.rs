//! `table unadopt`: gives a table back to the Python broker. Its listing and its sync fail at items that they do not
//! know, so these are deleted, and what adoption added to sandboxes is removed.

use std::collections::BTreeMap;
use std::time::Duration;

use broker_actors::ports::Clock;
use broker_actors::sandbox::Status;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::sleep;

use super::describe::{describe, index_keys, is_keyed_by, status_index};
use super::expression::Expression;
use super::heartbeats::refuse_if_in_use;
use super::items::{Items, Write};
use super::plan::{ADOPTED, text_in};
use super::progress::Progress;
use super::schema::delete_schema;
use super::survey::{Kind, Named, kind_of, name_of};
use super::{TableError, TableNames};
use crate::dynamo::DynamoClient;
use crate::dynamo::item::{Item, PK, SK, number, text};

/// Items that are written concurrently.
const CONCURRENCY: usize = 16;

/// How often an item is read again because it changed between read and write.
const MAX_ROUNDS: u32 = 8;

/// The wait before that.
const ROUND_WAIT: Duration = Duration::from_millis(50);

/// The sandbox attributes that the Python broker does not have.
const OWN_ATTRIBUTES: [&str; 13] = [
    "epoch",
    "expires_at",
    "status_shard",
    "shard_at",
    "next_attempt_at",
    "last_error",
    "ttl",
    "owner_proof",
    "standby",
    "lab_seconds",
    "activated_at",
    "history",
    ADOPTED,
];

/// The statuses that the Python broker knows.
const OLD_STATUSES: [Status; 5] =
    [Status::Available, Status::Allocated, Status::PendingDeletion, Status::Stale, Status::DeletionFailed];

/// The Python broker has this attribute on every sandbox, with this value, whatever the length of its labs is.
const OLD_LAB_DURATION: (&str, u64) = ("lab_duration_hours", 4);

/// What is to be removed, and what is lost by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnadoptReport {
    /// Items to delete, by the prefix of their keys.
    pub deleted: BTreeMap<String, u64>,
    /// Sandboxes that lose attributes.
    pub sandboxes: u64,
    /// Those of them that are held. They stay held.
    pub holders: u64,
    /// Tombstones. They become `pending_deletion`, so that an account that the CSP still lists is not handed out.
    pub tombstones: u64,
    /// Sandboxes that this broker added from the CSP. They get the attribute that the Python broker expects.
    pub added: u64,
    /// Sandboxes in a status that the Python broker does not know. They are left in it.
    pub unknown_status: Named,
    /// Items that other writers changed faster than they could be written.
    pub busy: Named,
    /// Whether the status index that the Python broker reads is missing.
    pub lacks_old_index: bool,
    /// The sharded status index, which stays.
    pub sharded_index: Option<String>,
}

impl UnadoptReport {
    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        !self.deleted.is_empty() || self.sandboxes > 0
    }
}

/// The return of one table.
#[derive(Clone, Copy)]
pub struct Unadoption<'a> {
    client: &'a DynamoClient,
    names: &'a TableNames,
    clock: &'a dyn Clock,
}

impl<'a> Unadoption<'a> {
    /// Prepares it.
    pub fn new(client: &'a DynamoClient, names: &'a TableNames, clock: &'a dyn Clock) -> Self {
        Self { client, names, clock }
    }

    /// Finds out what would be removed, and changes nothing.
    ///
    /// # Errors
    ///
    /// If DynamoDB fails.
    pub async fn examine(&self, progress: &dyn Progress) -> Result<UnadoptReport, TableError> {
        self.run(progress, false).await
    }

    /// Removes it. `force` skips the check that no broker runs.
    ///
    /// # Errors
    ///
    /// If brokers run, or DynamoDB fails. What was removed so far stays removed, and the next run goes on from there.
    pub async fn execute(&self, force: bool, progress: &dyn Progress) -> Result<UnadoptReport, TableError> {
        if !force {
            refuse_if_in_use(&self.items(), self.names, self.clock.now()).await?;
        }
        let report = self.run(progress, true).await?;
        match report.busy.first.first() {
            None => Ok(report),
            Some(first) => {
                let (table, count, first) = (self.names.table.clone(), report.busy.count, first.clone());
                Err(TableError::Busy { table, count, first })
            }
        }
    }

    async fn run(&self, progress: &dyn Progress, writes: bool) -> Result<UnadoptReport, TableError> {
        let found = describe(&self.client.for_tables(), self.names).await?;
        let has_old = index_keys(&found, &self.names.status_index)
            .is_some_and(|keys| is_keyed_by(keys, "status", "allocated_at"));
        let mut report = UnadoptReport {
            lacks_old_index: !has_old,
            sharded_index: status_index(self.names, &found),
            ..UnadoptReport::default()
        };
        if writes {
            // First, so that no broker starts on a table that is half given back.
            delete_schema(&self.items()).await?;
        }
        progress.start(if writes { "Removing what adoption added" } else { "Reading the table" }, None);
        let mut scan = self.items().scan();
        while let Some(page) = scan.next().await? {
            progress.advance(page.len() as u64);
            let mut steps = Vec::new();
            for item in page {
                report.add(&item);
                steps.extend(step(&item).map(|write| (item, write)));
            }
            if !writes {
                continue;
            }
            let work = steps.into_iter().map(|(item, write)| async move { self.write(item, write).await });
            let mut work = stream::iter(work).buffer_unordered(CONCURRENCY);
            while let Some(busy) = work.next().await {
                busy?.into_iter().for_each(|name| report.busy.add(name));
            }
        }
        Ok(report)
    }

    fn items(&self) -> Items<'a> {
        Items::new(self.client, &self.names.table)
    }

    /// Makes the write. Returns the item's name if it changes faster than it can be written.
    async fn write(&self, item: Item, write: Write) -> Result<Option<String>, TableError> {
        let key: Item = item.iter().filter(|(name, _)| *name == PK || *name == SK).map(owned).collect();
        let mut write = write;
        for _ in 0..MAX_ROUNDS {
            if self.items().write(&[write]).await? {
                return Ok(None);
            }
            sleep(ROUND_WAIT).await;
            let Some(item) = self.items().get(&key).await? else { return Ok(None) };
            let Some(next) = step(&item) else { return Ok(None) };
            write = next;
        }
        Ok(Some(name_of(&item)))
    }
}

impl UnadoptReport {
    fn add(&mut self, item: &Item) {
        match kind_of(item) {
            Kind::Claim => *self.deleted.entry("TRACK#".to_owned()).or_default() += 1,
            Kind::Own(prefix) => *self.deleted.entry(prefix.to_owned()).or_default() += 1,
            Kind::Foreign(_) => {}
            Kind::Sandbox => {
                let status = text_in(item, "status").unwrap_or_default();
                self.holders += u64::from(status == Status::Allocated.as_str());
                self.tombstones += u64::from(status == Status::Deleted.as_str());
                self.added += u64::from(is_added(item));
                self.sandboxes += u64::from(step(item).is_some());
                let is_known = OLD_STATUSES.iter().chain(&[Status::Deleted]).any(|known| known.as_str() == status);
                if !is_known {
                    self.unknown_status.add(format!("{}: {status}", name_of(item)));
                }
            }
        }
    }
}

/// What is to be done with an item; `None` if it is as the Python broker wrote it.
fn step(item: &Item) -> Option<Write> {
    let key: Item = item.iter().filter(|(name, _)| *name == PK || *name == SK).map(owned).collect();
    match kind_of(item) {
        Kind::Claim | Kind::Own(_) => Some(Write::delete(key, Expression::default())),
        Kind::Foreign(_) => None,
        Kind::Sandbox => sandbox_step(item).map(|expression| Write::update(key, expression)),
    }
}

fn sandbox_step(item: &Item) -> Option<Expression> {
    let is_tombstone = text_in(item, "status") == Some(Status::Deleted.as_str());
    let mut sets = Vec::new();
    if is_tombstone {
        sets.push(("status", text(Status::PendingDeletion.as_str())));
        sets.push(("deletion_retry_count", number(0)));
    }
    if is_added(item) {
        sets.push((OLD_LAB_DURATION.0, number(OLD_LAB_DURATION.1)));
    }
    let is_own = |name: &&str| item.contains_key(*name) && (*name != "ttl" || is_tombstone);
    let mut removals: Vec<&str> = OWN_ATTRIBUTES.into_iter().filter(is_own).collect();
    // What adoption added and no one changed since goes as well.
    let remembered = item.get(ADOPTED).and_then(|value| value.as_m().ok()).into_iter().flatten();
    removals.extend(remembered.filter(|(name, value)| item.get(*name) == Some(*value)).map(|(name, _)| name.as_str()));
    removals.retain(|name| sets.iter().all(|(set, _)| set != name));
    if sets.is_empty() && removals.is_empty() {
        return None;
    }
    let mut expression = Expression::default();
    for name in ["status", "epoch", "updated_at"] {
        expression.require_as_in(item, name);
    }
    for (name, value) in sets {
        expression.set(name, value);
    }
    for name in removals {
        expression.remove(name);
    }
    Some(expression)
}

/// Whether this broker added the sandbox.
fn is_added(item: &Item) -> bool {
    !item.contains_key(OLD_LAB_DURATION.0) && item.contains_key("epoch")
}

fn owned<K: Clone, V: Clone>((name, value): (&K, &V)) -> (K, V) {
    (name.clone(), value.clone())
}
