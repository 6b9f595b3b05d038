//! What the indexes show: copies that lag behind their tables.
//!
//! Each index is a table of entries in a second database. The table has one index, with the name and keys of the index
//! that it stands for, so that queries need no translation. An item has two entries while its new position is visible
//! and its old one is not yet removed.

use std::collections::{BTreeMap, HashMap};

use dynoxide::{AttributeValue, Item};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::database::{Items, Page};
use super::error::ServiceError;
use super::placement::hash;
use super::schema::{IndexSchema, KeySchema, TableSchema, item, key_text};
use super::units::IndexWrite;

/// The key of the tables of entries. Clients never see it.
const ENTRY: &str = "~";

/// The copies of all indexes of all tables.
pub(super) struct IndexReplicas {
    entries: Items,
    /// Writes on their way, by arrival. The number keeps the order of those that arrive together.
    pending: BTreeMap<(Instant, u64), EntryWrite>,
    sent: u64,
    /// The arrival of each entry's last pending write: its next one arrives no earlier.
    last_arrivals: HashMap<EntryName, Instant>,
    /// The table's key attributes of each visible entry.
    table_keys: HashMap<EntryName, Item>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct EntryName {
    replica: String,
    id: String,
}

struct EntryWrite {
    name: EntryName,
    table_key: Item,
    /// None removes it.
    entry: Option<Item>,
}

impl IndexReplicas {
    pub(super) fn new() -> Self {
        Self {
            entries: Items::new(),
            pending: BTreeMap::new(),
            sent: 0,
            last_arrivals: HashMap::new(),
            table_keys: HashMap::new(),
        }
    }

    /// Adds an empty copy. `attributes` are the table's `AttributeDefinitions`.
    pub(super) fn create(&self, table: &str, index: &IndexSchema, attributes: &Value) -> Result<(), ServiceError> {
        let key_names = || std::iter::once(&index.keys.hash).chain(&index.keys.range);
        let is_key = |attribute: &Value| key_names().any(|name| attribute["AttributeName"] == name.as_str());
        let attributes = attributes.as_array().into_iter().flatten().filter(|attribute| is_key(attribute)).cloned();
        let entry_key = json!({ "AttributeName": ENTRY, "AttributeType": "S" });
        let keys = key_names().zip(["HASH", "RANGE"]);
        let keys: Vec<Value> = keys.map(|(name, kind)| json!({ "AttributeName": name, "KeyType": kind })).collect();
        let request = json!({
            "TableName": replica_name(table, &index.name),
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{ "AttributeName": ENTRY, "KeyType": "HASH" }],
            "AttributeDefinitions": attributes.chain([entry_key]).collect::<Vec<_>>(),
            "GlobalSecondaryIndexes": [{
                "IndexName": index.name,
                "KeySchema": keys,
                "Projection": { "ProjectionType": "ALL" },
            }],
        });
        self.entries.call("CreateTable", request).map(|_| ())
    }

    pub(super) fn remove(&mut self, table: &str, index: &str) -> Result<(), ServiceError> {
        let replica = replica_name(table, index);
        self.pending.retain(|_, write| write.name.replica != replica);
        self.last_arrivals.retain(|name, _| name.replica != replica);
        self.table_keys.retain(|name, _| name.replica != replica);
        self.entries.call("DeleteTable", json!({ "TableName": replica })).map(|_| ())
    }

    /// Sends a write on its way. It arrives at this time or, behind an earlier write of the same entry, later. Returns
    /// its arrival.
    pub(super) fn send(&mut self, table: &str, table_keys: &KeySchema, write: IndexWrite, arrival: Instant) -> Instant {
        let replica = replica_name(table, &write.index);
        let Some(table_key) = table_keys.of(&write.entry_key) else { return arrival };
        let name = EntryName { replica, id: entry_id(&write.entry_key) };
        let last = self.last_arrivals.get(&name).copied();
        let arrival = last.map_or(arrival, |last| last.max(arrival));
        self.last_arrivals.insert(name.clone(), arrival);
        self.sent += 1;
        self.pending.insert((arrival, self.sent), EntryWrite { name, table_key, entry: write.entry });
        arrival
    }

    /// Makes visible what has arrived.
    pub(super) fn settle(&mut self, now: Instant) -> Result<(), ServiceError> {
        while let Some(next) = self.pending.first_entry() {
            let arrival = next.key().0;
            if arrival > now {
                break;
            }
            let EntryWrite { name, table_key, entry } = next.remove();
            if self.last_arrivals.get(&name) == Some(&arrival) {
                self.last_arrivals.remove(&name);
            }
            let key = Item::from([(ENTRY.to_owned(), AttributeValue::S(name.id.clone()))]);
            let entry = entry.map(|entry| entry.into_iter().chain(key.clone()).collect());
            self.entries.restore(&name.replica, &key, entry.as_ref())?;
            match entry {
                Some(_) => self.table_keys.insert(name, table_key),
                None => self.table_keys.remove(&name),
            };
        }
        Ok(())
    }

    /// Answers a `Query` or `Scan` of an index.
    pub(super) fn read(
        &self,
        operation: &str,
        table: &TableSchema,
        index: &IndexSchema,
        mut request: Value,
    ) -> Result<Page, ServiceError> {
        let replica = replica_name(&table.name, &index.name);
        if request["ExclusiveStartKey"].is_object() {
            let start = item(&request["ExclusiveStartKey"])?;
            let (Some(mut entry), Some(_)) = (index.keys.of(&start), table.keys.of(&start)) else {
                return Err(ServiceError::validation("The provided starting key is invalid"));
            };
            entry.insert(ENTRY.to_owned(), AttributeValue::S(entry_id(&start)));
            request["ExclusiveStartKey"] = json!(entry);
        }
        request["TableName"] = json!(replica);
        let mut page = self.entries.page(operation, request)?;
        for item in page.items.iter_mut().flatten() {
            item.remove(ENTRY);
        }
        if let Some(last_key) = &mut page.last_key {
            let id = last_key.remove(ENTRY).map(|id| key_text(&id)).unwrap_or_default();
            let table_key = self.table_keys.get(&EntryName { replica, id });
            last_key.extend(table_key.cloned().into_iter().flatten());
        }
        Ok(page)
    }
}

fn replica_name(table: &str, index: &str) -> String {
    format!("{table}.{index}")
}

/// The same for the same keys of index and table. Kept short, because it counts towards the 1 MB of a page.
fn entry_id(key: &Item) -> String {
    let sorted: BTreeMap<&String, String> = key.iter().map(|(name, value)| (name, key_text(value))).collect();
    let text: Vec<String> = sorted.into_iter().map(|(name, value)| format!("{name}={}:{value}", value.len())).collect();
    format!("{:x}", hash(&[text.join(",").as_bytes()]))
}
