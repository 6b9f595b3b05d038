//! The overhead of the broker over DynamoDB: allocations per second over HTTP, divided by the same claims per second with
//! the bare SDK in a loop, on the same engine, in the same run. A bare HTTP handler that claims with the SDK and does
//! nothing else shows the overhead that every HTTP service has.
//!
//! `cargo bench --bench claim_ratio` prints a row for each engine (in memory, on a file) and each number of requests in
//! flight. The three sides take turns, so that other load on the machine affects all of them. `CLAIMS=<n>` sets the claims
//! of one round.
#![allow(clippy::print_stdout, reason = "the results are printed")]

mod bare_handler;
mod claims;
mod connection;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use test_support::{Broker, eventually};
use tokio::time::Instant;

use crate::bare_handler::BareHandler;
use crate::claims::Claims;
use crate::connection::HttpConnection;

/// The allocator of the broker, so that no side has an advantage.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const IN_FLIGHT: [usize; 3] = [1, 16, 64];
const ROUNDS: u32 = 5;

/// The claims of one side with one number of requests in flight. Displays claims per second, p50 and p99 in milliseconds.
struct Measurement {
    claims: u64,
    busy: Duration,
    latencies: Histogram<u64>,
}

impl Measurement {
    fn new() -> Self {
        Self { claims: 0, busy: Duration::ZERO, latencies: Histogram::new(3).expect("three digits are allowed") }
    }

    fn per_second(&self) -> f64 {
        self.claims as f64 / self.busy.as_secs_f64()
    }

    /// Makes `claims` claims, one at a time on each connection. `claim` makes one claim with the number that it gets.
    async fn round<C>(&mut self, claims: u64, connections: &mut [C], claim: impl AsyncFn(&mut C, u64)) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let last = NEXT.load(Ordering::Relaxed) + claims;
        let started = Instant::now();
        let latencies = join_all(connections.iter_mut().map(async |connection| {
            let mut latencies = Vec::new();
            loop {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                if number >= last {
                    return latencies;
                }
                let started = Instant::now();
                claim(connection, number).await;
                latencies.push(started.elapsed());
            }
        }))
        .await;
        self.busy += started.elapsed();
        NEXT.store(last, Ordering::Relaxed);
        for latency in latencies.into_iter().flatten() {
            self.claims += 1;
            self.latencies.record(latency.as_micros() as u64).expect("the histogram grows");
        }
    }
}

impl fmt::Display for Measurement {
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
    // `cargo test` only checks that this works; `cargo bench` passes `--bench` and measures.
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

/// Prints the rows of one engine. With a directory, the engine keeps its files there; without, it is in memory.
async fn compare(engine: &str, directory: Option<&Path>, claims: u64) {
    let pool = claims * u64::from(ROUNDS) * IN_FLIGHT.len() as u64;
    let in_directory = |name| directory.map(|directory| directory.join(name));
    let sdk_claims = Claims::on_engine(in_directory("sdk").as_deref(), pool).await;
    let handler = BareHandler::start(in_directory("handler").as_deref(), pool).await;
    let broker = full_broker(in_directory("broker").as_deref(), pool).await;
    for in_flight in IN_FLIGHT {
        let [mut sdk, mut bare, mut http] = [(); 3].map(|()| Measurement::new());
        let mut loops = vec![(); in_flight];
        let connect = async |address| join_all((0..in_flight).map(|_| HttpConnection::open(address))).await;
        let (mut to_handler, mut to_broker) = (connect(handler.address).await, connect(broker.address).await);
        let allocate = async |connection: &mut HttpConnection, number| {
            assert_eq!(connection.allocate(&format!("track-{number}")).await, 201);
        };
        for _ in 0..ROUNDS {
            sdk.round(claims, &mut loops, async |(), number| {
                sdk_claims.claim_next(&format!("track-{number}")).await;
            })
            .await;
            bare.round(claims, &mut to_handler, allocate).await;
            http.round(claims, &mut to_broker, allocate).await;
        }
        let ratio = |side: &Measurement| side.per_second() / sdk.per_second();
        let (bare_ratio, ratio) = (ratio(&bare), ratio(&http));
        println!("{engine:<10} {in_flight:>9}   {sdk}   {bare} {bare_ratio:>5.2}   {http} {ratio:>5.2}");
    }
}

/// Starts a broker process and waits until its pool has this number of sandboxes.
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
