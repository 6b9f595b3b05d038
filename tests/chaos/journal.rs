//! The journal of commits. The proxies pass one write at a time, and the journal compares the items before and after it, so
//! the order of commits is known.

use std::collections::HashMap;

use dynoxide::actions::get_item::GetItemRequest;
use dynoxide::actions::scan::ScanRequest;
use dynoxide::{AttributeValue, Database};
use serde_json::Value;

use super::history::{ClaimItem, ClaimKey, Commit, SandboxItem, Table, Timestamp, Written};

type Item = HashMap<String, AttributeValue>;
/// Partition and sort key.
type Key = (String, String);

const TABLE: &str = "sandbox-broker-pool";

pub(crate) struct Journal {
    database: Database,
    /// Each item that was written, after its last write.
    known: HashMap<Key, Item>,
    commits: Vec<Commit>,
}

impl Journal {
    pub(crate) fn new(database: Database) -> Self {
        Self { database, known: HashMap::new(), commits: Vec::new() }
    }

    pub(crate) fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// Records the changes of a write to these items that started at this time.
    pub(crate) fn record(&mut self, started: Timestamp, keys: Vec<Key>) {
        let ended = Timestamp::now();
        let mut written = Vec::new();
        for key in keys {
            let item = self.read(&key);
            if item.as_ref() != self.known.get(&key) {
                written.extend(written_item(&key, item.as_ref()));
                match item {
                    Some(item) => self.known.insert(key, item),
                    None => self.known.remove(&key),
                };
            }
        }
        if !written.is_empty() {
            self.commits.push(Commit { started, ended, written });
        }
    }

    /// The current table.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::default();
        let mut start = None;
        loop {
            let request =
                ScanRequest { table_name: TABLE.to_owned(), exclusive_start_key: start, ..Default::default() };
            let page = self.database.scan(request).unwrap();
            for item in page.items.into_iter().flatten() {
                let key = (text(&item, "PK"), text(&item, "SK"));
                if let Some(written) = written_item(&key, Some(&item)) {
                    table.apply(&written);
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return table;
            }
        }
    }

    fn read(&self, (partition, sort): &Key) -> Option<Item> {
        let text = |value: &String| AttributeValue::S(value.clone());
        let key = HashMap::from([("PK".to_owned(), text(partition)), ("SK".to_owned(), text(sort))]);
        self.database.get_item(GetItemRequest { table_name: TABLE.to_owned(), key, ..Default::default() }).unwrap().item
    }
}

/// The keys of the items that a request writes; none if it only reads.
pub(crate) fn written_keys(operation: &str, body: &[u8]) -> Vec<Key> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let key_in = |item: &Value| Some((item["PK"]["S"].as_str()?.to_owned(), item["SK"]["S"].as_str()?.to_owned()));
    let key_of = |write: &Value| key_in(&write["Key"]).or_else(|| key_in(&write["Item"]));
    match operation {
        "PutItem" | "UpdateItem" | "DeleteItem" => key_of(&request).into_iter().collect(),
        "TransactWriteItems" => {
            let writes = request["TransactItems"].as_array().into_iter().flatten();
            writes.filter_map(Value::as_object).flat_map(|write| write.values()).filter_map(key_of).collect()
        }
        _ => Vec::new(),
    }
}

/// The item in the form of the evidence; `None` if it is neither a sandbox nor a claim.
fn written_item((partition, sort): &Key, item: Option<&Item>) -> Option<Written> {
    if let Some(id) = partition.strip_prefix("SBX#") {
        return Some(Written::Sandbox(id.to_owned(), item.map(read_sandbox)));
    }
    let key = (partition.strip_prefix("TRACK#")?.to_owned(), sort.strip_prefix("CLAIM#")?.to_owned());
    let claim = |item| ClaimItem { sandbox: text(item, "sandbox_id"), epoch: epoch(item) };
    Some(Written::Claim(key, item.map(claim)))
}

fn read_sandbox(item: &Item) -> SandboxItem {
    let owner: ClaimKey = (text(item, "allocated_to_track"), text(item, "idempotency_key"));
    SandboxItem {
        name: text(item, "name"),
        status: text(item, "status"),
        epoch: epoch(item),
        owner: (owner != ClaimKey::default()).then_some(owner),
    }
}

fn text(item: &Item, name: &str) -> String {
    match item.get(name) {
        Some(AttributeValue::S(text)) => text.clone(),
        _ => String::new(),
    }
}

fn epoch(item: &Item) -> u64 {
    match item.get("epoch") {
        Some(AttributeValue::N(number)) => number.parse().unwrap(),
        other => panic!("the epoch is {other:?}"),
    }
}
