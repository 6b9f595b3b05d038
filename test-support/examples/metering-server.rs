//! DynamoDB with AWS's partitions, throttles, conflicts and lag, on a port of the loopback interface.
//!
//! ```console
//! $ cargo run -p test-support --example metering-server -- --warm-write 12000 --scale 10 --seed 3
//! $ curl -s localhost:8000/counters
//! $ curl -s localhost:8000/faults -d '{"fault":{"html":{"status":502}},"occurrence":{"next":3}}'
//! ```
#![allow(clippy::print_stdout, reason = "this talks to the person or script that started it")]

use std::time::Duration;

use clap::Parser;
use test_support::metering::{Durations, Lag, Limits, MeteringServer, MeteringSettings, Placement, WarmThroughput};

#[derive(Parser)]
#[command(about = "A DynamoDB server with AWS's partitions, throttles, conflicts and lag")]
struct Arguments {
    /// The port on the loopback interface; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Decides the placement of keys, the lags and the faults. Drawn if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Write units per second that tables and indexes are warmed to, unless their creation says otherwise.
    #[arg(long, default_value_t = 4_000.0)]
    warm_write: f64,
    /// The same for read units.
    #[arg(long, default_value_t = 12_000.0)]
    warm_read: f64,
    /// The factor by which all limits are divided.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Write units per second that a table or an index may have at most.
    #[arg(long, default_value_t = 40_000.0)]
    quota_write: f64,
    /// Units that may wait for an index partition before writes of the table are refused.
    #[arg(long, default_value_t = 0.0)]
    index_queue: f64,
    /// Puts all partition keys of an index or table that begin with a prefix into one partition, for example
    /// `StatusIndex=available#`.
    #[arg(long, value_name = "RESOURCE=PREFIX")]
    together: Vec<String>,
    /// Shows each write in the indexes at once.
    #[arg(long)]
    no_lag: bool,
    /// Seconds for which continuous backups are unavailable after a table's creation.
    #[arg(long, default_value_t = 0)]
    backups_after_sec: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut placement = Placement::default();
    for group in &arguments.together {
        let (resource, prefix) = group.split_once('=').ok_or("--together takes RESOURCE=PREFIX")?;
        placement.together.extend(Placement::together(resource, prefix).together);
    }
    let settings = MeteringSettings {
        seed,
        limits: Limits {
            quota_write: arguments.quota_write,
            index_queue: arguments.index_queue,
            scale: arguments.scale,
            ..Limits::default()
        },
        warm: WarmThroughput { write: arguments.warm_write, read: arguments.warm_read },
        placement,
        lag: if arguments.no_lag { Lag::none() } else { Lag::default() },
        durations: Durations { backups: Duration::from_secs(arguments.backups_after_sec), ..Durations::default() },
    };
    let server = MeteringServer::start_on(arguments.port, settings);
    println!("DynamoDB on {}, seed {seed}", server.url());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
