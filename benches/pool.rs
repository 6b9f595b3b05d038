//! The pool manager: how long a candidate takes to come and go back, with and without a prefix, and a refresh of it all.
//! The actor has a thread of its own, as in the broker, so that each time includes the way there and back.

use actix::{Arbiter, System};
use broker_actors::sandbox::Sandbox;
use broker_actors::testing::{LonePool, ModelStore};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

/// The broker's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SANDBOXES: u32 = 10_000;

fn pool_manager(criterion: &mut Criterion) {
    // An arbiter belongs to a system, which has nothing else to do here.
    let _system = System::new();
    let arbiter = Arbiter::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let pool = runtime.block_on(LonePool::filled(&arbiter.handle(), SANDBOXES));
    let mut group = criterion.benchmark_group("pool");
    // None, one that all share, one of a tenth, one of ten.
    for prefix in [None, Some("lab-"), Some("lab-01"), Some("lab-0042")] {
        let name = BenchmarkId::new("take and put back", prefix.unwrap_or("without prefix"));
        group.bench_function(name, |bencher| bencher.to_async(&runtime).iter(|| pool.take_and_put_back(prefix)));
    }
    let listed: Vec<Sandbox> = (1..=SANDBOXES).map(ModelStore::sandbox).collect();
    group.bench_function(BenchmarkId::new("refill", SANDBOXES), |bencher| {
        bencher.to_async(&runtime).iter_batched(|| listed.clone(), |listed| pool.refill(listed), BatchSize::LargeInput);
    });
    group.finish();
    arbiter.stop();
}

criterion_group!(benches, pool_manager);
criterion_main!(benches);
