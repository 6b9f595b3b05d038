//! Operations on tables, their indexes and their backups.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::ServiceError;
use super::schema::{IndexSchema, KeySchema, TableSchema, text};
use super::settings::WarmThroughput;
use super::state::State;
use super::table::Table;
use super::units::index_writes;

const ONE_INDEX_AT_A_TIME: &str =
    "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table";

impl State {
    pub(super) fn create_table(&mut self, mut request: Value) -> Result<Value, ServiceError> {
        let now = Instant::now();
        if request["BillingMode"] != "PAY_PER_REQUEST" || request["LocalSecondaryIndexes"].is_array() {
            return Err(ServiceError::validation("only on-demand tables without local indexes are metered"));
        }
        let indexes = request["GlobalSecondaryIndexes"].as_array().into_iter().flatten();
        let indexes: Vec<IndexSchema> = indexes.map(IndexSchema::parse).collect::<Result<_, _>>()?;
        let name = text(&request, "TableName")?;
        let table_warm = self.requested_warm(&request, self.warm)?;
        let index_warms = request["GlobalSecondaryIndexes"].as_array().into_iter().flatten();
        let index_warms: Vec<WarmThroughput> =
            index_warms.map(|index| self.requested_warm(index, self.warm)).collect::<Result<_, _>>()?;
        remove_warm(&mut request);
        for index in request["GlobalSecondaryIndexes"].as_array_mut().into_iter().flatten() {
            remove_warm(index);
        }
        let attributes = request["AttributeDefinitions"].clone();
        let keys = KeySchema::parse(&request["KeySchema"])?;
        let mut response = self.items.call("CreateTable", request)?;

        self.meter.add(&name, table_warm, now);
        let mut schema = TableSchema { name: name.clone(), keys, indexes: Vec::new() };
        for (index, warm) in indexes.into_iter().zip(index_warms) {
            self.meter.add(&schema.index_resource(&index.name), warm, now);
            self.replicas.create(&name, &index, &attributes)?;
            schema.indexes.push(index.into());
        }
        let created = now + self.durations.table;
        let table = Table::new(schema, created, created + self.durations.backups);
        table.complete(&mut response["TableDescription"], &self.meter, now);
        self.tables.insert(name, table);
        Ok(response)
    }

    pub(super) fn describe_table(&mut self, request: Value) -> Result<Value, ServiceError> {
        let name = text(&request, "TableName")?;
        let mut response = self.items.call("DescribeTable", request)?;
        let table = self.tables.get(&name).ok_or_else(|| ServiceError::no_table(&name))?;
        table.complete(&mut response["Table"], &self.meter, Instant::now());
        Ok(response)
    }

    pub(super) fn delete_table(&mut self, request: Value) -> Result<Value, ServiceError> {
        let name = text(&request, "TableName")?;
        let response = self.items.call("DeleteTable", request)?;
        if let Some(table) = self.tables.remove(&name) {
            self.meter.remove(&name);
            for index in &table.schema.indexes {
                self.meter.remove(&table.schema.index_resource(&index.name));
                self.replicas.remove(&name, &index.name)?;
            }
        }
        Ok(response)
    }

    /// Warms the table and its indexes, adds or removes an index.
    pub(super) fn update_table(&mut self, mut request: Value) -> Result<Value, ServiceError> {
        let now = Instant::now();
        let name = text(&request, "TableName")?;
        let table = self.tables.get(&name).ok_or_else(|| ServiceError::no_table(&name))?;
        if table.status(now) != "ACTIVE" {
            let message = format!("Attempt to change a resource which is still in use: Table is being updated: {name}");
            return Err(ServiceError::new("ResourceInUseException", &message));
        }
        let updates = request["GlobalSecondaryIndexUpdates"].as_array().cloned().unwrap_or_default();
        let is_online = |update: &&Value| update["Create"].is_object() || update["Delete"].is_object();
        let in_progress = table.schema.indexes.iter().filter(|index| !table.is_index_active(&index.name, now)).count();
        let online = updates.iter().filter(is_online).count();
        if online > 1 || (online == 1 && in_progress > 0) {
            return Err(ServiceError::new("LimitExceededException", ONE_INDEX_AT_A_TIME));
        }
        let warmed = self.warmed_resources(&name, &request, &updates)?;
        remove_warm(&mut request);
        let left: Vec<Value> = updates.iter().filter(is_online).cloned().map(without_warm).collect();
        set_or_remove(&mut request, "GlobalSecondaryIndexUpdates", left);
        let is_for_database =
            request.as_object().is_some_and(|members| members.keys().any(|member| member != "TableName"));
        if is_for_database {
            let mut request = request.clone();
            if online == 0 {
                set_or_remove(&mut request, "AttributeDefinitions", Vec::new());
            }
            self.items.call("UpdateTable", request)?;
        } else if warmed.is_empty() {
            return Err(ServiceError::validation("At least one change to the table is required"));
        }
        for (resource, warm) in warmed {
            self.meter.add(&resource, warm, now);
        }
        for update in &updates {
            if update["Create"].is_object() {
                self.add_index(&name, &update["Create"], &request["AttributeDefinitions"], now)?;
            } else if let Some(index) = update["Delete"]["IndexName"].as_str() {
                self.remove_index(&name, index)?;
            }
        }
        if let Some(table) = self.tables.get_mut(&name) {
            table.updated = now + self.durations.table;
        }
        let mut described = self.describe_table(json!({ "TableName": name }))?;
        Ok(json!({ "TableDescription": described["Table"].take() }))
    }

