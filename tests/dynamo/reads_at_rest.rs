//! What brokers read while no track asks for anything, in read units of the metering server (I8). The figures of
//! docs/performance.md come from here:
//!
//! ```console
//! $ cargo test --test dynamo reads_at_rest -- --include-ignored --nocapture
//! ```
#![allow(clippy::print_stdout, reason = "it prints the table of the document")]

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::Method;
use tokio::time::sleep;

use crate::table::{Server, Table};

/// It holds whole intervals of all jobs and of the full refreshes.
const WINDOW: Duration = Duration::from_secs(1800);

/// On-demand units in us-east-1, in USD.
const READ_PRICE: f64 = 0.125e-6;
const WRITE_PRICE: f64 = 0.625e-6;

/// The seconds of a month.
const MONTH: f64 = 365.0 / 12.0 * 86_400.0;

/// A pool and the replicas that serve it.
#[derive(Clone, Copy)]
struct Fleet {
    sandboxes: u32,
    replicas: u32,
}

/// Read and write units per second of a fleet with the default settings.
async fn measured(fleet: Fleet) -> (f64, f64) {
    let mut table = Table::new().await;
    table.fill(fleet.sandboxes);
    let mut brokers = Vec::new();
    for number in 0..fleet.replicas {
        brokers.push(table.broker(&format!("replica-{number}")).await);
    }
    // They know each other and their shards, and the reads of the start are over.
    sleep(Duration::from_secs(900)).await;
    let consoles: Vec<_> = brokers.iter().map(broker_actors::broker::Broker::watch_stats).collect();
    table.connection.engine.reset_counters();
    sleep(WINDOW).await;
    for console in consoles {
        assert_eq!(console.borrow().stats.available, u64::from(fleet.sandboxes), "consoles see the last count");
    }
    let counters = table.connection.engine.counters();
    let second = |units: f64| units / WINDOW.as_secs_f64();
    (second(counters.read_units()), second(counters.write_units()))
}

fn report(fleet: Fleet, units: (f64, f64), how: &str) {
    let (Fleet { sandboxes, replicas }, (read, written)) = (fleet, units);
    let price = (read * READ_PRICE + written * WRITE_PRICE) * MONTH;
    println!("| {sandboxes} | {replicas} | {read:.1} | {written:.2} | {price:.2} | {how} |");
}

#[actix_web::test]
async fn two_replicas_of_a_small_pool_read_no_more_than_before_the_shards() {
    tokio::time::pause();
    let fleet = Fleet { sandboxes: 50, replicas: 2 };
    let units = measured(fleet).await;
    report(fleet, units, "measured");
    // The figure before the shards was 4.7, with one decimal.
    assert!(units.0 < 4.75, "{} read units a second", units.0);
}

#[actix_web::test]
#[ignore = "takes minutes; it makes the table of docs/performance.md"]
async fn reads_do_not_grow_with_pool_times_replicas() {
    tokio::time::pause();
    let goals = [
        (Fleet { sandboxes: 50, replicas: 2 }, 4.75),
        (Fleet { sandboxes: 1_000, replicas: 4 }, 29.6),
        (Fleet { sandboxes: 10_000, replicas: 10 }, 100.0),
    ];
    let mut all = Vec::new();
    for (fleet, goal) in goals {
        let units = measured(fleet).await;
        report(fleet, units, "measured");
        assert!(units.0 <= goal, "{} read units a second", units.0);
        all.push((fleet, units));
    }
    let largest = Fleet { sandboxes: 100_000, replicas: 20 };
    let of = |part: fn(&(f64, f64)) -> f64| {
        let measured: Vec<_> = all.iter().map(|(fleet, units)| (*fleet, part(units))).collect();
        extrapolated(&measured, largest)
    };
    let units = (of(|units| units.0), of(|units| units.1));
    report(largest, units, "computed");
    assert!(units.0 <= 200.0, "{} read units a second", units.0);
}

/// Units consist of what each replica polls and writes, what is read of each sandbox, and what is due in any case:
/// solves `units = base + replicas * of_replica + sandboxes * of_sandbox` for three fleets, and applies it to another.
fn extrapolated(measured: &[(Fleet, f64)], to: Fleet) -> f64 {
    let [one, two, three] = measured else { panic!("three fleets make three unknowns") };
    let step = |from: &(Fleet, f64), to: &(Fleet, f64)| {
        let replicas = f64::from(to.0.replicas) - f64::from(from.0.replicas);
        (replicas, f64::from(to.0.sandboxes) - f64::from(from.0.sandboxes), to.1 - from.1)
    };
    let ((r1, s1, u1), (r2, s2, u2)) = (step(one, two), step(two, three));
    let determinant = r1 * s2 - r2 * s1;
    let (of_replica, of_sandbox) = ((u1 * s2 - u2 * s1) / determinant, (r1 * u2 - r2 * u1) / determinant);
    let base = three.1 - of_replica * f64::from(three.0.replicas) - of_sandbox * f64::from(three.0.sandboxes);
    println!("{base:.2} + {of_replica:.2} for each replica + {:.2} for 1,000 sandboxes", of_sandbox * 1000.0);
    base + of_replica * f64::from(to.replicas) + of_sandbox * f64::from(to.sandboxes)
}

/// The stream of a console shows what the replica knows. Between two runs of the jobs nothing but the commands is read.
#[actix_web::test]
async fn an_open_console_reads_nothing() {
    let server = Server::start().await;
    let rare = [("POOL_REFRESH_INTERVAL_SEC", "3600"), ("POOL_STATS_INTERVAL_SEC", "3600"), ("JOB_LEASE_SEC", "3600")];
    let broker = server.broker(&[&rare[..], &[("CSP_SIM_SANDBOXES", "50")]].concat()).await;
    let queries = || server.engine().counters().operation("Query").requests;
    // The jobs' first runs end.
    loop {
        let before = queries();
        sleep(Duration::from_secs(2)).await;
        if queries() == before {
            break;
        }
    }
    server.engine().reset_counters();
    let stream = broker.admin(Method::GET, "/v1/admin/events").send().await.unwrap();
    let mut chunks = stream.bytes_stream();
    for _ in 0..4 {
        let chunk = chunks.next().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&chunk).contains("event: snapshot"), "{chunk:?}");
    }
    let read: Vec<_> = server.engine().counters().operations.into_keys().collect();
    assert!(read.iter().all(|operation| operation == "BatchGetItem"), "{read:?}");
}
