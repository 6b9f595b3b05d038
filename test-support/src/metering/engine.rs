//! The server without HTTP: a request in, an answer out. On tokio's clock, so that tests can pause it.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::commit::Committed;
use super::counters::Counters;
use super::error::{ErrorKind, ServiceError};
use super::faults::{Fault, FaultRule, draw};
use super::settings::{Durations, Lag, Limits, MeteringSettings};
use super::state::State;
use super::transaction::{Arrival, repeated};
use super::units::index_writes;

/// The server's state and rules. Clones share them.
#[derive(Clone)]
pub struct MeteringEngine {
    state: Arc<Mutex<State>>,
}

/// What the client sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// An HTTP status with DynamoDB's JSON.
    Json(u16, Value),
    /// An HTTP status with a page of HTML.
    Html(u16),
    /// The connection is closed.
    Closed,
    /// The connection stays open.
    Silent,
}

impl MeteringEngine {
    /// An engine without tables.
    pub fn new(settings: MeteringSettings) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(settings))) }
    }

    /// Answers a request. A dropped future may leave a transaction's keys marked: spawn it.
    pub async fn answer(&self, operation: &str, request: Value) -> Reply {
        let fault = {
            let mut state = self.state.lock();
            let state = &mut *state;
            draw(&mut state.faults, operation, &mut state.random)
        };
        let reply = match &fault {
            Some(FaultRule { executed: false, .. }) => None,
            _ => Some(self.execute(operation, request).await),
        };
        let mut state = self.state.lock();
        let counters = state.meter.counters.operations.entry(operation.to_owned()).or_default();
        counters.requests += 1;
        match &reply {
            Some(Ok(_)) => counters.succeeded += 1,
            Some(Err(error)) if error.kind == ErrorKind::Throttled => counters.throttled += 1,
            Some(Err(error)) if error.kind == ErrorKind::Conflict => counters.conflicts += 1,
            _ => {}
        }
        if let Some(rule) = fault {
            counters.faults += 1;
            return rule.fault.into();
        }
        match reply {
            Some(Ok(body)) => Reply::Json(200, body),
            Some(Err(ServiceError { status, body, .. })) => Reply::Json(status, body),
            None => Reply::Closed,
        }
    }

    /// Adds a fault. The first rule that applies to a request decides.
    pub fn add_fault(&self, rule: FaultRule) {
        self.state.lock().faults.push(rule);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Changes the limits. The number of partitions stays.
    pub fn set_limits(&self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.state.lock().meter.limits);
    }

    /// Changes the lag of writes to come.
    pub fn set_lag(&self, lag: Lag) {
        self.state.lock().lag = lag;
    }

    /// Changes how long things take that start later.
    pub fn set_durations(&self, durations: Durations) {
        self.state.lock().durations = durations;
    }

    /// Shows all later commits to this witness, each before any other request can see it.
    pub fn on_commit(&self, witness: impl FnMut(Vec<Committed>) + Send + 'static) {
        self.state.lock().witness = Some(Box::new(witness));
    }

    /// All counters.
    pub fn counters(&self) -> Counters {
        self.state.lock().meter.counters.clone()
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        self.state.lock().meter.reset_counters();
    }

    /// Puts items into a table, visible in its indexes at once and free of charge. Each is in DynamoDB's JSON.
    ///
    /// # Panics
    /// If the table does not exist or does not take an item.
    pub fn load(&self, table: &str, items: impl IntoIterator<Item = Value>) {
        let mut state = self.state.lock();
        for attributes in items {
            state.load(table, &attributes).unwrap_or_else(|error| panic!("{attributes}: {}", error.body));
        }
    }

    async fn execute(&self, operation: &str, request: Value) -> Result<Value, ServiceError> {
        if operation != "TransactWriteItems" {
            return self.state.lock().execute(operation, request);
        }
        let prepared = match self.state.lock().prepare(&request)? {
            Arrival::Repeated => return Ok(repeated()),
            Arrival::Prepared(prepared) => prepared,
        };
        if !prepared.wait.is_zero() {
            sleep(prepared.wait).await;
        }
        self.state.lock().commit(&prepared)
    }
}

impl State {
    fn execute(&mut self, operation: &str, request: Value) -> Result<Value, ServiceError> {
        self.replicas.settle(Instant::now())?;
        match operation {
            "PutItem" | "UpdateItem" | "DeleteItem" => self.write(operation, request),
            "GetItem" => self.get_item(request),
            "BatchGetItem" => self.batch_get_item(request),
            "Query" | "Scan" => self.page(operation, request),
            "CreateTable" => self.create_table(request),
            "DescribeTable" => self.describe_table(request),
            "UpdateTable" => self.update_table(request),
            "DeleteTable" => self.delete_table(request),
            "UpdateContinuousBackups" => self.update_continuous_backups(&request),
            "DescribeContinuousBackups" => self.describe_continuous_backups(&request),
            _ => self.items.call(operation, request),
        }
    }

    fn load(&mut self, table: &str, attributes: &Value) -> Result<(), ServiceError> {
        let now = Instant::now();
        let target = self.target(table, &super::schema::item(attributes)?)?;
        let before = self.get(&target)?;
        self.items.call("PutItem", json!({ "TableName": table, "Item": attributes }))?;
        let after = self.get(&target)?;
        for write in index_writes(&target.schema, before.as_ref(), after.as_ref()) {
            self.replicas.send(table, &target.schema.keys, write, now);
        }
        self.replicas.settle(now)
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Error { status, code, message } => {
                let type_name = format!("com.amazonaws.dynamodb.v20120810#{code}");
                Self::Json(status, ServiceError::of_type(status, &type_name, &message).body)
            }
            Fault::Html { status } => Self::Html(status),
            Fault::Closed => Self::Closed,
            Fault::Silent => Self::Silent,
        }
    }
}
