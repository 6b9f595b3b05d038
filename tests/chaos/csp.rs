//! The CSP and what is done to it: every fault that it can simulate, and its death. Brokers reach it at one address,
//! whatever port it listens on after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use test_support::CspSim;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::history::SandboxId;
use super::replica::Endpoint;

pub struct Csp {
    /// Where brokers reach it.
    pub url: String,
    sandboxes: u32,
    state_file: PathBuf,
    endpoint: Endpoint,
    simulator: CspSim,
    random: fastrand::Rng,
    /// The accounts that its listing lacked for a while though they were there.
    pub hidden: BTreeSet<SandboxId>,
    /// How often each trouble was made.
    pub troubles: BTreeMap<&'static str, u64>,
}

impl Csp {
    pub async fn start(sandboxes: u32, state_file: PathBuf, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = Endpoint::default();
        tokio::spawn(relay(listener, endpoint.clone()));
        let simulator = simulator(sandboxes, &state_file, &endpoint).await;
        let random = fastrand::Rng::with_seed(seed);
        Self {
            url,
            sandboxes,
            state_file,
            endpoint,
            simulator,
            random,
            hidden: BTreeSet::new(),
            troubles: BTreeMap::new(),
        }
    }

    /// The settings of a broker that uses it.
    pub fn settings(&self) -> Vec<(String, String)> {
        let own = self.simulator.settings().map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.into_iter().chain([("CSP_BASE_URL".to_owned(), self.url.clone())]).collect()
    }

    /// Makes one trouble after another until `end`; then it works.
    pub async fn be_troubled(mut self, end: Instant) -> Self {
        let mut troubles = Vec::new();
        while Instant::now() < end {
            if troubles.is_empty() {
                troubles = self.all_troubles().await;
                self.random.shuffle(&mut troubles);
            }
            self.pause(100..1500).await;
            if let Some((name, faults)) = troubles.pop() {
                *self.troubles.entry(name).or_default() += 1;
                self.make(faults).await;
            }
        }
        self
    }

    /// Each with the faults to set; without any, it is killed.
    async fn all_troubles(&mut self) -> Vec<(&'static str, Option<Value>)> {
        let newest: u64 = self.accounts().await.last().expect("it replaces what is deleted").parse().unwrap();
        let mut recent = |count: u64| (0..count).map(|_| newest - self.random.u64(0..120)).collect::<BTreeSet<_>>();
        let (missing, undeletable) = (recent(40), recent(80));
        self.hidden.extend(missing.iter().map(u64::to_string));
        let faults = [
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
        ];
        let faults = faults.into_iter().map(|(name, faults)| (name, Some(faults)));
        // Without the CSP the pool runs dry, which is a trouble of its own.
        faults.chain([("kill -9", None), ("kill -9", None)]).collect()
    }

    async fn make(&mut self, faults: Option<Value>) {
        match faults {
            Some(faults) => {
                self.simulator.set_faults(faults).await;
                self.pause(300..2500).await;
                self.simulator.set_faults(json!({})).await;
            }
            None => {
                self.simulator.process.kill();
                self.endpoint.set(None);
                self.pause(300..2500).await;
                self.simulator = simulator(self.sandboxes, &self.state_file, &self.endpoint).await;
            }
        }
    }

    /// The accounts that it lists.
    pub async fn accounts(&self) -> BTreeSet<SandboxId> {
        let url = format!("{}/current_user/accounts", self.simulator.url);
        let token = format!("Token {}", CspSim::TOKEN);
        let answer = reqwest::Client::new().get(url).header("Authorization", token).send().await.unwrap();
        let listing: Value = answer.json().await.unwrap();
        let ids = listing["results"].as_array().unwrap().iter().filter_map(|account| account["csp_id"].as_u64());
        ids.map(|id| id.to_string()).collect()
    }

    async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }
}

async fn simulator(sandboxes: u32, state_file: &std::path::Path, endpoint: &Endpoint) -> CspSim {
    let flags = ["--state-file", state_file.to_str().unwrap()];
    let simulator = CspSim::start_with(sandboxes, &flags).await;
    let address = simulator.url.strip_prefix("http://").unwrap().parse().unwrap();
    endpoint.set(Some(address));
    simulator
}

/// Passes connections on to where the simulator listens, or drops them while it does not.
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
