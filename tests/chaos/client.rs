//! A client: one track that allocates, asks again, reads, renews, gives back or forgets, and writes down every answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use test_support::TRACK_TOKEN;
use tokio::time::{Instant, sleep};

use super::history::{Call, Completion, Op, SandboxId, Timestamp};
use super::replica::Endpoint;

/// So often a client asks again until it has a sandbox.
const MAX_ATTEMPTS: u32 = 5;

/// Some clients give up before the broker has even looked; the longest wait is beyond every budget of the broker.
const TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(150), Duration::from_millis(1500), Duration::from_secs(7), Duration::from_secs(7)];

/// What the names of the wanted sandboxes begin with: any, few, soon none, none ever.
const PREFIXES: [&str; 8] = ["", "", "", "", "lab-", "lab-0002", "lab-00001", "no-such-"];

pub struct Client {
    track: String,
    endpoints: Arc<[Endpoint]>,
    http: reqwest::Client,
    random: fastrand::Rng,
    /// What it believes to hold, by its keys.
    held: BTreeMap<String, SandboxId>,
    history: Vec<Call>,
}

impl Client {
    pub fn new(track: String, endpoints: Arc<[Endpoint]>, seed: u64) -> Self {
        Self {
            track,
            endpoints,
            http: reqwest::Client::new(),
            random: fastrand::Rng::with_seed(seed),
            held: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    /// Does one thing after another until `end`; tells all that it was completion.
    pub async fn live(mut self, end: Instant) -> Vec<Call> {
        while Instant::now() < end {
            let key = if self.random.u8(0..4) == 0 { format!("{}-second", self.track) } else { self.track.clone() };
            match (self.random.u8(0..20), self.held.get(&key).cloned()) {
                (0..=2, Some(sandbox)) => self.ask(&key, Op::Read(sandbox)).await,
                (3..=6, Some(sandbox)) => self.ask(&key, Op::Renew(sandbox)).await,
                (7..=12, Some(sandbox)) => self.give_back(&key, sandbox).await,
                // Long enough for what it holds to expire.
                (13, Some(_)) => sleep(Duration::from_millis(self.random.u64(0..8000))).await,
                (7..=12, None) => self.ask_twice(&key).await,
                _ => self.allocate(&key).await,
            }
            sleep(Duration::from_millis(self.random.u64(0..120))).await;
        }
        self.history
    }

    /// Allocates and gives back through one replica, as often as it takes, until `end`.
    pub async fn prove_that_it_serves(mut self, replica: usize, end: Instant) -> Vec<Call> {
        let key = self.track.clone();
        while Instant::now() < end {
            let op = match self.held.get(&key) {
                None => Op::Allocate { prefix: String::new() },
                Some(sandbox) => Op::Release(sandbox.clone()),
            };
            let call = self.call(&key, op, replica, TIMEOUTS[3]).await;
            if call.completion == Completion::Released {
                self.note(call);
                break;
            }
            self.note(call);
            sleep(Duration::from_millis(200)).await;
        }
        self.history
    }

    async fn allocate(&mut self, key: &str) {
        let prefix = self.draw_prefix();
        for _ in 0..MAX_ATTEMPTS {
            self.ask(key, Op::Allocate { prefix: prefix.clone() }).await;
            let is_hopeless = !prefix.is_empty()
                && self.history.last().is_some_and(|call| call.completion == Completion::NoneAvailable);
            if self.held.contains_key(key) || is_hopeless {
                return;
            }
            sleep(Duration::from_millis(self.random.u64(10..300))).await;
        }
    }

    /// Twins: the same key at the same time, through two replicas or through one, with one prefix or with two.
    async fn ask_twice(&mut self, key: &str) {
        let (one, other) = (self.draw_replica(), self.draw_replica());
        let (prefix, timeout) = (self.draw_prefix(), self.draw_timeout());
        let other_prefix = if self.random.bool() { prefix.clone() } else { self.draw_prefix() };
        let lag = Duration::from_millis(self.random.u64(0..30));
        let (one, other) = tokio::join!(self.call(key, Op::Allocate { prefix }, one, timeout), async {
            sleep(lag).await;
            self.call(key, Op::Allocate { prefix: other_prefix }, other, timeout).await
        });
        self.note(one);
        self.note(other);
    }

    /// Gives it back, and asks again if that is not answered, or forgets it.
    async fn give_back(&mut self, key: &str, sandbox: SandboxId) {
        for _ in 0..self.random.u32(0..MAX_ATTEMPTS) {
            self.ask(key, Op::Release(sandbox.clone())).await;
            if !self.held.contains_key(key) {
                return;
            }
        }
    }

    async fn ask(&mut self, key: &str, op: Op) {
        let (replica, timeout) = (self.draw_replica(), self.draw_timeout());
        let call = self.call(key, op, replica, timeout).await;
        self.note(call);
    }

    async fn call(&self, key: &str, op: Op, replica: usize, timeout: Duration) -> Call {
        let sent = Timestamp::now();
        let completion = match self.endpoints[replica].address() {
            Some(address) => {
                let request = self.request(&format!("http://{address}"), key, &op);
                completion(&op, request.timeout(timeout)).await
            }
            None => Completion::NoAnswer,
        };
        let (track, key) = (self.track.clone(), key.to_owned());
        Call { track, key, replica, op, sent, received: Timestamp::now(), completion }
    }

    fn request(&self, url: &str, key: &str, op: &Op) -> RequestBuilder {
        let (method, path) = match op {
            Op::Allocate { .. } => (Method::POST, "/v1/allocate".to_owned()),
            Op::Read(sandbox) => (Method::GET, format!("/v1/sandboxes/{sandbox}")),
            Op::Renew(sandbox) => (Method::POST, format!("/v1/sandboxes/{sandbox}/renew")),
            Op::Release(sandbox) => (Method::POST, format!("/v1/sandboxes/{sandbox}/mark-for-deletion")),
        };
        let request = self.http.request(method, format!("{url}{path}"));
        let mut request = request.bearer_auth(TRACK_TOKEN).header("X-Track-ID", &self.track);
        if key != self.track {
            request = request.header("Idempotency-Key", key);
        }
        match op {
            Op::Allocate { prefix } if !prefix.is_empty() => request.header("X-Sandbox-Name-Prefix", prefix),
            _ => request,
        }
    }

    fn note(&mut self, call: Call) {
        match (&call.op, &call.completion) {
            (Op::Allocate { .. }, Completion::Holds { sandbox, .. }) => {
                self.held.insert(call.key.clone(), sandbox.clone());
            }
            (_, Completion::Released | Completion::NotYours | Completion::WrongState) => {
                self.held.remove(&call.key);
            }
            _ => {}
        }
        self.history.push(call);
    }

    /// One that runs, if any does.
    fn draw_replica(&mut self) -> usize {
        let running: Vec<_> =
            (0..self.endpoints.len()).filter(|replica| self.endpoints[*replica].address().is_some()).collect();
        self.random.choice(running).unwrap_or(0)
    }

    fn draw_timeout(&mut self) -> Duration {
        TIMEOUTS[self.random.usize(..TIMEOUTS.len())]
    }

    fn draw_prefix(&mut self) -> String {
        PREFIXES[self.random.usize(..PREFIXES.len())].to_owned()
    }
}

async fn completion(op: &Op, request: RequestBuilder) -> Completion {
    let Ok(answer) = request.send().await else { return Completion::NoAnswer };
    let status = answer.status();
    let Ok(text) = answer.text().await else { return Completion::NoAnswer };
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let known = match (op, status.as_u16(), body["error"]["code"].as_str().unwrap_or_default()) {
        (Op::Allocate { .. }, 200 | 201, _) | (Op::Renew(_), 200, _) => holds(&body),
        (Op::Read(_), 200, _) => body["status"].as_str().map(|status| Completion::Reads { status: status.to_owned() }),
        (Op::Release(_), 200, _) => Some(Completion::Released),
        (Op::Allocate { .. }, 409, "NO_SANDBOXES_AVAILABLE") => Some(Completion::NoneAvailable),
        (Op::Allocate { .. }, 403 | 404, _) => None,
        (_, 403, "NOT_SANDBOX_OWNER") | (_, 404, "SANDBOX_NOT_FOUND") => Some(Completion::NotYours),
        (Op::Renew(_), 409, "WRONG_STATE") => Some(Completion::WrongState),
        (_, 503, code) if !code.is_empty() => Some(Completion::TryAgain),
        // A process that was stopped meanwhile takes the request to have come too slowly, and does not look at it.
        (_, 408, "") => Some(Completion::NoAnswer),
        _ => None,
    };
    known.unwrap_or_else(|| Completion::Unexpected(format!("{status} {text}")))
}

fn holds(body: &Value) -> Option<Completion> {
    let sandbox = body["sandbox_id"].as_str()?.to_owned();
    Some(Completion::Holds { sandbox, until: Timestamp::of_second(body["expires_at"].as_u64()?) })
}
