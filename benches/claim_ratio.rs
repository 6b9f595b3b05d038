//! What the broker costs on top of DynamoDB: allocations a second over HTTP, divided by the same claims by the bare SDK
//! in a loop, on the same engine, in the same run.
//!
//! `cargo bench --bench claim_ratio` prints a row for each engine (in memory, on a file) and each number of requests in
//! flight. The two sides take turns, so that what else the machine does meets both. One request in flight is bound by
//! the way there and back, which a request that does nothing shows. `CLAIMS=<n>` sets the claims of one round.
#![allow(clippy::print_stdout, reason = "this prints its results")]

#[path = "support/connection.rs"]
mod connection;
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
#[path = "../tests/api/helpers.rs"]
mod helpers;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the tests use all of it")]
#[path = "../tests/api/program.rs"]
mod program;
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use broker_actors::ports::SandboxStore as _;
use broker_actors::testing::ModelStore;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use sandbox_broker::dynamo::DynamoStore;
use sandbox_broker::dynamo::embedded::EmbeddedEngine;
use sandbox_broker::dynamo::table::{TableNames, create_table};
use tokio::time::Instant;

use crate::connection::HttpConnection;
use crate::helpers::eventually;
use crate::program::Broker;

/// The broker's, so that neither side has an advantage.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const IN_FLIGHT: [usize; 3] = [1, 16, 64];
const ROUNDS: u32 = 5;

/// One side's claims at one number in flight.
struct Measured {
    claims: u64,
    busy: Duration,
    latencies: Histogram<u64>,
}

impl Measured {
    fn new() -> Self {
        Self { claims: 0, busy: Duration::ZERO, latencies: Histogram::new(3).expect("three digits are allowed") }
    }

    fn per_second(&self) -> f64 {
        self.claims as f64 / self.busy.as_secs_f64()
    }

