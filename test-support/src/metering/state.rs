//! All that the server holds, behind its one lock.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dynoxide::Item;
use serde_json::Value;
use tokio::time::Instant;

use super::commit::{Committed, Witness};
use super::database::Items;
use super::error::ServiceError;
use super::faults::FaultRule;
use super::meter::{Charge, ChargeKind, Meter, Throttled};
use super::replica::IndexReplicas;
use super::schema::{TableSchema, text};
use super::settings::{Durations, Lag, MeteringSettings, WarmThroughput};
use super::table::Table;
use super::token::Tokens;
use super::units::{IndexWrite, index_writes};

pub(super) struct State {
    pub(super) items: Items,
    pub(super) replicas: IndexReplicas,
    pub(super) tables: BTreeMap<String, Table>,
    pub(super) meter: Meter,
    /// The keys of transactions that are being prepared.
    pub(super) marked: HashSet<ItemName>,
    pub(super) tokens: Tokens,
    pub(super) faults: Vec<FaultRule>,
    pub(super) lag: Lag,
    pub(super) durations: Durations,
    pub(super) warm: WarmThroughput,
    pub(super) random: fastrand::Rng,
    /// Sees each commit.
    pub(super) witness: Option<Witness>,
    throttled_as_provisioned: bool,
}

/// Names an item: its table and its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ItemName {
    pub(super) table: String,
    pub(super) id: String,
}

/// An item that a request concerns.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) schema: Arc<TableSchema>,
    pub(super) key: Item,
    pub(super) name: ItemName,
    /// The partition key's value.
    pub(super) hash: String,
}

/// What a write of one item takes: from the table's partition, and from those of the indexes.
pub(super) struct WriteCost {
    pub(super) table: Charge,
    pub(super) indexes: Vec<(IndexWrite, Charge)>,
}

impl State {
    pub(super) fn new(settings: MeteringSettings) -> Self {
        let MeteringSettings { seed, limits, warm, placement, lag, durations } = settings;
        Self {
            items: Items::new(),
            replicas: IndexReplicas::new(),
            tables: BTreeMap::new(),
            meter: Meter::new(limits, seed, placement),
            marked: HashSet::new(),
            tokens: Tokens::default(),
            faults: Vec::new(),
            lag,
            durations,
            warm,
            random: fastrand::Rng::with_seed(seed),
            witness: None,
            throttled_as_provisioned: false,
        }
    }

    /// The table that a request names, if its items can be used.
    pub(super) fn usable_table(&self, request: &Value) -> Result<&Table, ServiceError> {
        let name = text(request, "TableName")?;
        self.table_named(&name)
    }

    pub(super) fn table_named(&self, name: &str) -> Result<&Table, ServiceError> {
        let table = self.tables.get(name).filter(|table| table.status(Instant::now()) != "CREATING");
        table.ok_or_else(|| ServiceError::no_table(name))
    }

    /// The item with this key, or the key of this item.
    pub(super) fn target(&self, table: &str, attributes: &Item) -> Result<Target, ServiceError> {
        let schema = Arc::clone(&self.table_named(table)?.schema);
        let keys = &schema.keys;
        let (Some(key), Some(id), Some(hash)) = (keys.of(attributes), keys.id_of(attributes), keys.hash_of(attributes))
        else {
            return Err(ServiceError::validation("The provided key element does not match the schema"));
        };
        let name = ItemName { table: table.to_owned(), id };
        Ok(Target { schema, key, name, hash })
    }

    pub(super) fn get(&self, target: &Target) -> Result<Option<Item>, ServiceError> {
        self.items.get(&target.name.table, &target.key)
    }

    /// The charge on the table for a write of an item, whether it succeeds or its condition fails.
    pub(super) fn table_charge(&self, target: &Target, units: f64) -> Charge {
        let resource = target.name.table.clone();
        let partition = self.meter.partition(&resource, &target.hash);
        Charge { resource, partition, units, kind: ChargeKind::TableWrite }
    }

    /// What a write that changes an item takes. `units` are the table's.
    pub(super) fn write_cost(
        &self,
        target: &Target,
        units: f64,
        before: Option<&Item>,
        after: Option<&Item>,
    ) -> WriteCost {
        let charged = index_writes(&target.schema, before, after).into_iter().map(|write| {
            let resource = target.schema.index_resource(&write.index);
            let partition = self.meter.partition(&resource, &write.hash);
            let charge = Charge { resource, partition, units: write.units, kind: ChargeKind::IndexWrite };
            (write, charge)
        });
        WriteCost { table: self.table_charge(target, units), indexes: charged.collect() }
    }

    /// Counts a write and sends its entries to the indexes. Each appears after its partition's queue and its lag. `waits`
    /// are what taking the cost returned. Returns the time until the last entry appears.
    pub(super) fn settle_write(
        &mut self,
        operation: &str,
        target: &Target,
        cost: WriteCost,
        waits: &[Duration],
    ) -> Duration {
        self.meter.count(operation, &cost.charges());
        let now = Instant::now();
        let mut last = now;
        let waits = waits.iter().skip(1);
        for ((write, _), wait) in cost.indexes.into_iter().zip(waits) {
            let arrival = now + *wait + self.lag.draw(&mut self.random);
            last = last.max(self.replicas.send(&target.name.table, &target.schema.keys, write, arrival));
        }
        last - now
    }

    /// The answer to a throttled request of one item or page, with AWS's two codes in turn.
    pub(super) fn throttle_error(&mut self, throttled: &Throttled) -> ServiceError {
        self.throttled_as_provisioned = !self.throttled_as_provisioned;
        ServiceError::throttled(throttled, self.throttled_as_provisioned)
    }

    /// Shows a commit to the witness. Each item comes with the lag of its indexes.
    pub(super) fn show_commit(&mut self, items: &[(&Target, Duration)]) {
        let Some(mut witness) = self.witness.take() else { return };
        let committed = items.iter().filter_map(|(target, index_lag)| {
            let item = self.get(target).ok()?;
            let (table, key) = (target.name.table.clone(), target.key.clone());
            Some(Committed { table, key, item, index_lag: *index_lag })
        });
        witness(committed.collect());
        self.witness = Some(witness);
    }
}

impl WriteCost {
    /// The table's charge first.
    pub(super) fn charges(&self) -> Vec<Charge> {
        std::iter::once(&self.table).chain(self.indexes.iter().map(|(_, charge)| charge)).cloned().collect()
    }
}
