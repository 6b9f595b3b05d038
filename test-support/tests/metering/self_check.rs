//! The server's units against those that dynoxide reports for the same operations.

use serde_json::{Value, json};
use test_support::metering::Lag;

use super::support::{Engine, TABLE, key, keys, pool, sandbox, status_query, unlimited};

/// Sums the table's and the indexes' units of `ConsumedCapacity`, and checks that the total is their sum.
fn reported(answer: &Value) -> f64 {
    let capacities = match &answer["ConsumedCapacity"] {
        Value::Array(capacities) => capacities.clone(),
        capacity => vec![capacity.clone()],
    };
    let sum = |capacity: &Value| {
        let indexes = capacity["GlobalSecondaryIndexes"].as_object();
        let indexes = indexes.into_iter().flat_map(|indexes| indexes.values());
        let parts = indexes.chain([&capacity["Table"]]).filter_map(|part| part["CapacityUnits"].as_f64()).sum::<f64>();
        assert_eq!(capacity["CapacityUnits"].as_f64(), Some(parts), "{capacity}");
        parts
    };
    capacities.iter().map(sum).sum()
}

/// An item of random size, with the keys of none, some or all indexes.
fn random_item(random: &mut fastrand::Rng) -> Value {
    let id = format!("s{}", random.u8(0..20));
    let mut item =
        if random.bool() { sandbox(&id, random.choice(["available#00", "allocated#01"]).unwrap()) } else { key(&id) };
    if random.bool() {
        item["allocated_at"] = json!({ "N": random.u32(0..3).to_string() });
    }
    if random.bool() {
        item["allocated_to_track"] = json!({ "S": format!("t{}", random.u8(0..3)) });
    }
    if random.bool() {
        item["idempotency_key"] = json!({ "S": format!("k{}", random.u8(0..3)) });
    }
    if item.get("shard_at").is_some() {
        item["shard_at"] = unique_number(random);
    }
    item["name"] = json!({ "S": "x".repeat(random.usize(1..2_500)) });
    item["numbers"] = json!({ "NS": ["3", "1.50", "-2"] });
    item
}

/// DynamoDB leaves open in which order it lists equal keys of an index.
fn unique_number(random: &mut fastrand::Rng) -> Value {
    json!({ "N": random.u32(..).to_string() })
}

fn random_write(random: &mut fastrand::Rng) -> (&'static str, Value) {
    let id = format!("s{}", random.u8(0..20));
    let update = json!({
        "TableName": TABLE,
        "Key": key(&id),
        "UpdateExpression": "SET status_shard = :to, shard_at = :at REMOVE allocated_at",
        "ExpressionAttributeValues": {
            ":to": { "S": random.choice(["available#00", "pending#02"]).unwrap() },
            ":at": unique_number(random),
        },
    });
    match random.u8(0..4) {
        0 => ("PutItem", json!({ "TableName": TABLE, "Item": random_item(random) })),
        1 => ("UpdateItem", update),
        2 => ("DeleteItem", json!({ "TableName": TABLE, "Key": key(&id) })),
        _ => {
            let other = format!("o{}", random.u8(0..20));
            let item = random_item(random);
            let mut delete = json!({ "TableName": TABLE, "Key": key(&other) });
            delete["ConditionExpression"] = json!("attribute_not_exists(never)");
            let mut actions = vec![json!({ "Put": { "TableName": TABLE, "Item": item } }), json!({ "Delete": delete })];
            if item["PK"]["S"] != id.as_str() {
                actions.push(json!({ "Update": update }));
            }
            ("TransactWriteItems", json!({ "TransactItems": actions }))
        }
    }
}

fn random_read(random: &mut fastrand::Rng) -> (&'static str, Value) {
    let id = format!("s{}", random.u8(0..25));
    match random.u8(0..4) {
        0 => ("GetItem", json!({ "TableName": TABLE, "Key": key(&id), "ConsistentRead": random.bool() })),
        1 => {
            let mut query = status_query("available#00");
            query["Limit"] = json!(random.u8(1..30));
            if random.bool() {
                query["Select"] = json!("COUNT");
            }
            ("Query", query)
        }
        2 => ("Scan", json!({ "TableName": TABLE, "ConsistentRead": random.bool() })),
        _ => {
            let keys = json!([key(&id), key("s25")]);
            ("BatchGetItem", json!({ "RequestItems": { TABLE: { "Keys": keys, "ConsistentRead": random.bool() } } }))
        }
    }
}

/// The same operations on a dynoxide database that nothing meters.
fn bare(database: &dynoxide::Database, operation: &str, request: Value) -> Value {
    fn parse<T: serde::de::DeserializeOwned>(request: Value) -> T {
        serde_json::from_value(request).unwrap()
    }
    match operation {
        "CreateTable" => json!(database.create_table(parse(request)).unwrap()),
        "PutItem" => json!(database.put_item(parse(request)).unwrap()),
        "UpdateItem" => json!(database.update_item(parse(request)).unwrap()),
        "DeleteItem" => json!(database.delete_item(parse(request)).unwrap()),
        "TransactWriteItems" => json!(database.transact_write_items(parse(request)).unwrap()),
        "GetItem" => json!(database.get_item(parse(request)).unwrap()),
        "BatchGetItem" => json!(database.batch_get_item(parse(request)).unwrap()),
        "Query" => json!(database.query(parse(request)).unwrap()),
        "Scan" => json!(database.scan(parse(request)).unwrap()),
        other => panic!("{other} is not part of the comparison"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_units_are_those_that_dynoxide_reports() {
    let mut table = pool();
    // One index that projects a part.
    table["GlobalSecondaryIndexes"][1] = json!({
        "IndexName": "TrackIndex",
        "KeySchema": keys("allocated_to_track", "allocated_at"),
        "Projection": { "ProjectionType": "KEYS_ONLY" },
    });
    let engine = Engine::empty(unlimited());
    engine.0.set_lag(Lag::none());
    let database = dynoxide::Database::memory().unwrap();
    bare(&database, "CreateTable", table.clone());
    engine.ok("CreateTable", table).await;

    let mut random = fastrand::Rng::with_seed(1);
    let mut compared = 0.0;
    for _ in 0..3_000 {
        let (operation, mut request) =
            if random.u8(0..3) == 0 { random_read(&mut random) } else { random_write(&mut random) };
        request["ReturnConsumedCapacity"] = json!("INDEXES");
        engine.0.reset_counters();
        let answer = engine.ok(operation, request.clone()).await;
        let counters = engine.0.counters().operation(operation);
        let expected = reported(&bare(&database, operation, request.clone()));
        assert_eq!(counters.read_units + counters.write_units, expected, "{operation} {request}");
        assert_eq!(reported(&answer), expected, "{operation} reports what it consumes: {answer}");
        compared += expected;
    }
    assert!(compared > 5_000.0, "only {compared} units were compared");
}