    fn milliseconds_at(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Makes `claims` claims with so many connections of work at once; `claim` makes one.
    async fn round<C>(&mut self, claims: u64, connections: &mut [C], claim: impl AsyncFn(&mut C, u64)) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let last = NEXT.load(Ordering::Relaxed) + claims;
        let began = Instant::now();
        let latencies = join_all(connections.iter_mut().map(async |connection| {
            let mut latencies = Vec::new();
            loop {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                if number >= last {
                    return latencies;
                }
                let began = Instant::now();
                claim(connection, number).await;
                latencies.push(began.elapsed());
            }
        }))
        .await;
        self.busy += began.elapsed();
        NEXT.store(last, Ordering::Relaxed);
        for latency in latencies.into_iter().flatten() {
            self.claims += 1;
            self.latencies.record(latency.as_micros() as u64).expect("the histogram grows");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test` runs this too, to see that it works; only `cargo bench` measures.
    let is_measuring = std::env::args().any(|argument| argument == "--bench");
    let claims = std::env::var("CLAIMS").map_or(1000, |claims| claims.parse().expect("CLAIMS is a number"));
    let claims = if is_measuring { claims } else { 5 };
    println!(
        "{:<10} {:>9}   {:>9} {:>8} {:>8}   {:>9} {:>8} {:>8}   {:>5}",
        "engine", "in flight", "SDK/s", "p50 ms", "p99 ms", "HTTP/s", "p50 ms", "p99 ms", "ratio"
    );
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the file");
    let in_memory = EmbeddedEngine::in_memory().expect("the engine opens");
    compare("in memory", &in_memory, &[("BROKER_STORE", "memory")], claims).await;
    let on_disk = EmbeddedEngine::on_disk(&directory.path().join("sdk")).expect("the engine opens");
    let broker_directory = directory.path().join("broker");
    let broker_directory = broker_directory.to_str().expect("the path is text");
    compare("on a file", &on_disk, &[("BROKER_STORE", "embedded"), ("BROKER_DATA_DIR", broker_directory)], claims)
        .await;
}

async fn compare(name: &str, engine: &EmbeddedEngine, store: &[(&str, &str)], claims: u64) {
    let pool = claims * u64::from(ROUNDS) * IN_FLIGHT.len() as u64;
    let client = engine.client();
    fill(&client, pool).await;
    let broker = full_broker(store, pool).await;
    let mut round_trips = Measured::new();
    let mut connections = [HttpConnection::open(broker.address).await];
    round_trips.round(claims, &mut connections, async |connection, _| assert_eq!(connection.health().await, 200)).await;
    println!("{name:<10} {:>9}   a request that does nothing: p50 {:.3} ms", 1, round_trips.milliseconds_at(0.5));
    // In no order, as a broker walks its pool: neighbours in a B-tree are cheaper.
    let mut sandboxes: Vec<u64> = (1..=pool).collect();
    fastrand::Rng::with_seed(pool).shuffle(&mut sandboxes);
    let next_sandbox = AtomicUsize::new(0);
    for in_flight in IN_FLIGHT {
        let (mut sdk, mut http) = (Measured::new(), Measured::new());
        let mut clients = vec![client.clone(); in_flight];
        let mut connections = join_all((0..in_flight).map(|_| HttpConnection::open(broker.address))).await;
        for _ in 0..ROUNDS {
            sdk.round(claims, &mut clients, async |client, number| {
                claim(client, sandboxes[next_sandbox.fetch_add(1, Ordering::Relaxed)], number).await;
            })
            .await;
            http.round(claims, &mut connections, async |connection, number| {
                assert_eq!(connection.allocate(&format!("track-{number}")).await, 201);
            })
            .await;
        }
        println!(
            "{name:<10} {in_flight:>9}   {:>9.0} {:>8.3} {:>8.3}   {:>9.0} {:>8.3} {:>8.3}   {:>5.2}",
            sdk.per_second(),
            sdk.milliseconds_at(0.5),
            sdk.milliseconds_at(0.99),
            http.per_second(),
            http.milliseconds_at(0.5),
            http.milliseconds_at(0.99),
            http.per_second() / sdk.per_second(),
        );
    }
}

/// A broker in a process of its own, with so many sandboxes to give.
async fn full_broker(store: &[(&str, &str)], pool: u64) -> Broker {
    let pool_size = pool.to_string();
    let mut settings = store.to_vec();
    settings.push(("CSP_SIM_SANDBOXES", &pool_size));
    let broker = Broker::start(&settings).await;
    eventually("the pool is full", async || (broker.stats().await.body["available"] == pool).then_some(())).await;
    broker
}

async fn fill(client: &Client, pool: u64) {
    create_table(client, &TableNames::default()).await.expect("the table is made");
    let store = DynamoStore::new(client.clone(), TableNames::default());
    for number in 1..=pool as u32 {
        let mut sandbox = ModelStore::sandbox(number);
        sandbox.external_id = external_id(number.into());
        sandbox.sfdc_account_id = Some(format!("crm-{number:05}"));
        assert!(store.create(&sandbox).await.expect("the engine answers"));
    }
}

/// As long as those of the simulated CSP.
fn external_id(sandbox: u64) -> String {
    format!("identity/accounts/00000000-0000-4000-8000-{sandbox:012}")
}

/// The broker's transaction, as one writes it against the SDK.
async fn claim(client: &Client, sandbox: u64, track: u64) {
    let text = |value: String| AttributeValue::S(value);
    let number = |value: u64| AttributeValue::N(value.to_string());
    let (sandbox_id, track, name) = (2_000_000 + sandbox, format!("track-{track}"), format!("lab-{sandbox:05}"));
    let (now, until) = (1_800_000_000, 1_800_014_400);
    let put = Put::builder()
        .table_name("sandbox-broker-pool")
        .item("PK", text(format!("TRACK#{track}")))
        .item("SK", text(format!("CLAIM#{track}")))
        .item("sandbox_id", text(sandbox_id.to_string()))
        .item("name", text(name))
        .item("external_id", text(external_id(sandbox)))
        .item("sfdc_account_id", text(format!("crm-{sandbox:05}")))
        .item("held_since", number(now))
        .item("expires_at", number(until))
        .item("epoch", number(2))
        .item("ttl", number(until + 2_592_000))
        .condition_expression("attribute_not_exists(PK)")
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()
        .expect("the put is whole");
    let update = Update::builder()
        .table_name("sandbox-broker-pool")
        .key("PK", text(format!("SBX#{sandbox_id}")))
        .key("SK", text("META".to_owned()))
        .update_expression(
            "SET #status = :status, updated_at = :now, allocated_at = :now, expires_at = :until, \
             allocated_to_track = :track, idempotency_key = :track, epoch = epoch + :one REMOVE track_name",
        )
        .condition_expression("#status = :expected_status AND epoch = :one")
        .expression_attribute_names("#status", "status")
        .expression_attribute_values(":status", text("allocated".to_owned()))
        .expression_attribute_values(":now", number(now))
        .expression_attribute_values(":until", number(until))
        .expression_attribute_values(":track", text(track))
        .expression_attribute_values(":one", number(1))
        .expression_attribute_values(":expected_status", text("available".to_owned()))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()
        .expect("the update is whole");
    client
        .transact_write_items()
        .transact_items(TransactWriteItem::builder().put(put).build())
        .transact_items(TransactWriteItem::builder().update(update).build())
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .send()
        .await
        .expect("the claim is written");
}
