//! Rule 9: transactions mark their keys for a few milliseconds.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::support::{Engine, TABLE, error_name, key, moved, plain, put_new, reasons, sandbox, settings};

/// Starts a transaction on `s` and returns when its keys are marked.
async fn ongoing(engine: &Engine) -> tokio::task::JoinHandle<Result<Value, Value>> {
    engine.0.load(TABLE, [sandbox("s", "available#00")]);
    let engine = Engine(engine.0.clone());
    let transaction = tokio::spawn(async move { engine.transact(&[moved("s", "allocated#00")]).await });
    sleep(Duration::from_millis(1)).await;
    transaction
}

#[tokio::test(start_paused = true)]
async fn a_transaction_takes_4_to_8_ms() {
    let engine = Engine::with_pool(settings()).await;
    for n in 0..20 {
        let started = Instant::now();
        engine.transact(&[put_new(&plain(&n.to_string(), 10))]).await.unwrap();
        let taken = started.elapsed();
        assert!((Duration::from_millis(4)..Duration::from_millis(10)).contains(&taken), "{taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_transaction_on_a_marked_key_is_cancelled() {
    let engine = Engine::with_pool(settings()).await;
    let claim = plain("claim", 10);
    engine.0.load(TABLE, [claim.clone()]);
    let first = ongoing(&engine).await;
    let error = engine.transact(&[put_new(&plain("claim", 20)), moved("s", "deleted#00")]).await.unwrap_err();
    assert_eq!(reasons(&error), ["ConditionalCheckFailed", "TransactionConflict"]);
    assert_eq!(error["CancellationReasons"][0]["Item"], claim);
    let error = engine.transact(&[put_new(&plain("new", 20)), moved("s", "deleted#00")]).await.unwrap_err();
    assert_eq!(reasons(&error), ["None", "TransactionConflict"]);
    first.await.unwrap().unwrap();
    assert_eq!(engine.get("s").await["status_shard"]["S"], "allocated#00");
    assert_eq!(engine.get("new").await, Value::Null);
    assert_eq!(engine.0.counters().conflicts(), 2);
    engine.transact(&[moved("s", "deleted#00")]).await.expect("the marks are gone");
}

#[tokio::test(start_paused = true)]
async fn single_writes_meet_conflicts_and_reads_do_not() {
    let engine = Engine::with_pool(settings()).await;
    let first = ongoing(&engine).await;
    let error = engine.put(sandbox("s", "deleted#00")).await.unwrap_err();
    assert_eq!(error_name(&error), "TransactionConflictException");
    let delete = json!({ "TableName": TABLE, "Key": key("s") });
    assert_eq!(engine.error("DeleteItem", delete).await, "TransactionConflictException");
    assert_eq!(engine.get("s").await["status_shard"]["S"], "available#00", "a read sees what was before");
    engine.put(sandbox("other", "deleted#00")).await.expect("other keys are not marked");
    first.await.unwrap().unwrap();
    engine.put(sandbox("s", "deleted#00")).await.expect("the marks are gone");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_transaction_leaves_no_marks() {
    let engine = Engine::with_pool(settings()).await;
    assert_eq!(
        reasons(&engine.transact(&[moved("none", "deleted#00")]).await.unwrap_err()),
        ["ConditionalCheckFailed"]
    );
    engine.put(sandbox("none", "available#00")).await.expect("the marks are gone");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_changes_nothing() {
    let engine = Engine::with_pool(settings()).await;
    let request = |id: &str| json!({ "TransactItems": [put_new(&plain(id, 10))], "ClientRequestToken": "t" });
    let sent = Engine(engine.0.clone());
    let first = tokio::spawn(async move { sent.call("TransactWriteItems", request("a")).await });
    sleep(Duration::from_millis(1)).await;
    assert_eq!(engine.error("TransactWriteItems", request("a")).await, "TransactionInProgressException");
    first.await.unwrap().unwrap();
    engine.ok("TransactWriteItems", request("a")).await;
    assert_eq!(engine.error("TransactWriteItems", request("b")).await, "IdempotentParameterMismatchException");
    sleep(Duration::from_secs(601)).await;
    assert_eq!(engine.error("TransactWriteItems", request("a")).await, "TransactionCanceledException", "forgotten");
}
