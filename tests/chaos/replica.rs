//! One broker process and what is done to it: killed, stopped and continued, restarted, cut off from DynamoDB.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_actors::ports::Clock;
use broker_actors::sandbox::Timestamp;
use clap::Parser as _;
use sandbox_broker::app::{Application, SystemClock};
use sandbox_broker::config::Settings;
use sandbox_broker::telemetry::Telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::nemesis::Nemesis;
use crate::support::eventually;
use crate::support::processes::{Process, executable, listening_address, program};

/// Says by how many seconds the clock of a broker process is ahead; negative if it is behind.
const CLOCK_SKEW: &str = "BROKER_CHAOS_CLOCK_SKEW";

/// The name of the test that is such a process.
const PROCESS: &str = "replica::broker_with_a_clock_of_its_own";

/// A process that cannot reach DynamoDB ends, and is started anew as a supervisor would.
const MAX_STARTS: u32 = 20;

/// Where a replica listens while it runs.
#[derive(Clone, Default)]
pub struct Endpoint(Arc<Mutex<Option<SocketAddr>>>);

impl Endpoint {
    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, address: Option<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// How a replica is set up.
pub struct ReplicaSetup {
    pub name: &'static str,
    /// Seconds that its clock is ahead.
    pub clock_skew: i64,
    pub settings: Vec<(String, String)>,
    pub nemesis: Arc<Nemesis>,
    pub log: PathBuf,
    pub seed: u64,
}

pub struct Replica {
    setup: ReplicaSetup,
    endpoint: Endpoint,
    process: Option<Process>,
    random: fastrand::Rng,
    troubles: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Kill,
    StopAndContinue,
    Restart,
    CutOff,
}

impl Replica {
    pub async fn start(setup: ReplicaSetup) -> Self {
        let random = fastrand::Rng::with_seed(setup.seed);
        let mut replica =
            Self { setup, endpoint: Endpoint::default(), process: None, random, troubles: BTreeMap::new() };
        replica.run().await;
        replica
    }

    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// How often each thing happened to it.
    pub fn troubles(&self) -> Vec<(String, u64)> {
        self.troubles.iter().map(|(trouble, count)| (format!("{} {trouble}", self.setup.name), *count)).collect()
    }

    /// Makes one trouble after another, each kind as often as the others, until `end`; then the replica runs undisturbed.
    pub async fn be_troubled(mut self, end: Instant) -> Self {
        let mut troubles = Vec::new();
        while Instant::now() < end {
            if troubles.is_empty() {
                troubles = vec![Trouble::Kill, Trouble::StopAndContinue, Trouble::Restart, Trouble::CutOff];
                self.random.shuffle(&mut troubles);
            }
            let shares = [0.0, 0.05, 0.15, 0.3];
            self.setup.nemesis.set_share(shares[self.random.usize(..shares.len())]);
            self.pause(200..2500).await;
            self.survive().await;
            if let Some(trouble) = troubles.pop() {
                self.make(trouble).await;
            }
        }
        self.setup.nemesis.set_share(0.0);
        self.survive().await;
        self
    }

    /// A process that ended by itself is noted, and started anew.
    async fn survive(&mut self) {
        if self.process.as_mut().is_none_or(|process| process.ended().is_some()) {
            self.count("died");
            self.run().await;
        }
    }

    async fn make(&mut self, trouble: Trouble) {
        self.count(match trouble {
            Trouble::Kill => "kill -9",
            Trouble::StopAndContinue => "stop and continue",
            Trouble::Restart => "restart",
            Trouble::CutOff => "cut off",
        });
        let Some(process) = &mut self.process else { return };
        match trouble {
            Trouble::Kill => {
                process.kill();
                self.endpoint.set(None);
                self.pause(100..1500).await;
                self.run().await;
            }
            Trouble::StopAndContinue => {
                process.signal("-STOP");
                // Sometimes longer than a lease, and than anybody waits for an answer.
                self.pause(200..5000).await;
                if let Some(process) = &self.process {
                    process.signal("-CONT");
                }
            }
            Trouble::Restart => {
                process.terminate().await;
                self.endpoint.set(None);
                self.run().await;
            }
            Trouble::CutOff => {
                self.setup.nemesis.set_cut_off(true);
                self.pause(200..4000).await;
                self.setup.nemesis.set_cut_off(false);
            }
        }
    }

    /// Starts the process, again if it ends, until it serves.
    async fn run(&mut self) {
        for _ in 0..MAX_STARTS {
            let written = std::fs::read(&self.setup.log).map_or(0, |log| log.len());
            let mut process = Process::spawn(&mut self.command(), &self.setup.log);
            let address = eventually("a broker listens or ends", async || {
                let ended = process.ended().is_some();
                let log = std::fs::read(&self.setup.log).unwrap();
                let address = listening_address(&String::from_utf8_lossy(&log[written..]));
                (address.is_some() || ended).then_some(address)
            })
            .await;
            if address.is_some() {
                self.endpoint.set(address);
                self.process = Some(process);
                return;
            }
            self.count("start in vain");
        }
        panic!("{} does not start; see {}", self.setup.name, self.setup.log.display());
    }

    fn command(&self) -> Command {
        let mut command = match self.setup.clock_skew {
            0 => program(&[]),
            skew => {
                let this = std::env::current_exe().unwrap();
                let mut command = executable(&this, &["--exact", PROCESS, "--ignored", "--nocapture"]);
                command.env(CLOCK_SKEW, skew.to_string());
                command
            }
        };
        command.envs(self.setup.settings.iter().map(|(name, value)| (name, value)));
        command.env("BROKER_REPLICA_ID", self.setup.name);
        command
    }

    async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }

    fn count(&mut self, trouble: &'static str) {
        *self.troubles.entry(trouble).or_default() += 1;
    }
}

/// A clock that is wrong by so many seconds.
struct SkewedClock(i64);

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0.saturating_add_signed(self.0))
    }
}

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

/// The program, but for its clock, which production has no way to set. It serves until it is completion to end.
#[actix_web::test]
#[ignore = "it is no test but a process of the chaos test, which starts it by itself"]
async fn broker_with_a_clock_of_its_own() {
    let skew = std::env::var(CLOCK_SKEW).expect("only the chaos test starts this");
    let settings = Settings::check(Flags::parse_from(["broker"]).settings).unwrap();
    let _telemetry = Telemetry::init(&settings.server.log_filter, settings.server.log_format, None).unwrap();
    let application = Application::build_on(settings, Arc::new(SkewedClock(skew.parse().unwrap()))).await.unwrap();
    tracing::info!(address = %application.address(), "listening");
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let stop = async move {
        let _ = terminate.recv().await;
    };
    application.run_until_stopped(stop).await.unwrap();
}
