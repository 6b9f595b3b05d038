//! Rules 4 and 5: the units of a write, on the table and on its indexes.

use serde_json::{Value, json};

use super::support::{Engine, TABLE, keys, moved, plain, pool, put_new, sandbox, unlimited};

fn put(item: &Value) -> Value {
    json!({ "TableName": TABLE, "Item": item })
}

fn transaction(items: &[Value]) -> Value {
    json!({ "TransactItems": items })
}

/// A sandbox in the status index, with this number of bytes beside its keys.
fn large_sandbox(id: &str, status_shard: &str, bytes: usize) -> Value {
    let mut item = sandbox(id, status_shard);
    item["filler"] = json!({ "S": "x".repeat(bytes) });
    item
}

#[tokio::test(start_paused = true)]
async fn a_write_costs_the_larger_of_both_sizes() {
    let engine = Engine::with_pool(unlimited()).await;
    assert_eq!(engine.units_of("PutItem", put(&plain("a", 1_024))).await, (1.0, 0.0));
    assert_eq!(engine.units_of("PutItem", put(&plain("a", 1_025))).await, (2.0, 0.0));
    assert_eq!(engine.units_of("PutItem", put(&plain("a", 3_000))).await, (3.0, 0.0));
    assert_eq!(engine.units_of("PutItem", put(&plain("a", 100))).await, (3.0, 0.0), "the old size counts");
    let delete = json!({ "TableName": TABLE, "Key": super::support::key("a") });
    engine.ok("PutItem", put(&plain("a", 2_000))).await;
    assert_eq!(engine.units_of("DeleteItem", delete.clone()).await, (2.0, 0.0), "a delete costs the old size");
    assert_eq!(engine.units_of("DeleteItem", delete).await, (1.0, 0.0), "of nothing: the least");
}

#[tokio::test(start_paused = true)]
async fn a_failed_condition_costs_the_size_of_the_item_that_is_there() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, [plain("large", 2_500)]);
    let if_new = |id: &str| json!({ "TableName": TABLE, "Item": plain(id, 10), "ConditionExpression": "attribute_not_exists(PK)" });
    assert_eq!(engine.error("PutItem", if_new("large")).await, "ConditionalCheckFailedException");
    assert_eq!(engine.units_of("PutItem", if_new("large")).await, (3.0, 0.0));
    let if_there =
        json!({ "TableName": TABLE, "Item": plain("none", 9_000), "ConditionExpression": "attribute_exists(PK)" });
    assert_eq!(engine.units_of("PutItem", if_there).await, (1.0, 0.0), "of nothing: the least");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_pays_twice_on_the_table_and_once_on_indexes() {
    let engine = Engine::with_pool(unlimited()).await;
    let add = transaction(&[put_new(&plain("claim", 1_500)), put_new(&sandbox("s", "available#00"))]);
    assert_eq!(engine.units_of("TransactWriteItems", add.clone()).await, (4.0 + 2.0, 1.0));
    assert_eq!(engine.units_of("TransactWriteItems", add).await, (4.0 + 2.0, 0.0), "refused: only the table's");
    let change = transaction(&[moved("s", "allocated#00")]);
    assert_eq!(engine.units_of("TransactWriteItems", change).await, (2.0, 2.0));
    let missing = transaction(&[moved("missing", "allocated#00")]);
    assert_eq!(engine.units_of("TransactWriteItems", missing).await, (2.0, 0.0), "of nothing: the least, twice");
    let check = json!({ "ConditionCheck": {
        "TableName": TABLE, "Key": super::support::key("claim"), "ConditionExpression": "attribute_exists(PK)",
    } });
    assert_eq!(engine.units_of("TransactWriteItems", transaction(&[check])).await, (4.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn an_index_pays_for_what_appears_changes_and_disappears() {
    let engine = Engine::with_pool(unlimited()).await;
    let units = async |item: Value| engine.units_of("PutItem", put(&item)).await.1;
    assert_eq!(units(plain("s", 10)).await, 0.0, "no entry without its keys");
    let mut without_range = sandbox("s", "available#00");
    without_range.as_object_mut().unwrap().remove("shard_at");
    assert_eq!(units(without_range).await, 0.0, "nor with one of them");
    assert_eq!(units(sandbox("s", "available#00")).await, 1.0, "it appears");
    assert_eq!(units(sandbox("s", "available#00")).await, 0.0, "nothing changes");
    assert_eq!(units(large_sandbox("s", "available#00", 1_900)).await, 2.0, "it grows");
    assert_eq!(units(sandbox("s", "available#00")).await, 2.0, "it shrinks");
    assert_eq!(units(large_sandbox("s", "allocated#00", 1_900)).await, 1.0 + 2.0, "it moves: old and new");
    assert_eq!(units(plain("s", 10)).await, 2.0, "it disappears");
}

#[tokio::test(start_paused = true)]
async fn a_changed_key_is_charged_to_both_keys_partitions() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.load(TABLE, [sandbox("s", "available#00")]);
    let partition = |key: &str| test_support::metering::partition_of(7, "StatusIndex", key, 4);
    let other = (0..).map(|n| format!("allocated#{n:02x}")).find(|key| partition(key) != partition("available#00"));
    let other = other.unwrap();
    engine.0.reset_counters();
    engine.transact(&[moved("s", &other)]).await.unwrap();
    let units = engine.0.counters().resource("pool/StatusIndex").write_units;
    assert_eq!(units[partition("available#00")], 1.0);
    assert_eq!(units[partition(&other)], 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_index_pays_only_for_what_it_projects() {
    let engine = Engine::empty(unlimited());
    let mut table = pool();
    let index = json!({
        "IndexName": "StatusIndex",
        "KeySchema": keys("status_shard", "shard_at"),
        "Projection": { "ProjectionType": "INCLUDE", "NonKeyAttributes": ["name"] },
    });
    table["GlobalSecondaryIndexes"] = json!([index]);
    table["AttributeDefinitions"].as_array_mut().unwrap().truncate(4);
    engine.ok("CreateTable", table).await;
    assert_eq!(engine.units_of("PutItem", put(&large_sandbox("s", "available#00", 2_000))).await, (3.0, 1.0));
    assert_eq!(engine.units_of("PutItem", put(&large_sandbox("s", "available#00", 2_001))).await, (3.0, 0.0));
    let mut named = large_sandbox("s", "available#00", 2_001);
    named["name"] = json!({ "S": "lab-1" });
    assert_eq!(engine.units_of("PutItem", put(&named)).await, (3.0, 1.0));
}