    pub(super) fn update_continuous_backups(&mut self, request: &Value) -> Result<Value, ServiceError> {
        let name = text(request, "TableName")?;
        let table = self.tables.get_mut(&name).ok_or_else(|| no_backups_of(&name))?;
        if Instant::now() < table.backups_available {
            let message = format!("Backups are being enabled for the table: {name}. Please retry later");
            return Err(ServiceError::new("ContinuousBackupsUnavailableException", &message));
        }
        let specification = &request["PointInTimeRecoverySpecification"];
        table.point_in_time_recovery = specification["PointInTimeRecoveryEnabled"] == true;
        self.describe_continuous_backups(request)
    }

    pub(super) fn describe_continuous_backups(&self, request: &Value) -> Result<Value, ServiceError> {
        let name = text(request, "TableName")?;
        let table = self.tables.get(&name).ok_or_else(|| no_backups_of(&name))?;
        let status = |is_on: bool| if is_on { "ENABLED" } else { "DISABLED" };
        Ok(json!({ "ContinuousBackupsDescription": {
            "ContinuousBackupsStatus": status(Instant::now() >= table.backups_available),
            "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": status(table.point_in_time_recovery) },
        } }))
    }

    fn add_index(
        &mut self,
        table: &str,
        created: &Value,
        attributes: &Value,
        now: Instant,
    ) -> Result<(), ServiceError> {
        let index = IndexSchema::parse(created)?;
        let warm = self.requested_warm(created, self.warm)?;
        self.replicas.create(table, &index, attributes)?;
        let active = now + self.durations.table + self.durations.index;
        let Some(known) = self.tables.get_mut(table) else { return Ok(()) };
        self.meter.add(&known.schema.index_resource(&index.name), warm, now);
        let name = index.name.clone();
        known.add_index(index, active);
        self.backfill(table, &name, now)
    }

    /// Fills a new index with the items that the table holds, free of charge.
    fn backfill(&mut self, table: &str, index: &str, now: Instant) -> Result<(), ServiceError> {
        let schema = self.table_named(table)?.schema.clone();
        let mut request = json!({ "TableName": table });
        loop {
            let page = self.items.page("Scan", request.clone())?;
            for found in page.items.iter().flatten() {
                let writes = index_writes(&schema, None, Some(found)).into_iter();
                for write in writes.filter(|write| write.index == index) {
                    self.replicas.send(table, &schema.keys, write, now);
                }
            }
            let Some(last_key) = page.last_key else { return Ok(()) };
            request["ExclusiveStartKey"] = json!(last_key);
        }
    }

    fn remove_index(&mut self, table: &str, index: &str) -> Result<(), ServiceError> {
        let Some(known) = self.tables.get_mut(table) else { return Ok(()) };
        self.meter.remove(&known.schema.index_resource(index));
        known.remove_index(index);
        self.replicas.remove(table, index)
    }

    /// The table and the indexes that a request warms, with what it warms them to.
    fn warmed_resources(
        &self,
        table: &str,
        request: &Value,
        updates: &[Value],
    ) -> Result<Vec<(String, WarmThroughput)>, ServiceError> {
        let index_requests = updates
            .iter()
            .map(|update| &update["Update"])
            .filter_map(|update| Some((format!("{table}/{}", update["IndexName"].as_str()?), update)));
        let requests = std::iter::once((table.to_owned(), request)).chain(index_requests);
        let requests = requests.filter(|(_, request)| request["WarmThroughput"].is_object());
        requests
            .map(|(resource, request)| {
                let present = self.meter.warm(&resource);
                let warm = self.requested_warm(request, present)?;
                if warm.write < present.write || warm.read < present.read {
                    return Err(ServiceError::validation("Warm throughput cannot be decreased"));
                }
                Ok((resource, warm))
            })
            .collect()
    }

    /// What a request warms a table or an index to; the rest stays as it is otherwise.
    fn requested_warm(&self, request: &Value, otherwise: WarmThroughput) -> Result<WarmThroughput, ServiceError> {
        let limits = &self.meter.limits;
        let units = |member: &str, otherwise: f64, quota: f64| match request["WarmThroughput"][member].as_f64() {
            Some(units) if units > quota => {
                let message = format!("The requested {member} exceeds the quota of a table");
                Err(ServiceError::new("LimitExceededException", &message))
            }
            units => Ok(units.unwrap_or(otherwise)),
        };
        Ok(WarmThroughput {
            write: units("WriteUnitsPerSecond", otherwise.write, limits.quota_write)?,
            read: units("ReadUnitsPerSecond", otherwise.read, limits.quota_read)?,
        })
    }
}

fn no_backups_of(table: &str) -> ServiceError {
    ServiceError::new("TableNotFoundException", &format!("Table not found: {table}"))
}

fn remove_warm(request: &mut Value) {
    if let Some(members) = request.as_object_mut() {
        members.remove("WarmThroughput");
    }
}

fn without_warm(mut update: Value) -> Value {
    remove_warm(&mut update["Create"]);
    update
}

fn set_or_remove(request: &mut Value, member: &str, values: Vec<Value>) {
    let Some(members) = request.as_object_mut() else { return };
    if values.is_empty() {
        members.remove(member);
    } else {
        members.insert(member.to_owned(), json!(values));
    }
}
