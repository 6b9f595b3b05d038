//! The journal of commits, in the order in which DynamoDB executed them, and the table as a scan reads it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynoxide::AttributeValue;
use serde_json::json;
use test_support::metering::{Committed, MeteringEngine, Reply};

use super::history::{ClaimItem, ClaimKey, Commit, SandboxItem, Table, TicketItem, Timestamp, Written};

type Item = HashMap<String, AttributeValue>;

const TABLE: &str = "sandbox-broker-pool";

#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    commits: Vec<Commit>,
    /// What the commits result in.
    table: Table,
}

impl Journal {
    /// Records all later commits on this server.
    pub(crate) fn of(engine: &MeteringEngine) -> Self {
        let journal = Self::default();
        let recorded = journal.clone();
        engine.on_commit(move |items| recorded.record(&items));
        journal
    }

    pub(crate) fn commits(&self) -> Vec<Commit> {
        self.state().commits.clone()
    }

    /// The table by the commits so far.
    pub(crate) fn table(&self) -> Table {
        self.state().table.clone()
    }

    fn record(&self, items: &[Committed]) {
        let at = Timestamp::now();
        let written: Vec<_> = items.iter().filter_map(|item| written_item(&item.key, item.item.as_ref())).collect();
        if written.is_empty() {
            return;
        }
        let lag = items.iter().map(|item| item.index_lag).max().unwrap_or_default();
        let mut state = self.state();
        written.iter().for_each(|written| state.table.apply(written));
        state.commits.push(Commit { at, listed_at: at.plus(lag), written });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the whole table.
pub(crate) async fn scan(engine: &MeteringEngine) -> Table {
    let mut table = Table::default();
    let mut request = json!({ "TableName": TABLE });
    loop {
        let Reply::Json(200, mut page) = engine.answer("Scan", request.clone()).await else {
            panic!("a scan without limits succeeds")
        };
        let items: Vec<Item> = serde_json::from_value(page["Items"].take()).unwrap();
        for item in &items {
            if let Some(written) = written_item(item, Some(item)) {
                table.apply(&written);
            }
        }
        if page["LastEvaluatedKey"].is_null() {
            return table;
        }
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"].take();
    }
}

/// The item in the form of the evidence; `None` if it is neither a sandbox, a claim nor a ticket.
fn written_item(key: &Item, item: Option<&Item>) -> Option<Written> {
    let (partition, sort) = (text(key, "PK"), text(key, "SK"));
    if let Some(id) = partition.strip_prefix("SBX#") {
        return Some(Written::Sandbox(id.to_owned(), item.map(read_sandbox)));
    }
    if partition.starts_with("QUEUE#") {
        let (track, key) = sort.split_once('#')?;
        return Some(Written::Ticket((track.to_owned(), key.to_owned()), item.map(read_ticket)));
    }
    let key = (partition.strip_prefix("TRACK#")?.to_owned(), sort.strip_prefix("CLAIM#")?.to_owned());
    let claim = |item| ClaimItem {
        sandbox: text(item, "sandbox_id"),
        epoch: number(item, "epoch"),
        since: number(item, "held_since"),
    };
    Some(Written::Claim(key, item.map(claim)))
}

fn read_sandbox(item: &Item) -> SandboxItem {
    let owner: ClaimKey = (text(item, "allocated_to_track"), text(item, "idempotency_key"));
    SandboxItem {
        name: text(item, "name"),
        account: text(item, "external_id"),
        status: text(item, "status"),
        epoch: number(item, "epoch"),
        owner: (owner != ClaimKey::default()).then_some(owner),
        proof: item.contains_key("owner_proof").then(|| text(item, "owner_proof")),
    }
}

fn read_ticket(item: &Item) -> TicketItem {
    TicketItem {
        enqueued: number(item, "enqueued_ms"),
        seen_at: number(item, "seen_at"),
        open_until: number(item, "open_until"),
        prefix: text(item, "name_prefix"),
    }
}

fn text(item: &Item, name: &str) -> String {
    match item.get(name) {
        Some(AttributeValue::S(text)) => text.clone(),
        _ => String::new(),
    }
}

fn number(item: &Item, name: &str) -> u64 {
    match item.get(name) {
        Some(AttributeValue::N(number)) => number.parse().unwrap(),
        other => panic!("{name} is {other:?}"),
    }
}
