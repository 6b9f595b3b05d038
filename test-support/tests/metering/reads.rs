//! Rule 7: the units of reads, and batches with throttled keys.

use serde_json::{Value, json};
use test_support::metering::{MeteringSettings, Placement, partition_of};

use super::support::{Engine, TABLE, key, one_partition, plain, sandbox, settings, status_query, unlimited};

async fn read_units(engine: &Engine, operation: &str, request: Value) -> f64 {
    engine.0.reset_counters();
    engine.ok(operation, request).await;
    let counters = engine.0.counters();
    let by_resource: f64 = counters.resources.values().map(|resource| resource.total_read_units()).sum();
    assert!((by_resource - counters.read_units()).abs() < 1e-9);
    counters.operation(operation).read_units
}

fn get(id: &str, is_consistent: bool) -> Value {
    json!({ "TableName": TABLE, "Key": key(id), "ConsistentRead": is_consistent })
}

#[tokio::test(start_paused = true)]
async fn a_consistent_read_costs_each_4_kb_and_another_half() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, [plain("small", 4_096), plain("large", 4_097)]);
    assert_eq!(read_units(&engine, "GetItem", get("small", true)).await, 1.0);
    assert_eq!(read_units(&engine, "GetItem", get("large", true)).await, 2.0);
    assert_eq!(read_units(&engine, "GetItem", get("large", false)).await, 1.0);
    assert_eq!(read_units(&engine, "GetItem", get("none", true)).await, 1.0);
    assert_eq!(read_units(&engine, "GetItem", get("none", false)).await, 0.5);
    let mut projected = get("large", true);
    projected["ProjectionExpression"] = json!("PK");
    assert_eq!(read_units(&engine, "GetItem", projected).await, 2.0, "a projection saves nothing");
}

