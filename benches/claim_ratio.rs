//! What the broker costs on top of DynamoDB: allocations a second over HTTP, divided by the same claims by the bare SDK
//! in a loop, on the same engine, in the same run. Beside it the same for a bare handler, one that claims by the SDK and
//! does nothing else: what that costs, every service over HTTP costs.
//!
//! `cargo bench --bench claim_ratio` prints a row for each engine (in memory, on a file) and each number of requests in
//! flight. The sides take turns, so that what else the machine does meets all. `CLAIMS=<n>` sets the claims of one round.
#![allow(clippy::print_stdout, reason = "this prints its results")]

#[path = "support/bare_handler.rs"]
mod bare_handler;
#[path = "support/claims.rs"]
mod claims;
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

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::bare_handler::BareHandler;
use crate::claims::Claims;
use crate::connection::HttpConnection;
use crate::helpers::eventually;
use crate::program::Broker;

/// The broker's, so that neither side has an advantage.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const IN_FLIGHT: [usize; 3] = [1, 16, 64];
const ROUNDS: u32 = 5;

/// One side's claims at one number in flight; displays as claims a second, p50 and p99 in milliseconds.
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

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [0.5, 0.99].map(|quantile| self.latencies.value_at_quantile(quantile) as f64 / 1000.0);
        write!(formatter, "{:>6.0} {p50:>7.3} {p99:>7.3}", self.per_second())
    }
}

fn main() {
    match BareHandler::pool_to_serve() {
        Some(pool) => bare_handler::serve(pool),
        None => measure(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure() {
    // `cargo test` runs this too, to see that it works; only `cargo bench` measures.
    let is_measuring = std::env::args().any(|argument| argument == "--bench");
    let claims = std::env::var("CLAIMS").map_or(1000, |claims| claims.parse().expect("CLAIMS is a number"));
    let claims = if is_measuring { claims } else { 5 };
    println!(
        "{:<10} {:>9}   {:>21}   {:>27}   {:>27}",
        "engine", "in flight", "SDK/s, p50, p99 ms", "bare handler/s, ms, ratio", "broker/s, ms, ratio"
    );
    compare("in memory", None, claims).await;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the files");
    compare("on a file", Some(directory.path()), claims).await;
}

/// Prints the rows of one engine; its files, if it has any, are in this directory.
async fn compare(engine: &str, directory: Option<&Path>, claims: u64) {
    let pool = claims * u64::from(ROUNDS) * IN_FLIGHT.len() as u64;
    let in_directory = |name| directory.map(|directory| directory.join(name));
    let sdk_claims = Claims::on_engine(in_directory("sdk").as_deref(), pool).await;
    let handler = BareHandler::start(in_directory("handler").as_deref(), pool).await;
    let broker = full_broker(in_directory("broker").as_deref(), pool).await;
    for in_flight in IN_FLIGHT {
        let [mut sdk, mut bare, mut http] = [(); 3].map(|()| Measured::new());
        let mut loops = vec![(); in_flight];
        let connect = async |address| join_all((0..in_flight).map(|_| HttpConnection::open(address))).await;
        let (mut to_handler, mut to_broker) = (connect(handler.address).await, connect(broker.address).await);
        let allocate = async |connection: &mut HttpConnection, number| {
            assert_eq!(connection.allocate(&format!("track-{number}")).await, 201);
        };
        for _ in 0..ROUNDS {
            sdk.round(claims, &mut loops, async |(), number| {
                sdk_claims.make(&format!("track-{number}")).await;
            })
            .await;
            bare.round(claims, &mut to_handler, allocate).await;
            http.round(claims, &mut to_broker, allocate).await;
        }
        let ratio = |side: &Measured| side.per_second() / sdk.per_second();
        let (bare_ratio, ratio) = (ratio(&bare), ratio(&http));
        println!("{engine:<10} {in_flight:>9}   {sdk}   {bare} {bare_ratio:>5.2}   {http} {ratio:>5.2}");
    }
}

/// A broker in a process of its own, with so many sandboxes to give.
async fn full_broker(directory: Option<&Path>, pool: u64) -> Broker {
    let pool_size = pool.to_string();
    let mut settings = vec![("CSP_SIM_SANDBOXES", pool_size.as_str())];
    match directory {
        Some(directory) => {
            let directory = directory.to_str().expect("the path is text");
            settings.extend([("BROKER_STORE", "embedded"), ("BROKER_DATA_DIR", directory)]);
        }
        None => settings.push(("BROKER_STORE", "memory")),
    }
    let broker = Broker::start(&settings).await;
    eventually("the pool is full", async || (broker.stats().await.body["available"] == pool).then_some(())).await;
    broker
}
