//! A table of sandboxes on an engine, and short forms of requests.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::metering::{
    Durations, Lag, Limits, MeteringEngine, MeteringSettings, Reply, WarmThroughput, partition_of,
};

pub(crate) const TABLE: &str = "pool";
pub(crate) const STATUS_INDEX: &str = "pool/StatusIndex";

/// An engine with a short form of its calls.
pub(crate) struct Engine(pub(crate) MeteringEngine);

/// Settings without lag.
pub(crate) fn settings() -> MeteringSettings {
    MeteringSettings { seed: 7, lag: Lag::none(), ..MeteringSettings::default() }
}

/// Settings without lag and without limits.
pub(crate) fn unlimited() -> MeteringSettings {
    MeteringSettings { limits: Limits::unlimited(), ..settings() }
}

/// Settings whose transactions take no time, in which buckets would fill.
pub(crate) fn instant() -> MeteringSettings {
    let durations = Durations { transaction: Duration::ZERO..=Duration::ZERO, ..Durations::default() };
    MeteringSettings { durations, ..settings() }
}

/// Settings for a table and indexes of one partition each.
pub(crate) fn one_partition() -> MeteringSettings {
    MeteringSettings { warm: WarmThroughput { write: 1_000.0, read: 3_000.0 }, ..instant() }
}

impl Engine {
    /// An engine with the broker's table.
    pub(crate) async fn with_pool(settings: MeteringSettings) -> Self {
        let engine = Self::empty(settings);
        engine.ok("CreateTable", pool()).await;
        engine
    }

    pub(crate) fn empty(settings: MeteringSettings) -> Self {
        Self(MeteringEngine::new(settings))
    }

    /// The answer's JSON, if it is a success, else the error's.
    pub(crate) async fn call(&self, operation: &str, request: Value) -> Result<Value, Value> {
        match self.0.answer(operation, request).await {
            Reply::Json(200, body) => Ok(body),
            Reply::Json(_, body) => Err(body),
            reply => panic!("{operation} was answered with {reply:?}"),
        }
    }

    pub(crate) async fn ok(&self, operation: &str, request: Value) -> Value {
        self.call(operation, request).await.unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    /// The name of the error that a request meets.
    pub(crate) async fn error(&self, operation: &str, request: Value) -> String {
        match self.call(operation, request).await {
            Ok(answer) => panic!("{operation} succeeded: {answer}"),
            Err(error) => error_name(&error),
        }
    }

    pub(crate) async fn put(&self, item: Value) -> Result<Value, Value> {
        self.call("PutItem", json!({ "TableName": TABLE, "Item": item })).await
    }

    pub(crate) async fn get(&self, id: &str) -> Value {
        let request = json!({ "TableName": TABLE, "Key": key(id), "ConsistentRead": true });
        self.ok("GetItem", request).await["Item"].take()
    }

    pub(crate) async fn transact(&self, items: &[Value]) -> Result<Value, Value> {
        self.call("TransactWriteItems", json!({ "TransactItems": items })).await
    }

    /// The ids that the status index shows under a key.
    pub(crate) async fn listed(&self, status_shard: &str) -> Vec<String> {
        let items = self.ok("Query", status_query(status_shard)).await["Items"].take();
        let items = items.as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["PK"]["S"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The write units of the table and of the status index that a request consumed.
    pub(crate) async fn units_of(&self, operation: &str, request: Value) -> (f64, f64) {
        self.0.reset_counters();
        // A refused request consumes as well.
        let _ = self.call(operation, request).await;
        let counters = self.0.counters();
        (counters.resource(TABLE).total_write_units(), counters.resource(STATUS_INDEX).total_write_units())
    }
}

/// A key that the seed of these settings does not place in the first of four partitions.
pub(crate) fn cold_key(resource: &str) -> String {
    let mut keys = (0..).map(|n| format!("cold{n}"));
    keys.find(|key| partition_of(settings().seed, resource, key, 4) != 0).expect("keys are spread")
}

/// `CreateTable` for the broker's table.
pub(crate) fn pool() -> Value {
    let index = |name: &str, hash: &str, range: &str| {
        json!({
            "IndexName": name,
            "KeySchema": keys(hash, range),
            "Projection": { "ProjectionType": "ALL" },
        })
    };
    json!({
        "TableName": TABLE,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": keys("PK", "SK"),
        "AttributeDefinitions": [
            { "AttributeName": "PK", "AttributeType": "S" },
            { "AttributeName": "SK", "AttributeType": "S" },
            { "AttributeName": "status_shard", "AttributeType": "S" },
            { "AttributeName": "shard_at", "AttributeType": "N" },
            { "AttributeName": "allocated_to_track", "AttributeType": "S" },
            { "AttributeName": "idempotency_key", "AttributeType": "S" },
            { "AttributeName": "allocated_at", "AttributeType": "N" },
        ],
        "GlobalSecondaryIndexes": [
            index("StatusIndex", "status_shard", "shard_at"),
            index("TrackIndex", "allocated_to_track", "allocated_at"),
            index("IdempotencyIndex", "idempotency_key", "allocated_at"),
        ],
    })
}

pub(crate) fn keys(hash: &str, range: &str) -> Value {
    json!([
        { "AttributeName": hash, "KeyType": "HASH" },
        { "AttributeName": range, "KeyType": "RANGE" },
    ])
}

pub(crate) fn key(id: &str) -> Value {
    json!({ "PK": { "S": id }, "SK": { "S": "META" } })
}

/// A sandbox in the status index.
pub(crate) fn sandbox(id: &str, status_shard: &str) -> Value {
    let mut item = key(id);
    item["status_shard"] = json!({ "S": status_shard });
    item["shard_at"] = json!({ "N": "1" });
    item
}

/// An item outside of all indexes, of this number of bytes, if it is not fewer than the keys need.
pub(crate) fn plain(id: &str, bytes: usize) -> Value {
    let mut item = key(id);
    item["filler"] = json!({ "S": "x".repeat(bytes.saturating_sub("PKSKMETAfiller".len() + id.len())) });
    item
}

/// A member of `TransactItems` that puts an item if there is none.
pub(crate) fn put_new(item: &Value) -> Value {
    json!({ "Put": {
        "TableName": TABLE,
        "Item": item,
        "ConditionExpression": "attribute_not_exists(PK)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    } })
}

/// A member of `TransactItems` that moves a sandbox to another key of the status index.
pub(crate) fn moved(id: &str, status_shard: &str) -> Value {
    json!({ "Update": {
        "TableName": TABLE,
        "Key": key(id),
        "UpdateExpression": "SET status_shard = :to",
        "ConditionExpression": "attribute_exists(PK)",
        "ExpressionAttributeValues": { ":to": { "S": status_shard } },
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    } })
}

pub(crate) fn status_query(status_shard: &str) -> Value {
    json!({
        "TableName": TABLE,
        "IndexName": "StatusIndex",
        "KeyConditionExpression": "status_shard = :shard",
        "ExpressionAttributeValues": { ":shard": { "S": status_shard } },
    })
}

pub(crate) fn error_name(error: &Value) -> String {
    let name = error["__type"].as_str().unwrap_or_default();
    name.rsplit('#').next().unwrap_or_default().to_owned()
}

/// The codes of a cancelled transaction.
pub(crate) fn reasons(error: &Value) -> Vec<&str> {
    assert_eq!(error_name(error), "TransactionCanceledException", "{error}");
    let reasons = error["CancellationReasons"].as_array().expect("there are reasons");
    reasons.iter().filter_map(|reason| reason["Code"].as_str()).collect()
}
