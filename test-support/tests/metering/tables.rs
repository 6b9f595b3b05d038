//! Operations on tables: what takes time on AWS takes time here, if the settings say so.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::metering::{Durations, MeteringSettings};
use tokio::time::sleep;

use super::support::{Engine, TABLE, error_name, keys, plain, pool, sandbox, status_query, unlimited};

fn slow() -> MeteringSettings {
    let durations = Durations {
        table: Duration::from_secs(5),
        index: Duration::from_secs(60),
        backups: Duration::from_secs(600),
        ..Durations::default()
    };
    MeteringSettings { durations, ..unlimited() }
}

async fn described(engine: &Engine) -> Value {
    engine.ok("DescribeTable", json!({ "TableName": TABLE })).await["Table"].take()
}

fn index_of<'a>(table: &'a Value, name: &str) -> &'a Value {
    let indexes = table["GlobalSecondaryIndexes"].as_array().unwrap();
    indexes.iter().find(|index| index["IndexName"] == name).unwrap()
}

/// `UpdateTable` that adds an index by a status that items already have.
fn add_index() -> Value {
    json!({
        "TableName": TABLE,
        "AttributeDefinitions": [
            { "AttributeName": "status_shard", "AttributeType": "S" },
            { "AttributeName": "allocated_at", "AttributeType": "N" },
        ],
        "GlobalSecondaryIndexUpdates": [{ "Create": {
            "IndexName": "Added",
            "KeySchema": keys("status_shard", "allocated_at"),
            "Projection": { "ProjectionType": "ALL" },
            "WarmThroughput": { "WriteUnitsPerSecond": 12_000 },
        } }],
    })
}

