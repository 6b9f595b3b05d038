//! The parts without I/O: the transition function, and the mapping between the domain and the items of the table.

use std::hint::black_box;

use broker_actors::sandbox::{
    Event, Holding, IdempotencyKey, LabTime, Owner, Sandbox, ShardCount, Status, Timestamp, TrackId, transition,
};
use broker_actors::testing::ModelStore;
use criterion::{Criterion, criterion_group, criterion_main};
use sandbox_broker::dynamo::item::{claim_item, read_claim, read_sandbox, sandbox_item};
use sandbox_broker::dynamo::update::update_of;

/// The allocator of the broker.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW: Timestamp = Timestamp(1_800_000_000);

fn holding() -> Holding {
    Holding {
        owner: Owner::named(TrackId::new("student-1")),
        track_name: Some("intro-lab".to_owned()),
        key: IdempotencyKey::new("student-1"),
        expires_at: Timestamp(NOW.0 + 14_400),
        lab: LabTime::default(),
    }
}

fn transitions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transition");
    group.bench_function("claim", |bencher| {
        bencher.iter_with_setup(holding, |holding| transition(Status::Available, Event::Claim(holding), NOW));
    });
    group.bench_function("release", |bencher| {
        bencher.iter(|| transition(black_box(Status::Allocated), Event::Release, NOW));
    });
    group.bench_function("refused", |bencher| {
        bencher.iter(|| transition(black_box(Status::Deleted), Event::Release, NOW));
    });
    group.finish();
}

fn items(criterion: &mut Criterion) {
    let available = ModelStore::sandbox(1);
    let (update, claim) = available.claim(holding(), NOW).expect("it is available");
    let allocated: Sandbox = available.after(&update.mutation);
    let shards = ShardCount::default();
    let (stored_sandbox, stored_claim) = (sandbox_item(&allocated, shards), claim_item(&claim));
    let mut group = criterion.benchmark_group("item");
    group.bench_function("sandbox to item", |bencher| bencher.iter(|| sandbox_item(black_box(&allocated), shards)));
    group.bench_function("item to sandbox", |bencher| bencher.iter(|| read_sandbox(black_box(&stored_sandbox))));
    group.bench_function("claim to item", |bencher| bencher.iter(|| claim_item(black_box(&claim))));
    group.bench_function("item to claim", |bencher| bencher.iter(|| read_claim(black_box(&stored_claim))));
    group.bench_function("mutation to update expression", |bencher| {
        bencher.iter(|| update_of(black_box(&update), shards));
    });
    group.finish();
}

criterion_group!(benches, transitions, items);
criterion_main!(benches);
