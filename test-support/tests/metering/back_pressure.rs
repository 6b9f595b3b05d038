//! Rule 6: a full index partition refuses writes of the table.

use std::time::Duration;

use serde_json::json;
use test_support::metering::{Lag, Limits, MeteringSettings};

use super::support::{Engine, STATUS_INDEX, TABLE, moved, one_partition, plain, reasons, sandbox};

/// The index gives 1,000 units a second, the table more than these tests take.
async fn engine(index_queue: f64) -> Engine {
    let limits = Limits { index_queue, ..Limits::default() };
    let engine = Engine::empty(MeteringSettings { limits, ..one_partition() });
    let mut table = super::support::pool();
    table["WarmThroughput"] = json!({ "WriteUnitsPerSecond": 40_000 });
    engine.ok("CreateTable", table).await;
    engine
}

async fn puts_until_refused(engine: &Engine) -> usize {
    for taken in 0.. {
        if engine.put(sandbox(&format!("s{taken}"), "available#00")).await.is_err() {
            return taken;
        }
    }
    unreachable!("the index's throughput is finite")
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_the_table_takes_what_the_index_takes() {
    let engine = engine(0.0).await;
    // The queue is longer than 0 only after the write that found it empty.
    assert_eq!(puts_until_refused(&engine).await, 1_001);
    assert_eq!(engine.0.counters().resource(STATUS_INDEX).write_throttles, [1]);
    assert!(engine.put(plain("other", 100)).await.is_ok(), "writes that do not touch the index go on");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(engine.put(sandbox("later", "available#00")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_queue_takes_more_until_it_is_full() {
    let engine = engine(1_000.0).await;
    assert_eq!(puts_until_refused(&engine).await, 2_001);
    tokio::time::advance(Duration::from_millis(100)).await;
    let more = (0..200).map(|n| format!("more{n}"));
    let mut taken = 0;
    for id in more {
        taken += usize::from(engine.put(sandbox(&id, "available#00")).await.is_ok());
    }
    assert_eq!(taken, 100, "as much as the index worked off meanwhile");
}

#[tokio::test(start_paused = true)]
async fn queued_entries_appear_when_they_are_worked_off() {
    let engine = engine(1_000.0).await;
    engine.0.set_lag(Lag::none());
    for n in 0..1_500 {
        engine.put(sandbox(&format!("s{n:04}"), "available#00")).await.unwrap();
    }
    assert_eq!(engine.listed("available#00").await.len(), 1_000);
    tokio::time::advance(Duration::from_millis(250)).await;
    assert_eq!(engine.listed("available#00").await.len(), 1_250);
    tokio::time::advance(Duration::from_millis(250)).await;
    assert_eq!(engine.listed("available#00").await.len(), 1_500);
}

#[tokio::test(start_paused = true)]
async fn a_refused_transaction_changes_nothing() {
    let engine = engine(0.0).await;
    engine.0.load(TABLE, [sandbox("held", "allocated#00")]);
    puts_until_refused(&engine).await;
    let error = engine.transact(&[moved("held", "pending_deletion#00")]).await.unwrap_err();
    assert_eq!(reasons(&error), ["ThrottlingError"]);
    assert_eq!(engine.get("held").await, sandbox("held", "allocated#00"));
    assert_eq!(engine.listed("allocated#00").await, ["held"]);
}
