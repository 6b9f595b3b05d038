//! `GetItem`, `BatchGetItem`, `Query` and `Scan`.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynoxide::types::item_size;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::database::Page;
use super::error::ServiceError;
use super::expression::{evaluated, hash_value};
use super::meter::{Charge, ChargeKind};
use super::schema::{IndexSchema, TableSchema, item, text};
use super::state::{State, Target};
use super::units::read_units;

impl State {
    pub(super) fn get_item(&mut self, request: Value) -> Result<Value, ServiceError> {
        let target = self.target(&text(&request, "TableName")?, &item(&request["Key"])?)?;
        let charge = self.item_charge(&target, is_consistent(&request))?;
        let capacity = request["ReturnConsumedCapacity"].clone();
        let mut response = self.items.call("GetItem", request)?;
        self.take_read("GetItem", std::slice::from_ref(&charge))?;
        if response["ConsumedCapacity"].is_object() {
            response["ConsumedCapacity"] = consumed(&capacity, &target.name.table, None, charge.units);
        }
        Ok(response)
    }

    /// Reads the keys for which there is throughput and returns the others as unprocessed.
    pub(super) fn batch_get_item(&mut self, mut request: Value) -> Result<Value, ServiceError> {
        let mut unprocessed = Map::new();
        let mut refusal = None;
        let mut units: BTreeMap<String, f64> = BTreeMap::new();
        let Some(tables) = request["RequestItems"].as_object().cloned() else {
            return Err(ServiceError::validation("The batch get request list cannot be empty"));
        };
        for (table, keys) in tables {
            let is_consistent = is_consistent(&keys);
            let mut refused = Vec::new();
            let mut admitted = Vec::new();
            for key in keys["Keys"].as_array().into_iter().flatten() {
                let target = self.target(&table, &item(key)?)?;
                let charge = [self.item_charge(&target, is_consistent)?];
                match self.meter.take(&charge, Instant::now()) {
                    Ok(_) => {
                        self.meter.count("BatchGetItem", &charge);
                        *units.entry(table.clone()).or_default() += charge[0].units;
                        admitted.push(key.clone());
                    }
                    Err(throttled) => {
                        refused.push(key.clone());
                        refusal = Some(throttled);
                    }
                }
            }
            if !refused.is_empty() {
                let mut left = keys.clone();
                left["Keys"] = json!(refused);
                unprocessed.insert(table.clone(), left);
            }
            if admitted.is_empty() {
                request["RequestItems"].as_object_mut().and_then(|tables| tables.remove(&table));
            } else {
                request["RequestItems"][&table]["Keys"] = json!(admitted);
            }
        }
        match refusal {
            Some(throttled) if units.is_empty() => return Err(self.throttle_error(&throttled)),
            Some(_) => self.meter.note_throttled("BatchGetItem"),
            None => {}
        }
        let capacity = request["ReturnConsumedCapacity"].clone();
        let mut response = self.items.call("BatchGetItem", request)?;
        for (table, left) in unprocessed {
            response["UnprocessedKeys"][table] = left;
        }
        if response["ConsumedCapacity"].is_array() {
            let reported = units.iter().map(|(table, units)| consumed(&capacity, table, None, *units));
            response["ConsumedCapacity"] = json!(reported.collect::<Vec<_>>());
        }
        Ok(response)
    }

    /// One page of a `Query` or a `Scan`. A query pays at its key's partition, a scan at all partitions alike.
    pub(super) fn page(&mut self, operation: &str, request: Value) -> Result<Value, ServiceError> {
        let schema = Arc::clone(&self.usable_table(&request)?.schema);
        let index = self.readable_index(&schema, &request)?;
        let (resource, keys) = match &index {
            Some(index) => (schema.index_resource(&index.name), &index.keys),
            None => (schema.name.clone(), &schema.keys),
        };
        let partitions = match operation {
            "Query" => {
                let partition = self.meter.partition(&resource, &hash_value(&request, &keys.hash)?);
                partition..partition + 1
            }
            _ => 0..self.meter.partitions(&resource),
        };
        let capacity = request["ReturnConsumedCapacity"].clone();
        let is_consistent = is_consistent(&request);
        let plain = evaluated(&request);
        let is_plain = plain == request;
        let page = self.fetch(operation, &schema, index.as_deref(), request)?;
        let bytes =
            if is_plain { page.bytes() } else { self.fetch(operation, &schema, index.as_deref(), plain)?.bytes() };
        let units = read_units(bytes, is_consistent);
        let share = units / partitions.len() as f64;
        let charges: Vec<Charge> =
            partitions.map(|partition| read_charge(resource.clone(), partition, share)).collect();
        self.take_read(operation, &charges)?;
        let mut response = page.json();
        if capacity == "TOTAL" || capacity == "INDEXES" {
            response["ConsumedCapacity"] = consumed(&capacity, &schema.name, index.as_deref(), units);
        }
        Ok(response)
    }

    fn readable_index(&self, table: &TableSchema, request: &Value) -> Result<Option<Arc<IndexSchema>>, ServiceError> {
        let Some(name) = request["IndexName"].as_str() else { return Ok(None) };
        let Some(index) = table.index(name) else {
            let message = format!("The table does not have the specified index: {name}");
            return Err(ServiceError::validation(&message));
        };
        if is_consistent(request) {
            let message = "Consistent reads are not supported on global secondary indexes";
            return Err(ServiceError::validation(message));
        }
        if !self.table_named(&table.name)?.is_index_active(name, Instant::now()) {
            let message = format!("Cannot read from backfilling global secondary index: {name}");
            return Err(ServiceError::validation(&message));
        }
        Ok(Some(Arc::clone(index)))
    }

    fn fetch(
        &self,
        operation: &str,
        table: &TableSchema,
        index: Option<&IndexSchema>,
        request: Value,
    ) -> Result<Page, ServiceError> {
        match index {
            Some(index) => self.replicas.read(operation, table, index, request),
            None => self.items.page(operation, request),
        }
    }

    fn item_charge(&self, target: &Target, is_consistent: bool) -> Result<Charge, ServiceError> {
        let bytes = self.get(target)?.as_ref().map_or(0, item_size);
        let resource = target.name.table.clone();
        let partition = self.meter.partition(&resource, &target.hash);
        Ok(read_charge(resource, partition, read_units(bytes, is_consistent)))
    }

    fn take_read(&mut self, operation: &str, charges: &[Charge]) -> Result<(), ServiceError> {
        match self.meter.take(charges, Instant::now()) {
            Ok(_) => {
                self.meter.count(operation, charges);
                Ok(())
            }
            Err(throttled) => Err(self.throttle_error(&throttled)),
        }
    }
}

fn read_charge(resource: String, partition: usize, units: f64) -> Charge {
    Charge { resource, partition, units, kind: ChargeKind::Read }
}

fn is_consistent(request: &Value) -> bool {
    request["ConsistentRead"] == true
}

/// The report of the units, as the server counts them.
fn consumed(mode: &Value, table: &str, index: Option<&IndexSchema>, units: f64) -> Value {
    let mut consumed = json!({ "TableName": table, "CapacityUnits": units });
    if mode == "INDEXES" {
        let table_units = if index.is_some() { 0.0 } else { units };
        consumed["Table"] = json!({ "CapacityUnits": table_units });
        if let Some(index) = index {
            consumed["GlobalSecondaryIndexes"] = json!({ index.name.clone(): { "CapacityUnits": units } });
        }
    }
    consumed
}
