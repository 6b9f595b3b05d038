//! A broker process and its faults: it is killed, suspended, restarted, or partitioned from DynamoDB.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use broker_actors::ports::Clock;
use broker_actors::sandbox::UnixMillis;
use sandbox_broker::app::{Application, SystemClock};
use sandbox_broker::telemetry::Telemetry;
use test_support::{Process, eventually, executable, listening_address, parse_settings, program};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use super::nemesis::Nemesis;

/// Environment variable of a broker process: the seconds by which its clock is ahead; negative if it is behind.
const CLOCK_SKEW: &str = "BROKER_CHAOS_CLOCK_SKEW";

/// The test that such a process runs.
const SKEWED_BROKER: &str = "replica::broker_with_skewed_clock";

/// Attempts to start a process. A broker that cannot reach DynamoDB ends, and a supervisor would restart it.
const MAX_STARTS: u32 = 20;

/// The supervisor's wait before the next start.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

pub(crate) struct ReplicaSetup {
    pub(crate) name: &'static str,
    /// The seconds by which the clock is ahead.
    pub(crate) clock_skew: i64,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) nemesis: Arc<Nemesis>,
    pub(crate) log: PathBuf,
    pub(crate) seed: u64,
}

pub(crate) struct Replica {
    setup: ReplicaSetup,
    endpoint: Endpoint,
    process: Option<Process>,
    random: fastrand::Rng,
    events: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Suspend,
    Restart,
    Partition,
}

impl Replica {
    pub(crate) async fn start(setup: ReplicaSetup) -> Self {
        let random = fastrand::Rng::with_seed(setup.seed);
        let mut replica = Self { setup, endpoint: Endpoint::default(), process: None, random, events: BTreeMap::new() };
        replica.start_process().await;
        replica
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// The number of injected faults, crashes and failed starts.
    pub(crate) fn events(&self) -> impl Iterator<Item = (String, u64)> {
        self.events.iter().map(|(event, count)| (format!("{} {event}", self.setup.name), *count))
    }

    /// Injects one fault after another until `end`, each kind equally often. No fault is left afterwards.
    pub(crate) async fn inject_faults(mut self, end: Instant) -> Self {
        let mut faults = Vec::new();
        while Instant::now() < end {
            if faults.is_empty() {
                faults = vec![Fault::Kill, Fault::Suspend, Fault::Restart, Fault::Partition];
                self.random.shuffle(&mut faults);
            }
            let rates = [0.0, 0.05, 0.15, 0.3];
            self.setup.nemesis.set_fault_rate(rates[self.random.usize(..rates.len())]);
            self.pause(200..2500).await;
            self.restart_if_crashed().await;
            if let Some(fault) = faults.pop() {
                self.inject(fault).await;
            }
        }
        self.setup.nemesis.set_fault_rate(0.0);
        self.restart_if_crashed().await;
        self
    }

    /// Stops the process and starts it again, as a deployment does.
    pub(crate) async fn restart(&mut self) {
        if let Some(process) = &mut self.process {
            process.terminate().await;
        }
        self.endpoint.set(None);
        self.start_process().await;
    }

    async fn restart_if_crashed(&mut self) {
        if self.process.as_mut().is_none_or(|process| process.exit_status().is_some()) {
            self.count("crashed");
            self.start_process().await;
        }
    }

    async fn inject(&mut self, fault: Fault) {
        self.count(match fault {
            Fault::Kill => "kill -9",
            Fault::Suspend => "suspend",
            Fault::Restart => "restart",
            Fault::Partition => "partition",
        });
        let Some(process) = &mut self.process else { return };
        match fault {
            Fault::Kill => {
                process.kill();
                self.endpoint.set(None);
                self.pause(100..1500).await;
                self.start_process().await;
            }
            Fault::Suspend => {
                process.signal("-STOP");
                // Sometimes longer than a lease and than the timeout of a client.
                self.pause(200..5000).await;
                if let Some(process) = &self.process {
                    process.signal("-CONT");
                }
            }
            Fault::Restart => self.restart().await,
            Fault::Partition => {
                self.setup.nemesis.set_partitioned(true);
                self.pause(200..4000).await;
                self.setup.nemesis.set_partitioned(false);
            }
        }
    }

    /// Starts the process, again if it ends, until it listens.
    async fn start_process(&mut self) {
        for _ in 0..MAX_STARTS {
            let written = std::fs::read(&self.setup.log).map_or(0, |log| log.len());
            let mut process = Process::spawn(&mut self.command(), &self.setup.log);
            let address = eventually("a broker listens or ends", async || {
                let has_ended = process.exit_status().is_some();
                let log = std::fs::read(&self.setup.log).unwrap();
                let address = listening_address(&String::from_utf8_lossy(&log[written..]));
                (address.is_some() || has_ended).then_some(address)
            })
            .await;
            if address.is_some() {
                self.endpoint.set(address);
                self.process = Some(process);
                return;
            }
            self.count("failed start");
            sleep(RESTART_PAUSE).await;
        }
        panic!("{} does not start; see {}", self.setup.name, self.setup.log.display());
    }

    fn command(&self) -> Command {
        let mut command = match self.setup.clock_skew {
            0 => program(&[]),
            skew => {
                let this = std::env::current_exe().unwrap();
                let mut command = executable(&this, &["--exact", SKEWED_BROKER, "--ignored", "--nocapture"]);
                command.env(CLOCK_SKEW, skew.to_string());
                command
            }
        };
        command.envs(self.setup.settings.iter().map(|(name, value)| (name, value)));
        command.env("BROKER_REPLICA_ID", self.setup.name);
        command
    }

    async fn pause(&mut self, milliseconds: Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }

    fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }
}

/// A clock that is ahead by this number of seconds.
struct SkewedClock(i64);

impl Clock for SkewedClock {
    fn now_millis(&self) -> UnixMillis {
        UnixMillis(SystemClock.now_millis().0.saturating_add_signed(self.0 * 1000))
    }
}

/// The program with a skewed clock, which no setting of the program offers. It serves until SIGTERM.
#[actix_web::test]
#[ignore = "this is a process of the chaos test, which starts it"]
async fn broker_with_skewed_clock() {
    let skew = std::env::var(CLOCK_SKEW).expect("only the chaos test starts this");
    let settings = parse_settings(["broker"]);
    let _telemetry = Telemetry::init(&settings.server.log_filter, settings.server.log_format, None).unwrap();
    let application = Application::build_on(settings, Arc::new(SkewedClock(skew.parse().unwrap()))).await.unwrap();
    tracing::info!(address = %application.address(), "listening");
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let stop = async move {
        let _ = terminate.recv().await;
    };
    application.run_until_stopped(stop).await.unwrap();
}
