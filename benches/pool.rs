//! The pool manager: taking a candidate and putting it back, with and without a name prefix, and a whole refresh. The actor
//! runs on its own thread, as in the broker, so each time includes the messages to it and back.

use actix::{Arbiter, System};
use broker_actors::sandbox::Sandbox;
use broker_actors::testing::{LonePool, ModelStore};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

/// The allocator of the broker.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SANDBOXES: u32 = 10_000;

fn pool_manager(criterion: &mut Criterion) {
    // An arbiter needs a system.
    let _system = System::new();
    let arbiter = Arbiter::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let pool = runtime.block_on(LonePool::filled(&arbiter.handle(), SANDBOXES));
    let mut group = criterion.benchmark_group("pool");
    // Prefixes of all, all, a tenth, and ten of the sandboxes.
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
