//! The units alone: what a number of shards carries, in most placements.

use test_support::metering::WarmThroughput;
use test_support::metering::capacity::{Event, Fullest, ItemSizes, Load, StatusKey, WHOLE_LIFE};

const SEEDS: u64 = 200;

/// Fewer for the knee, which is looked for at many rates.
const KNEE_SEEDS: u64 = 40;

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

/// The highest rate, in hundreds a second, that most placements carry. Keys of the status index limit it first, then the
/// totals.
fn knee(events: &[Event], status_key: StatusKey, table: f64, index: f64) -> f64 {
    let load = |rate| Load { rate, events: events.to_vec(), status_key, sizes: ItemSizes::default() };
    let is_carried = |hundreds: u32| {
        let (table_warm, index_warm) = (WarmThroughput::write(table), WarmThroughput::write(index));
        let fullest = load(f64::from(hundreds) * 100.0).fullest_of_most(table_warm, index_warm, KNEE_SEEDS);
        fullest.table.max(fullest.status_index) < PARTITION
            && fullest.table_total <= table
            && fullest.status_index_total <= index
    };
    let (mut carried, mut refused) = (0, 201);
    while refused - carried > 1 {
        let middle = u32::midpoint(carried, refused);
        if is_carried(middle) { carried = middle } else { refused = middle }
    }
    f64::from(carried) * 100.0
}

/// `cargo test -p test-support --test metering knee -- --nocapture` prints the table of docs/performance.md.
#[test]
fn the_knee_moves_with_the_shards() {
    println!("shards  allocations/s  lives/s");
    let knees: Vec<_> = [1, 16, 64, 128, 256, 512]
        .into_iter()
        .map(|shards| {
            let key = StatusKey::Sharded(shards);
            let allocations = knee(&[Event::Allocate], key, 80_000.0, 40_000.0);
            let lives = knee(&WHOLE_LIFE, key, 160_000.0, 160_000.0);
            println!("{shards:>6}  {allocations:>13}  {lives:>7}");
            (allocations, lives)
        })
        .collect();
    assert!(
        knees[0].0 <= PARTITION && knees[0].1 <= PARTITION / 2.0,
        "the bare status stops where AWS says: {knees:?}"
    );
    assert!(
        knees.is_sorted_by(|fewer, more| fewer.0 <= more.0 && fewer.1 <= more.1),
        "more shards carry more: {knees:?}"
    );
    assert!(
        knees[2].0 < 10_000.0 && knees[4].0 >= 10_000.0,
        "64 shards are too few for 10,000, 256 are not: {knees:?}"
    );
    assert!(knees[3].1 < 10_000.0 && knees[5].1 >= 10_000.0, "128 are too few for lives, 512 are not: {knees:?}");
}
