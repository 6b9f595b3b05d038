//! The effect of hostile clients on others: the latency of a good client alone and during each attack, on one broker, in
//! one run. And whether the time of a token comparison depends on the token.
//!
//! `cargo bench --bench hostile -- <word>` runs only the attacks whose names contain the word; `Tokens` is the comparison.
//! `cargo test` only checks that this works.
#![allow(clippy::print_stdout, reason = "the results are printed")]

mod token_timing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use reqwest::Method;
use test_support::attacks::{Attack, REQUEST, connect};
use test_support::{Broker, TRACK_TOKEN, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

/// Concurrent attackers. Each repeats its attack when the broker has closed the connection.
const ATTACKERS: usize = 50;

/// Idle connections.
const IDLE: usize = 3000;

/// Allocations per second of the good client. Each is sent at its time, even if earlier ones are not answered yet.
const RATE: u32 = 100;

/// The amount of work.
struct Scale {
    /// The duration of each attack.
    phase: Duration,
    sandboxes: u32,
    idle: usize,
    timings: usize,
}

/// The load beside the good client.
#[derive(Clone, Copy, Debug)]
enum Load {
    None,
    Attack(Attack),
    IdleConnections,
    Guesses,
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::None => "alone".to_owned(),
            Self::Attack(attack) => format!("{attack:?}"),
            other => format!("{other:?}"),
        }
    }

    /// Runs until it is dropped and counts the connections that the broker closes.
    async fn run(self, address: SocketAddr, idle: usize, closed: &AtomicUsize) {
        match self {
            Self::None => std::future::pending().await,
            Self::Attack(attack) => repeat(closed, || attack.once(address, TRACK_TOKEN)).await,
            Self::Guesses => repeat(closed, || guess(address)).await,
            Self::IdleConnections => {
                let mut connections = Vec::new();
                for _ in 0..idle {
                    let Ok(mut connection) = connect(address).await else { break };
                    let _ = connection.write_all(REQUEST).await;
                    connections.push(connection);
                }
                std::future::pending().await
            }
        }
    }
}

/// A load on its own thread, so that it does not slow down the good client directly.
struct RunningLoad {
    thread: thread::JoinHandle<()>,
    stop: oneshot::Sender<()>,
    closed: Arc<AtomicUsize>,
}

impl RunningLoad {
    fn start(load: Load, address: SocketAddr, idle: usize) -> Self {
        let closed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&closed);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! {
                    () = load.run(address, idle, &counted) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { thread, stop, closed }
    }

    /// Stops the load and returns how many of its connections the broker closed.
    fn stop(self) -> usize {
        drop(self.stop);
        self.thread.join().expect("an attack does not panic");
        self.closed.load(Ordering::Relaxed)
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

async fn repeat<F: Future>(closed: &AtomicUsize, attack: impl Fn() -> F) {
    let attackers = (0..ATTACKERS).map(async |_| {
        loop {
            attack().await;
            closed.fetch_add(1, Ordering::Relaxed);
        }
    });
    join_all(attackers).await;
}

/// Tries a hundred tokens on one connection.
async fn guess(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = connect(address).await?;
    let mut answer = [0; 2048];
    for number in 0..100 {
        let request = format!(
            "GET /v1/sandboxes/1 HTTP/1.1\r\nHost: x\r\nX-Track-ID: x\r\nX-Forwarded-For: 192.0.2.1\r\n\
             Authorization: Bearer guess-{number}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let _ = stream.read(&mut answer).await?;
    }
    Ok(())
}

/// The latencies of the good client's allocations in microseconds, each measured from the time at which it was due.
async fn good_client(broker: &Broker, phase: Duration, first: u32) -> Histogram<u64> {
    let started = Instant::now();
    let allocations = (phase.as_secs_f64() * f64::from(RATE)) as u32;
    let latencies = join_all((0..allocations).map(async |number| {
        let due = started + Duration::from_secs(1) * number / RATE;
        sleep_until(due).await;
        let number = first + number;
        // The rate limit sees a different client in each request.
        let [_, high, middle, low] = number.to_be_bytes();
        let request = broker.track(Method::POST, "/v1/allocate", &format!("good-{number}"));
        let answer = send(request.header("X-Forwarded-For", format!("10.{high}.{middle}.{low}"))).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        due.elapsed()
    }))
    .await;
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    for latency in latencies {
        histogram.record(latency.as_micros() as u64).expect("the histogram grows");
    }
    histogram
}

async fn compare(scale: &Scale, filter: &str) {
    let sandboxes = scale.sandboxes.to_string();
    let settings = [
        ("BROKER_STORE", "memory"),
        ("CSP_SIM_SANDBOXES", &sandboxes),
        ("CORS_ALLOWED_ORIGINS", "https://x.example"),
        ("RATE_LIMIT_RPS", "10"),
        ("TRUSTED_PROXIES", "1"),
        ("LOG_LEVEL", "warn,sandbox_broker=info"),
    ];
    let broker = Broker::start(&settings).await;
    assert_eq!(broker.sync("").await.status, 200);
    let attacks = Attack::ALL.map(Load::Attack);
    let others = [Load::IdleConnections, Load::Guesses];
    let selected = attacks.into_iter().chain(others).filter(|load| load.name().contains(filter));
    let mut allocated = 0;
    let mut alone = None;
    println!(
        "{:18} {:>8} {:>9} {:>9} {:>7} {:>7} {:>8}",
        "", "closed", "p50 ms", "p99 ms", "p50 ×", "p99 ×", "RSS MiB"
    );
    // The first phase warms up; the last shows lasting effects of the attacks.
    let phases = [Load::None; 2].into_iter().chain(selected).chain([Load::None]);
    for (number, load) in phases.enumerate() {
        let running = RunningLoad::start(load, broker.address, scale.idle);
        // Let the load build up before the measurement.
        sleep(scale.phase / 5).await;
        let latencies = good_client(&broker, scale.phase, allocated).await;
        let closed = running.stop();
        allocated += latencies.len() as u32;
        let [p50, p99] = [50.0, 99.0].map(|percent| latencies.value_at_percentile(percent) as f64 / 1000.0);
        if number == 0 {
            continue;
        }
        let [alone50, alone99] = *alone.get_or_insert([p50, p99]);
        println!(
            "{:18} {:>8} {p50:>9.3} {p99:>9.3} {:>7.2} {:>7.2} {:>8}",
            load.name(),
            closed,
            p50 / alone50,
            p99 / alone99,
            broker.process.resident_kib().0 / 1024
        );
        // Let the broker finish with this load before the next one starts.
        sleep(scale.phase / 5).await;
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_measuring = arguments.iter().any(|argument| argument == "--bench");
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).cloned().unwrap_or_default();
    let scale = if is_measuring {
        Scale { phase: Duration::from_secs(10), sandboxes: 30_000, idle: IDLE, timings: 200_000 }
    } else {
        Scale { phase: Duration::from_millis(50), sandboxes: 300, idle: 50, timings: 500 }
    };
    if "Tokens".contains(&filter) {
        token_timing::measure(scale.timings);
    }
    runtime().block_on(compare(&scale, &filter));
}
