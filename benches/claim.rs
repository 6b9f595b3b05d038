//! One claim in each store: the model, the embedded engine in memory and on a file (one durable commit), and the same
//! engine over HTTP on loopback (one round trip).

use std::sync::Arc;
use std::time::Duration;

use broker_actors::ports::{ClaimOutcome, SandboxStore};
use broker_actors::sandbox::{Holding, IdempotencyKey, LabTime, Owner, SandboxId, Timestamp, TrackId};
use broker_actors::testing::ModelStore;
use criterion::{Criterion, criterion_group, criterion_main};
use sandbox_broker::dynamo::embedded::EmbeddedEngine;
use test_support::{DynamoServer, dynamo_store};
use tokio::time::Instant;

/// The allocator of the broker.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW: Timestamp = Timestamp(1_800_000_000);

/// Claims new sandboxes one after another. Returns the time that the claims take, without the creation of the sandboxes.
async fn claim_each(store: &dyn SandboxStore, claims: u64) -> Duration {
    let mut updates = Vec::new();
    for _ in 0..claims {
        let mut sandbox = ModelStore::sandbox(1);
        sandbox.sandbox_id = SandboxId::new(format!("{:016x}", fastrand::u64(..)));
        assert!(store.create(&sandbox).await.expect("the store answers"));
        let track = format!("track-{}", sandbox.sandbox_id);
        let holding = Holding {
            key: IdempotencyKey::new(track.as_str()),
            owner: Owner::named(TrackId::new(track)),
            track_name: None,
            expires_at: Timestamp(NOW.0 + 14_400),
            lab: LabTime::default(),
        };
        updates.push(sandbox.claim(holding, NOW).expect("it is available"));
    }
    let started = Instant::now();
    for (update, claim) in &updates {
        assert_eq!(store.claim(update, claim).await.expect("the store answers"), ClaimOutcome::Claimed);
    }
    started.elapsed()
}

fn stores(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let directory = tempfile::tempdir().expect("a directory for the file");
    let stores = runtime.block_on(async {
        let in_memory = EmbeddedEngine::in_memory().expect("the engine opens");
        let on_file = EmbeddedEngine::on_disk(directory.path()).expect("the engine opens");
        let server = DynamoServer::start().await;
        [
            ("model", Arc::new(ModelStore::default()) as Arc<dyn SandboxStore>),
            ("embedded in memory", Arc::new(dynamo_store(in_memory.dynamo_client()).await)),
            ("embedded on a file", Arc::new(dynamo_store(on_file.dynamo_client()).await)),
            ("over HTTP", Arc::new(dynamo_store(server.dynamo_client()).await)),
        ]
    });
    let mut group = criterion.benchmark_group("claim");
    for (name, store) in stores {
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(|claims| claim_each(store.as_ref(), claims));
        });
    }
    group.finish();
}

criterion_group!(benches, stores);
criterion_main!(benches);
