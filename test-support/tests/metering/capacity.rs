//! The units alone: what a number of shards carries, in most placements.

use test_support::metering::WarmThroughput;
use test_support::metering::capacity::{Event, Fullest, ItemSizes, Load, StatusKey, WHOLE_LIFE};

const SEEDS: u64 = 200;

/// Units per second of one partition.
const PARTITION: f64 = 1_000.0;

fn fullest(rate: f64, events: &[Event], status_key: StatusKey, table: f64, index: f64) -> Fullest {
    let load = Load { rate, events: events.to_vec(), status_key, sizes: ItemSizes::default() };
    load.fullest_of_most(WarmThroughput::write(table), WarmThroughput::write(index), SEEDS)
}

fn assert_carried(fullest: Fullest, table: f64, index: f64) {
    assert!(fullest.table < PARTITION && fullest.status_index < PARTITION, "{fullest:?}");
    assert!(fullest.table_total <= table && fullest.status_index_total <= index, "{fullest:?}");
}

#[test]
fn sixteen_shards_carry_a_thousand_allocations() {
    let fullest = fullest(1_000.0, &[Event::Allocate], StatusKey::Sharded(16), 12_000.0, 12_000.0);
    assert_carried(fullest, 12_000.0, 12_000.0);
}

#[test]
fn sixteen_shards_carry_500_whole_lives() {
    let fullest = fullest(500.0, &WHOLE_LIFE, StatusKey::Sharded(16), 12_000.0, 12_000.0);
    assert_carried(fullest, 12_000.0, 12_000.0);
}

#[test]
fn more_shards_carry_ten_thousand_allocations() {
    let fullest = fullest(10_000.0, &[Event::Allocate], StatusKey::Sharded(256), 80_000.0, 40_000.0);
    assert_carried(fullest, 80_000.0, 40_000.0);
}

#[test]
fn the_most_shards_carry_ten_thousand_whole_lives() {
    let fullest = fullest(10_000.0, &WHOLE_LIFE, StatusKey::Sharded(512), 160_000.0, 160_000.0);
    assert_carried(fullest, 160_000.0, 160_000.0);
}

#[test]
fn the_bare_status_does_not_carry_a_thousand_allocations() {
    let fullest = fullest(1_000.0, &[Event::Allocate], StatusKey::Bare, 12_000.0, 12_000.0);
    assert!(fullest.status_index >= PARTITION, "{fullest:?}");
    assert!(fullest.table < PARTITION, "the table is not what stops it: {fullest:?}");
}

#[test]
fn longer_headers_double_the_units() {
    let sizes = ItemSizes { allocated: 1_300, ..ItemSizes::default() };
    let load = Load { rate: 100.0, events: vec![Event::Allocate], status_key: StatusKey::Bare, sizes };
    let fullest = load.fullest_of_most(WarmThroughput::default(), WarmThroughput::default(), 1);
    assert_eq!((fullest.table_total, fullest.status_index_total), (600.0, 300.0));
}
