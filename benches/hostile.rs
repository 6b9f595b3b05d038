//! What hostile clients cost others: the latency of a good client alone and during each attack, on one broker, in one
//! run; and whether the time of a token's comparison tells anything.
//!
//! `cargo bench --bench hostile`; a word after `--` picks the attacks whose names contain it, `Tokens` the comparison.
//! `cargo test` only sees that it works.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(unreachable_pub, reason = "the helpers are one crate with the bench")]

#[path = "../tests/hostile/attacks.rs"]
mod attacks;
#[path = "../tests/api/helpers.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod helpers;
#[path = "../tests/api/program.rs"]
#[allow(dead_code, unused_imports, reason = "tests use more of it")]
mod program;
#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod support;
#[path = "support/token_timing.rs"]
mod token_timing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use attacks::{Attack, REQUEST, connect};
use helpers::send;
use program::{Broker, TRACK_TOKEN};

/// Attackers at once; each begins anew when the broker has ended its connection.
const ATTACKERS: usize = 50;

/// Connections that do nothing.
const IDLE: usize = 3000;

/// Allocations that the good client makes in a second, each at its time, whether the one before is answered or not.
const RATE: u32 = 100;

/// How much is measured.
struct Scale {
    /// How long each attack goes on.
    phase: Duration,
    sandboxes: u32,
    idle: usize,
    timings: usize,
}

/// What goes on beside the good client.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    Attack(Attack),
    IdleConnections,
    Guesses,
}

impl Beside {
    fn name(self) -> String {
        match self {
            Self::Nothing => "alone".to_owned(),
            Self::Attack(attack) => format!("{attack:?}"),
            other => format!("{other:?}"),
        }
    }

    /// Goes on until it is dropped. Counts the connections that were ended.
    async fn go_on(self, address: SocketAddr, idle: usize, ended: &AtomicUsize) {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Attack(attack) => repeat(ended, || attack.once(address, TRACK_TOKEN)).await,
            Self::Guesses => repeat(ended, || guess(address)).await,
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

/// An attack on a thread of its own, so that it does not hold up the good client itself.
struct Running {
    thread: thread::JoinHandle<()>,
    stop: oneshot::Sender<()>,
    ended: Arc<AtomicUsize>,
}

impl Running {
    fn start(beside: Beside, address: SocketAddr, idle: usize) -> Self {
        let ended = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ended);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! {
                    () = beside.go_on(address, idle, &counted) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { thread, stop, ended }
    }

    /// Ends it. Returns how many connections of its the broker has ended.
    fn stop(self) -> usize {
        drop(self.stop);
        self.thread.join().expect("an attack does not panic");
        self.ended.load(Ordering::Relaxed)
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

async fn repeat<F: Future>(ended: &AtomicUsize, attack: impl Fn() -> F) {
    let attackers = (0..ATTACKERS).map(async |_| {
        loop {
            attack().await;
            ended.fetch_add(1, Ordering::Relaxed);
        }
    });
    join_all(attackers).await;
}

/// Tries a hundred tokens over one connection.
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

/// The latencies of a good client's allocations, in microseconds, measured from the time when each was due.
async fn good_client(broker: &Broker, phase: Duration, first: u32) -> Histogram<u64> {
    let began = Instant::now();
    let allocations = (phase.as_secs_f64() * f64::from(RATE)) as u32;
    let latencies = join_all((0..allocations).map(async |number| {
        let due = began + Duration::from_secs(1) * number / RATE;
        sleep_until(due).await;
        let number = first + number;
        // Each is another client to the rate limit.
        let [_, high, middle, low] = number.to_be_bytes();
        let request = broker.track(Method::POST, "/v1/allocate", &format!("good-{number}"));
        let answer = send(request.header("X-Forwarded-For", format!("10.{high}.{middle}.{low}"))).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        due.elapsed()
    }))
    .await;
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    for latency in latencies {
        histogram.record(latency.as_micros() as u64).expect("it grows as it must");
    }
    histogram
}

fn resident_mib(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process.id())).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1024
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
    let attacks = Attack::ALL.map(Beside::Attack);
    let others = [Beside::IdleConnections, Beside::Guesses];
    let picked = attacks.into_iter().chain(others).filter(|beside| beside.name().contains(filter));
    let mut allocated = 0;
    let mut alone = None;
    println!("{:18} {:>8} {:>9} {:>9} {:>7} {:>7} {:>8}", "", "ended", "p50 ms", "p99 ms", "p50 ×", "p99 ×", "RSS MiB");
    // The first time warms up; the last shows what is left of it all.
    let phases = [Beside::Nothing; 2].into_iter().chain(picked).chain([Beside::Nothing]);
    for (number, beside) in phases.enumerate() {
        let attack = Running::start(beside, broker.address, scale.idle);
        // It is well under way before anything is measured.
        sleep(scale.phase / 5).await;
        let latencies = good_client(&broker, scale.phase, allocated).await;
        let ended = attack.stop();
        allocated += latencies.len() as u32;
        let [p50, p99] = [50.0, 99.0].map(|percent| latencies.value_at_percentile(percent) as f64 / 1000.0);
        if number == 0 {
            continue;
        }
        let [alone50, alone99] = *alone.get_or_insert([p50, p99]);
        println!(
            "{:18} {:>8} {p50:>9.3} {p99:>9.3} {:>7.2} {:>7.2} {:>8}",
            beside.name(),
            ended,
            p50 / alone50,
            p99 / alone99,
            resident_mib(&broker)
        );
        // What the attack has left ends before the next one begins.
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