#[tokio::test(start_paused = true)]
async fn a_page_costs_half_a_unit_for_each_4_kb_read() {
    let engine = Engine::with_pool(unlimited()).await;
    let mut large = sandbox("", "available#00");
    large["filler"] = json!({ "S": "x".repeat(1_000) });
    let large = |n: usize| {
        let mut item = large.clone();
        item["PK"] = json!({ "S": format!("s{n:02}") });
        item
    };
    engine.0.load(TABLE, (0..10).map(large));
    // Ten items of a little over 1,000 bytes are three times 4 KB.
    assert_eq!(read_units(&engine, "Query", status_query("available#00")).await, 1.5);
    for member in [("Select", json!("COUNT")), ("ProjectionExpression", json!("PK"))] {
        let mut request = status_query("available#00");
        request[member.0] = member.1;
        assert_eq!(read_units(&engine, "Query", request).await, 1.5, "{} saves nothing", member.0);
    }
    let mut filtered = status_query("available#00");
    filtered["FilterExpression"] = json!("PK = :other");
    filtered["ExpressionAttributeValues"][":other"] = json!({ "S": "s03" });
    assert_eq!(engine.ok("Query", filtered.clone()).await["Count"], 1);
    assert_eq!(read_units(&engine, "Query", filtered).await, 1.5, "a filter saves nothing");
    let mut limited = status_query("available#00");
    limited["Limit"] = json!(2);
    assert_eq!(read_units(&engine, "Query", limited).await, 0.5);
    assert_eq!(read_units(&engine, "Query", status_query("none#00")).await, 0.5);
    let scan = json!({ "TableName": TABLE });
    assert_eq!(read_units(&engine, "Scan", scan).await, 1.5);
    let consistent = json!({ "TableName": TABLE, "ConsistentRead": true });
    assert_eq!(read_units(&engine, "Scan", consistent).await, 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_query_pays_at_the_partition_of_its_key_however_the_condition_is_written() {
    let engine = Engine::with_pool(unlimited()).await;
    let conditions =
        ["#shard = :shard", "status_shard=:shard AND shard_at<= :at", "shard_at > :at and (:shard = #shard)"];
    for condition in conditions {
        let mut request = status_query("available#00");
        request["KeyConditionExpression"] = json!(condition);
        if condition.contains('#') {
            request["ExpressionAttributeNames"] = json!({ "#shard": "status_shard" });
        }
        if condition.contains(":at") {
            request["ExpressionAttributeValues"][":at"] = json!({ "N": "7" });
        }
        engine.0.reset_counters();
        engine.ok("Query", request).await;
        let units = engine.0.counters().resource("pool/StatusIndex").read_units;
        let partition = partition_of(unlimited().seed, "StatusIndex", "available#00", 4);
        assert_eq!(units[partition], 0.5, "{condition}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_reports_the_units_of_an_index() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, [sandbox("s", "available#00")]);
    let mut request = status_query("available#00");
    request["ReturnConsumedCapacity"] = json!("INDEXES");
    let answer = engine.ok("Query", request).await;
    assert_eq!(answer["ConsumedCapacity"]["GlobalSecondaryIndexes"]["StatusIndex"]["CapacityUnits"], 0.5);
    assert_eq!(answer["ConsumedCapacity"]["CapacityUnits"], 0.5);
}

#[tokio::test(start_paused = true)]
async fn throttled_keys_of_a_batch_come_back_unprocessed() {
    let engine = Engine::with_pool(one_partition()).await;
    engine.0.load(TABLE, (0..10).map(|n| plain(&n.to_string(), 400_000)));
    let batch = |ids: std::ops::Range<usize>| {
        let keys: Vec<Value> = ids.map(|id| key(&id.to_string())).collect();
        json!({ "RequestItems": { TABLE: { "Keys": keys, "ConsistentRead": true } } })
    };
    // 98 units for each key: 30 of them are less than 3,000, 31 are more.
    for _ in 0..14 {
        assert_eq!(engine.ok("BatchGetItem", batch(0..2)).await["UnprocessedKeys"], json!({}));
    }
    let answer = engine.ok("BatchGetItem", batch(0..4)).await;
    assert_eq!(answer["Responses"][TABLE].as_array().unwrap().len(), 2);
    let unprocessed = &answer["UnprocessedKeys"][TABLE];
    assert_eq!(unprocessed["Keys"], json!([key("2"), key("3")]));
    assert_eq!(unprocessed["ConsistentRead"], true, "so that it can be sent as it is");
    assert_eq!(engine.0.counters().operation("BatchGetItem").throttled, 1);
    assert_eq!(
        engine.error("BatchGetItem", batch(5..7)).await,
        "ProvisionedThroughputExceededException",
        "an answer without any item is an error"
    );
}

#[tokio::test(start_paused = true)]
async fn an_indexs_reads_are_paid_by_its_own_partitions() {
    let placement = Placement::together("StatusIndex", "");
    let engine = Engine::with_pool(MeteringSettings { placement, ..settings() }).await;
    engine.0.load(TABLE, [sandbox("s", "available#00")]);
    engine.listed("available#00").await;
    let counters = engine.0.counters();
    assert_eq!(counters.resource("pool/StatusIndex").read_units, [0.5, 0.0, 0.0, 0.0]);
    assert_eq!(counters.resource(TABLE).total_read_units(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn pages_of_an_index_follow_each_other() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, (0..25).map(|n| sandbox(&format!("s{n:02}"), "available#00")));
    let mut request = status_query("available#00");
    request["Limit"] = json!(10);
    let mut found = Vec::new();
    loop {
        let answer = engine.ok("Query", request.clone()).await;
        found.extend(answer["Items"].as_array().unwrap().iter().map(|item| item["PK"].clone()));
        let last = &answer["LastEvaluatedKey"];
        if last.is_null() {
            break;
        }
        let names: Vec<&String> = last.as_object().unwrap().keys().collect();
        assert_eq!(names.len(), 4, "the keys of the index and of the table: {names:?}");
        request["ExclusiveStartKey"] = last.clone();
        // A cursor outlives its item.
        engine.ok("DeleteItem", json!({ "TableName": TABLE, "Key": { "PK": last["PK"], "SK": last["SK"] } })).await;
    }
    found.sort_by_key(Value::to_string);
    found.dedup();
    assert_eq!(found.len(), 25);
}