#[tokio::test(start_paused = true)]
async fn a_new_table_is_being_created_for_a_while() {
    let engine = Engine::with_pool(slow()).await;
    let table = described(&engine).await;
    assert_eq!(table["TableStatus"], "CREATING");
    assert_eq!(index_of(&table, "StatusIndex")["IndexStatus"], "CREATING");
    assert!(index_of(&table, "StatusIndex").get("Backfilling").is_none());
    assert_eq!(error_name(&engine.put(plain("early", 10)).await.unwrap_err()), "ResourceNotFoundException");
    assert_eq!(engine.error("CreateTable", pool()).await, "ResourceInUseException");
    sleep(Duration::from_secs(5)).await;
    let table = described(&engine).await;
    assert_eq!(table["TableStatus"], "ACTIVE");
    assert_eq!(index_of(&table, "StatusIndex")["IndexStatus"], "ACTIVE");
    engine.put(plain("later", 10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_added_index_is_backfilled_and_then_read() {
    let engine = Engine::with_pool(slow()).await;
    sleep(Duration::from_secs(5)).await;
    let mut item = sandbox("old", "available#00");
    item["allocated_at"] = json!({ "N": "7" });
    engine.put(item.clone()).await.unwrap();
    engine.ok("UpdateTable", add_index()).await;
    let table = described(&engine).await;
    assert_eq!(table["TableStatus"], "UPDATING");
    assert_eq!(index_of(&table, "Added")["IndexStatus"], "CREATING");
    assert_eq!(index_of(&table, "Added")["Backfilling"], true);
    item["PK"] = json!({ "S": "new" });
    engine.put(item).await.expect("the table is used meanwhile");
    let mut query = status_query("available#00");
    query["IndexName"] = json!("Added");
    let error = engine.call("Query", query.clone()).await.unwrap_err();
    assert_eq!(error["message"], "Cannot read from backfilling global secondary index: Added");
    assert_eq!(engine.error("UpdateTable", add_index()).await, "ResourceInUseException");
    sleep(Duration::from_secs(5)).await;
    let mut another = add_index();
    another["GlobalSecondaryIndexUpdates"][0]["Create"]["IndexName"] = json!("Another");
    assert_eq!(engine.error("UpdateTable", another).await, "LimitExceededException", "one index at a time");
    sleep(Duration::from_secs(60)).await;
    let table = described(&engine).await;
    assert_eq!(index_of(&table, "Added")["IndexStatus"], "ACTIVE");
    assert_eq!(index_of(&table, "Added")["WarmThroughput"]["WriteUnitsPerSecond"], 12_000);
    assert_eq!(engine.ok("Query", query).await["Count"], 2);
    assert_eq!(engine.0.counters().resource("pool/Added").write_units.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn an_index_is_removed() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, [sandbox("s", "available#00")]);
    let remove = json!({
        "TableName": TABLE,
        "GlobalSecondaryIndexUpdates": [{ "Delete": { "IndexName": "StatusIndex" } }],
    });
    engine.ok("UpdateTable", remove).await;
    assert_eq!(engine.error("Query", status_query("available#00")).await, "ValidationException");
    let put = json!({ "TableName": TABLE, "Item": sandbox("t", "available#00") });
    assert_eq!(engine.units_of("PutItem", put).await, (1.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_table_and_its_indexes_are_warmed() {
    let engine = Engine::with_pool(slow()).await;
    sleep(Duration::from_secs(5)).await;
    let warm = |units: u64| {
        json!({
            "TableName": TABLE,
            "WarmThroughput": { "WriteUnitsPerSecond": units, "ReadUnitsPerSecond": 12_000 },
            "GlobalSecondaryIndexUpdates": [{ "Update": {
                "IndexName": "StatusIndex", "WarmThroughput": { "WriteUnitsPerSecond": units },
            } }],
        })
    };
    let table = engine.ok("UpdateTable", warm(12_000)).await["TableDescription"].take();
    assert_eq!(table["WarmThroughput"]["WriteUnitsPerSecond"], 12_000);
    assert_eq!(table["WarmThroughput"]["Status"], "UPDATING");
    assert_eq!(index_of(&table, "StatusIndex")["WarmThroughput"]["WriteUnitsPerSecond"], 12_000);
    assert_eq!(index_of(&table, "TrackIndex")["WarmThroughput"]["WriteUnitsPerSecond"], 4_000);
    let counters = engine.0.counters();
    assert_eq!(counters.resource(TABLE).write_units.len(), 12);
    assert_eq!(counters.resource("pool/StatusIndex").write_units.len(), 12);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(engine.error("UpdateTable", warm(8_000)).await, "ValidationException", "never colder");
    assert_eq!(engine.error("UpdateTable", warm(40_001)).await, "LimitExceededException", "beyond the quota");
}

#[tokio::test(start_paused = true)]
async fn continuous_backups_are_unavailable_at_first() {
    let engine = Engine::with_pool(slow()).await;
    let describe = json!({ "TableName": TABLE });
    let switch_on = json!({
        "TableName": TABLE, "PointInTimeRecoverySpecification": { "PointInTimeRecoveryEnabled": true },
    });
    sleep(Duration::from_secs(300)).await;
    let error = engine.error("UpdateContinuousBackups", switch_on.clone()).await;
    assert_eq!(error, "ContinuousBackupsUnavailableException");
    sleep(Duration::from_secs(305)).await;
    let status = async || {
        let mut answer = engine.ok("DescribeContinuousBackups", describe.clone()).await;
        answer["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"].take()
    };
    assert_eq!(status().await, "DISABLED");
    engine.ok("UpdateContinuousBackups", switch_on).await;
    assert_eq!(status().await, "ENABLED");
}

#[tokio::test(start_paused = true)]
async fn time_to_live_is_set_and_described() {
    let engine = Engine::with_pool(unlimited()).await;
    let specification = json!({ "AttributeName": "ttl", "Enabled": true });
    engine.ok("UpdateTimeToLive", json!({ "TableName": TABLE, "TimeToLiveSpecification": specification })).await;
    let answer = engine.ok("DescribeTimeToLive", json!({ "TableName": TABLE })).await;
    assert_eq!(answer["TimeToLiveDescription"]["AttributeName"], "ttl");
}

#[tokio::test(start_paused = true)]
async fn a_removed_table_leaves_nothing() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, [sandbox("s", "available#00")]);
    engine.ok("DeleteTable", json!({ "TableName": TABLE })).await;
    assert_eq!(engine.error("DescribeTable", json!({ "TableName": TABLE })).await, "ResourceNotFoundException");
    engine.ok("CreateTable", pool()).await;
    assert!(engine.listed("available#00").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn other_operations_are_unknown() {
    let engine = Engine::with_pool(unlimited()).await;
    assert_eq!(engine.error("ExecuteStatement", json!({})).await, "UnknownOperationException");
}
