//! Rule 8: the shapes of throttles.

use serde_json::{Value, json};
use test_support::metering::{MeteringSettings, Placement};

use super::support::{Engine, TABLE, cold_key, error_name, instant, moved, plain, put_new, reasons, sandbox};

/// The partition of keys that begin with `hot` is used up.
async fn throttled() -> Engine {
    let engine =
        Engine::with_pool(MeteringSettings { placement: Placement::together(TABLE, "hot"), ..instant() }).await;
    while engine.put(plain("hot", 100_000)).await.is_ok() {}
    while engine.put(plain("hot-small", 10)).await.is_ok() {}
    engine
}

#[tokio::test(start_paused = true)]
async fn single_writes_meet_both_codes_in_turn() {
    let engine = throttled().await;
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(error_name(&engine.put(plain("hot", 10)).await.unwrap_err()));
    }
    names.sort();
    names.dedup();
    assert_eq!(names, ["ProvisionedThroughputExceededException", "ThrottlingException"]);
    let error = engine.put(plain("hot", 10)).await.unwrap_err();
    let reasons = error.get("ThrottlingReasons").or_else(|| error.get("throttlingReasons")).unwrap();
    assert_eq!(reasons[0]["reason"], "TableWriteKeyRangeThroughputExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_names_the_throttled_item() {
    let engine = throttled().await;
    let cold = &cold_key(TABLE);
    let error = engine.transact(&[put_new(&plain(cold, 10)), put_new(&plain("hot-too", 10))]).await.unwrap_err();
    assert_eq!(reasons(&error), ["None", "ThrottlingError"]);
    assert_eq!(engine.get(cold).await, Value::Null, "nothing is written");
    let counters = engine.0.counters();
    assert_eq!(counters.operation("TransactWriteItems").throttled, 1);
    assert_eq!(counters.operation("TransactWriteItems").write_units, 0.0);
}

#[tokio::test(start_paused = true)]
async fn each_other_item_of_a_throttled_transaction_has_its_own_verdict() {
    let engine = throttled().await;
    let cold = &cold_key(TABLE);
    let held = plain(cold, 50);
    engine.0.load(TABLE, [held.clone(), sandbox("hot-sandbox", "available#00")]);
    let error = engine.transact(&[put_new(&plain(cold, 10)), moved("hot-sandbox", "allocated#00")]).await;
    let error = error.unwrap_err();
    assert_eq!(reasons(&error), ["ConditionalCheckFailed", "ThrottlingError"]);
    assert_eq!(error["CancellationReasons"][0]["Item"], held, "the old item, as the request asks for it");
    let expected = "Transaction cancelled, please refer cancellation reasons for specific reasons \
        [ConditionalCheckFailed, ThrottlingError]";
    assert_eq!(error["Message"], expected);
    assert_eq!(engine.get("hot-sandbox").await, sandbox("hot-sandbox", "available#00"));
    assert_eq!(engine.0.counters().operation("TransactWriteItems").write_units, 2.0, "the failed condition costs");
}

#[tokio::test(start_paused = true)]
async fn a_refused_item_comes_without_its_old_form_unless_asked_for() {
    let engine = Engine::with_pool(instant()).await;
    engine.0.load(TABLE, [plain("held", 10)]);
    let put = json!({ "Put": {
        "TableName": TABLE, "Item": plain("held", 10), "ConditionExpression": "attribute_not_exists(PK)",
    } });
    let error = engine.transact(&[put]).await.unwrap_err();
    assert_eq!(reasons(&error), ["ConditionalCheckFailed"]);
    assert!(error["CancellationReasons"][0].get("Item").is_none());
}
