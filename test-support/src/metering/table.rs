//! A table as the server knows it beside the database: its schema and what takes time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::meter::Meter;
use super::schema::{IndexSchema, TableSchema};
use super::settings::WarmThroughput;

pub(super) struct Table {
    pub(super) schema: Arc<TableSchema>,
    /// In `CREATING` before.
    pub(super) created: Instant,
    /// In `UPDATING` before, once it is created.
    pub(super) updated: Instant,
    /// Indexes that were added to the existing table, with the end of their backfill.
    pub(super) added_indexes: BTreeMap<String, Instant>,
    /// Continuous backups are unavailable before.
    pub(super) backups_available: Instant,
    pub(super) point_in_time_recovery: bool,
}

impl Table {
    pub(super) fn new(schema: TableSchema, created: Instant, backups_available: Instant) -> Self {
        Self {
            schema: Arc::new(schema),
            created,
            updated: created,
            added_indexes: BTreeMap::new(),
            backups_available,
            point_in_time_recovery: false,
        }
    }

    pub(super) fn status(&self, now: Instant) -> &'static str {
        if now < self.created {
            "CREATING"
        } else if now < self.updated {
            "UPDATING"
        } else {
            "ACTIVE"
        }
    }

    pub(super) fn is_index_active(&self, index: &str, now: Instant) -> bool {
        now >= self.created && self.added_indexes.get(index).is_none_or(|active| now >= *active)
    }

    pub(super) fn add_index(&mut self, index: IndexSchema, active: Instant) {
        self.added_indexes.insert(index.name.clone(), active);
        Arc::make_mut(&mut self.schema).indexes.push(Arc::new(index));
    }

    pub(super) fn remove_index(&mut self, index: &str) {
        self.added_indexes.remove(index);
        Arc::make_mut(&mut self.schema).indexes.retain(|kept| kept.name != index);
    }

    /// Completes the database's `TableDescription`.
    pub(super) fn complete(&self, description: &mut Value, meter: &Meter, now: Instant) {
        let status = self.status(now);
        description["TableStatus"] = json!(status);
        description["WarmThroughput"] = warm_description(meter.warm(&self.schema.name), status);
        for index in description["GlobalSecondaryIndexes"].as_array_mut().into_iter().flatten() {
            let name = index["IndexName"].as_str().unwrap_or_default().to_owned();
            let active = self.is_index_active(&name, now);
            let status = if active { "ACTIVE" } else { "CREATING" };
            index["IndexStatus"] = json!(status);
            index["WarmThroughput"] = warm_description(meter.warm(&self.schema.index_resource(&name)), status);
            if !active && self.added_indexes.contains_key(&name) {
                index["Backfilling"] = json!(true);
            }
        }
    }
}

fn warm_description(warm: WarmThroughput, status: &str) -> Value {
    json!({ "WriteUnitsPerSecond": warm.write as u64, "ReadUnitsPerSecond": warm.read as u64, "Status": status })
}
