//! The CSP and its faults: all that the simulator can inject, and its crash. A relay gives it one address over all restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::{CspSim, http_client};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use super::history::Account;

/// The `csp_id` of an account of the simulator is its number plus this.
const FIRST_CSP_ID: u64 = 2_000_000;

pub(crate) struct Csp {
    /// The address of the relay.
    url: String,
    sandboxes: u32,
    state_file: PathBuf,
    endpoint: Endpoint,
    simulator: CspSim,
    random: fastrand::Rng,
    /// The accounts that a fault left out of the listing.
    pub(crate) omitted: BTreeSet<Account>,
    /// The accounts that it called deleted while they existed.
    pub(crate) falsely_deleted: BTreeSet<Account>,
    /// The number of injected faults of each kind.
    pub(crate) injected: BTreeMap<&'static str, u64>,
}

enum Fault {
    /// The simulator works with these faults for a while.
    Simulated(Value),
    /// The simulator is killed and restarted.
    Crash,
}

impl Csp {
    pub(crate) async fn start(sandboxes: u32, state_file: PathBuf, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = Endpoint::default();
        tokio::spawn(relay(listener, endpoint.clone()));
        let simulator = start_simulator(sandboxes, &state_file, &endpoint).await;
        Self {
            url,
            sandboxes,
            state_file,
            endpoint,
            simulator,
            random: fastrand::Rng::with_seed(seed),
            omitted: BTreeSet::new(),
            falsely_deleted: BTreeSet::new(),
            injected: BTreeMap::new(),
        }
    }

    /// The settings of a broker that uses this CSP.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let direct = self.simulator.settings().map(|(name, value)| (name.to_owned(), value.to_owned()));
        direct.into_iter().chain([("CSP_BASE_URL".to_owned(), self.url.clone())]).collect()
    }

    /// Injects one fault after another until `end`. No fault is left afterwards.
    pub(crate) async fn inject_faults(mut self, end: Instant) -> Self {
        let mut faults = Vec::new();
        while Instant::now() < end {
            if faults.is_empty() {
                faults = self.all_faults().await;
                self.random.shuffle(&mut faults);
            }
            self.pause(100..1500).await;
            if let Some((name, fault)) = faults.pop() {
                *self.injected.entry(name).or_default() += 1;
                self.inject(fault).await;
            }
        }
        self
    }

    async fn all_faults(&mut self) -> Vec<(&'static str, Fault)> {
        let newest = self.newest().await;
        let span = (newest - FIRST_CSP_ID).min(120);
        let mut recent = |count: u64| (0..count).map(|_| newest - self.random.u64(0..span)).collect::<BTreeSet<_>>();
        let (missing, undeletable, forbidden) = (recent(40), recent(80), recent(4));
        let (unreadable, renumbered) = (recent(10), recent(10));
        self.omitted.extend(missing.iter().copied().map(account_of));
        let simulated = [
            ("latency", json!({ "latency_ms": 700 })),
            ("some errors", json!({ "error_rate": 0.5, "error_status": 500 })),
            ("bad gateway", json!({ "error_rate": 1.0, "error_status": 502 })),
            ("throttling", json!({ "error_rate": 0.7, "error_status": 429, "retry_after": 1 })),
            ("token refused", json!({ "error_rate": 1.0, "error_status": 401 })),
            ("hang", json!({ "hang": true })),
            ("malformed listing", json!({ "malformed_body": true })),
            ("empty listing", json!({ "empty_listing": true })),
            ("accounts missing", json!({ "missing": missing })),
            ("accounts undeletable", json!({ "undeletable": undeletable })),
            ("accounts forbidden", json!({ "forbidden": forbidden })),
            ("deleted and still listed", json!({ "deletion": "deleted" })),
            ("deletions accepted", json!({ "deletion": "accepted" })),
            ("404 to all deletions", json!({ "deletion": "not_found" })),
            ("404 of a gateway", json!({ "deletion": "no_backend" })),
            ("records unreadable", json!({ "unreadable": unreadable })),
            ("pages failing", json!({ "page_size": 20, "failing_pages": true })),
            ("accounts renumbered", json!({ "renumbered": renumbered })),
        ];
        let simulated = simulated.into_iter().map(|(name, faults)| (name, Fault::Simulated(faults)));
        // More crashes than other faults: without the CSP the pool runs empty.
        simulated.chain([("kill -9", Fault::Crash), ("kill -9", Fault::Crash)]).collect()
    }

    async fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Simulated(faults) => {
                self.simulator.set_faults(faults).await;
                self.pause(300..2500).await;
                let stats = self.simulator.stats().await;
                let falsely_deleted = stats["falsely_deleted"].as_array().unwrap().iter();
                self.falsely_deleted.extend(falsely_deleted.map(|csp_id| account_of(csp_id.as_u64().unwrap())));
                self.simulator.set_faults(json!({})).await;
            }
            Fault::Crash => {
                self.simulator.process.kill();
                self.endpoint.set(None);
                self.pause(300..2500).await;
                self.simulator = start_simulator(self.sandboxes, &self.state_file, &self.endpoint).await;
            }
        }
    }

    /// The accounts that the CSP lists.
    pub(crate) async fn accounts(&self) -> BTreeSet<Account> {
        let listing = self.listing().await;
        let sandboxes = listing.iter().filter(|account| account["csp_id"].is_u64());
        sandboxes.map(|account| account["id"].as_str().unwrap().to_owned()).collect()
    }

    /// The highest `csp_id`.
    async fn newest(&self) -> u64 {
        let listing = self.listing().await;
        listing.iter().filter_map(|account| account["csp_id"].as_u64()).max().expect("deleted accounts are replaced")
    }

    async fn listing(&self) -> Vec<Value> {
        let url = format!("{}/current_user/accounts", self.simulator.url);
        let token = format!("Token {}", CspSim::TOKEN);
        let answer = http_client().get(url).header("Authorization", token).send().await.unwrap();
        let mut listing: Value = answer.json().await.unwrap();
        serde_json::from_value(listing["results"].take()).unwrap()
    }

    async fn pause(&mut self, milliseconds: Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }
}

/// The account with this `csp_id`, as the simulator names it.
fn account_of(csp_id: u64) -> Account {
    format!("identity/accounts/00000000-0000-4000-8000-{:012}", csp_id - FIRST_CSP_ID)
}

async fn start_simulator(sandboxes: u32, state_file: &Path, endpoint: &Endpoint) -> CspSim {
    let simulator = CspSim::start_with(sandboxes, &["--state-file", state_file.to_str().unwrap()]).await;
    let address = simulator.url.strip_prefix("http://").unwrap().parse().unwrap();
    endpoint.set(Some(address));
    simulator
}

/// Forwards connections to the simulator, or closes them while it does not run.
async fn relay(listener: TcpListener, endpoint: Endpoint) {
    loop {
        let (mut from, _) = listener.accept().await.unwrap();
        let Some(address) = endpoint.address() else { continue };
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect(address).await {
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}
