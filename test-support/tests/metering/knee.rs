//! All rules together: a load of allocations at a tenth of the rate on a tenth of the limits.

use std::time::Duration;

use test_support::metering::{KeyGroup, Limits, MeteringSettings, Placement, WarmThroughput};
use tokio::time::sleep;

use super::support::{Engine, TABLE, moved, plain, put_new, sandbox, settings};

/// A tenth of 1,000 a second.
const RATE: usize = 100;
const SECONDS: usize = 10;

/// The number of allocations that succeed at their only attempt.
async fn served(settings: MeteringSettings, shard: impl Fn(usize) -> String) -> usize {
    let limits = Limits { scale: 10.0, ..settings.limits };
    let engine =
        Engine::with_pool(MeteringSettings { limits, warm: WarmThroughput::write(12_000.0), ..settings }).await;
    let key = |status: &str, n: usize| format!("{status}{}", shard(n));
    let id = |n: usize| format!("SBX#{n}");
    engine.0.load(TABLE, (0..RATE * SECONDS).map(|n| sandbox(&id(n), &key("available", n))));
    let mut allocations = Vec::new();
    for n in 0..RATE * SECONDS {
        let engine = Engine(engine.0.clone());
        let items = [put_new(&plain(&format!("TRACK#{n}"), 300)), moved(&id(n), &key("allocated", n))];
        allocations.push(tokio::spawn(async move { engine.transact(&items).await }));
        sleep(Duration::from_secs(1) / RATE as u32).await;
    }
    let mut served = 0;
    for allocation in allocations {
        served += usize::from(allocation.await.unwrap().is_ok());
    }
    served
}

#[tokio::test(start_paused = true)]
async fn sixteen_shards_carry_the_load() {
    for seed in 0..2 {
        for index_queue in [0.0, 1_000.0] {
            let limits = Limits { index_queue, ..Limits::default() };
            let settings = MeteringSettings { seed, limits, ..settings() };
            let served = served(settings, |n| format!("#{:02x}", n % 16)).await;
            assert_eq!(served, RATE * SECONDS, "seed {seed}, queue {index_queue}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_partition_for_both_bare_keys_carries_half_of_it() {
    let group = |prefix: &str| KeyGroup { resource: "StatusIndex".to_owned(), prefix: prefix.to_owned() };
    let placement = Placement { together: vec![group("available"), group("allocated")] };
    let served = served(MeteringSettings { placement, ..settings() }, |_| String::new()).await;
    // 50 a second, and 50 more from the second's worth of units in the full bucket at the start.
    assert!((530..=570).contains(&served), "{served}");
}
