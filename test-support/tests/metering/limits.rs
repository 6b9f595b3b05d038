//! Rules 1 to 3: partitions, buckets and totals.

use std::time::Duration;

use serde_json::json;
use test_support::metering::{KeyGroup, Limits, MeteringSettings, Placement, WarmThroughput, partition_of};

use super::support::{Engine, TABLE, error_name, one_partition, plain, pool, settings};

/// Puts small items of different keys until one is refused; returns how many were taken.
async fn puts_until_refused(engine: &Engine, prefix: &str) -> usize {
    for taken in 0.. {
        if let Err(error) = engine.put(plain(&format!("{prefix}{taken}"), 100)).await {
            let name = error_name(&error);
            assert!(["ProvisionedThroughputExceededException", "ThrottlingException"].contains(&name.as_str()));
            return taken;
        }
    }
    unreachable!("the limit is finite")
}

#[test]
fn a_table_has_the_partitions_that_carry_its_throughput() {
    let limits = Limits::default();
    let partitions = |write, read| WarmThroughput { write, read }.partitions(&limits);
    assert_eq!(WarmThroughput::default().partitions(&limits), 4);
    assert_eq!(partitions(12_000.0, 12_000.0), 12);
    assert_eq!(partitions(4_000.0, 30_000.0), 10);
    assert_eq!(partitions(4_001.0, 12_000.0), 5);
}

#[test]
fn a_seed_spreads_the_keys_its_own_way() {
    let placed = |seed| (0..4_000).map(|key| partition_of(seed, TABLE, &format!("SBX#{key}"), 4)).collect::<Vec<_>>();
    assert_eq!(placed(1), placed(1));
    assert_ne!(placed(1), placed(2));
    for partition in 0..4 {
        let keys = placed(1).iter().filter(|placed| **placed == partition).count();
        assert!((850..1_150).contains(&keys), "partition {partition} has {keys} of 4000 keys");
    }
}

#[test]
fn an_adversarial_placement_puts_the_named_keys_together() {
    let placement = Placement {
        together: ["available#", "allocated#"]
            .map(|prefix| KeyGroup { resource: "StatusIndex".to_owned(), prefix: prefix.to_owned() })
            .to_vec(),
    };
    let partition = |resource, key: &str| placement.partition(3, resource, key, 12);
    assert!((0..16).all(|shard| partition("StatusIndex", &format!("available#{shard:02x}")) == 0));
    assert!((0..16).all(|shard| partition("StatusIndex", &format!("allocated#{shard:02x}")) == 0));
    assert!((0..16).any(|shard| partition("StatusIndex", &format!("deleted#{shard:02x}")) != 0));
    assert!((0..16).any(|shard| partition("TrackIndex", &format!("available#{shard:02x}")) != 0));
}

#[tokio::test(start_paused = true)]
async fn a_partition_gives_a_thousand_write_units_a_second() {
    let engine = Engine::with_pool(MeteringSettings { placement: Placement::together(TABLE, ""), ..settings() }).await;
    assert_eq!(puts_until_refused(&engine, "first").await, 1_000, "one second's worth is there at first");
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(puts_until_refused(&engine, "second").await, 500);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(puts_until_refused(&engine, "third").await, 1_000, "no more than one second's worth is saved");
    let counters = engine.0.counters().resource(TABLE);
    assert_eq!(counters.write_throttles, [3, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_gives_three_thousand_read_units_a_second() {
    let engine = Engine::with_pool(one_partition()).await;
    engine.0.load(TABLE, [plain("large", 400_000)]);
    let read = json!({ "TableName": TABLE, "Key": super::support::key("large"), "ConsistentRead": true });
    // 98 units each.
    for _ in 0..30 {
        engine.ok("GetItem", read.clone()).await;
    }
    assert!(engine.call("GetItem", read).await.is_err());
    assert_eq!(engine.0.counters().resource(TABLE).total_read_units(), 2_940.0);
}

#[tokio::test(start_paused = true)]
async fn a_new_table_gives_four_thousand_units_and_a_warmed_one_what_it_is_warmed_to() {
    let cold = Engine::with_pool(settings()).await;
    let taken = puts_until_refused(&cold, "").await;
    assert!((3_000..=4_000).contains(&taken), "a cold table took {taken}");

    // Four partitions, whose sum is more than the total.
    let limits = Limits { partition_write: 10_000.0, ..Limits::default() };
    let cold = Engine::with_pool(MeteringSettings { limits: limits.clone(), ..settings() }).await;
    assert_eq!(puts_until_refused(&cold, "").await, 4_000);
    assert_eq!(cold.0.counters().resource(TABLE).total_write_throttles, 1);

    let warm = Engine::empty(MeteringSettings { limits, ..settings() });
    let mut table = pool();
    table["WarmThroughput"] = json!({ "WriteUnitsPerSecond": 5_000 });
    warm.ok("CreateTable", table).await;
    assert_eq!(puts_until_refused(&warm, "").await, 5_000);
}

#[tokio::test(start_paused = true)]
async fn the_quota_bounds_what_a_table_is_warmed_to() {
    let limits = Limits { partition_write: 10_000.0, quota_write: 2_000.0, ..Limits::default() };
    let warm = WarmThroughput::write(3_000.0);
    let engine = Engine::with_pool(MeteringSettings { limits: limits.clone(), warm, ..settings() }).await;
    assert_eq!(puts_until_refused(&engine, "").await, 2_000);

    let engine = Engine::empty(MeteringSettings { limits, ..settings() });
    let mut table = pool();
    table["WarmThroughput"] = json!({ "WriteUnitsPerSecond": 2_001 });
    assert_eq!(engine.error("CreateTable", table).await, "LimitExceededException");
}

#[tokio::test(start_paused = true)]
async fn a_scale_divides_all_limits_but_not_the_partitions() {
    let limits = Limits { scale: 10.0, ..Limits::default() };
    let engine = Engine::with_pool(MeteringSettings { limits, ..one_partition() }).await;
    assert_eq!(puts_until_refused(&engine, "").await, 100);
    assert_eq!(engine.0.counters().resource(TABLE).write_units.len(), 1);
    engine.0.set_limits(|limits| limits.scale = 1.0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(puts_until_refused(&engine, "more").await, 1_000, "limits change while it runs");
}
