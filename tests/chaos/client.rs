//! A client: one track that allocates, repeats, reads, renews, releases or abandons, and records every call. If the track
//! has a secret, the client also sends calls of an impostor in its name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use test_support::TRACK_TOKEN;
use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use super::history::{Call, Caller, Completion, Op, SandboxId, Timestamp};

/// Attempts of one allocation or release.
const MAX_ATTEMPTS: u32 = 5;

/// Request timeouts: some end before the broker answers, the longest is beyond the broker's own limits.
const TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(150), Duration::from_millis(1500), Duration::from_secs(7), Duration::from_secs(7)];

/// The timeout of a client that waits for every answer.
const PATIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Name prefixes that match all sandboxes, some, few, or none.
const PREFIXES: [&str; 8] = ["", "", "", "", "lab-", "lab-0002", "lab-00001", "no-such-"];

/// The secret of impostors. They use it when they allocate, so that a sandbox that they get is theirs.
const IMPOSTORS_SECRET: &str = "a-secret-of-another-owner";

pub(crate) struct Client {
    track: String,
    secret: Option<String>,
    /// The seconds for which its allocations prefer to wait.
    wait: Option<u64>,
    endpoints: Arc<[Endpoint]>,
    http: reqwest::Client,
    random: fastrand::Rng,
    /// The sandboxes that the client may hold, by key.
    held: BTreeMap<String, SandboxId>,
    history: Vec<Call>,
}

impl Client {
    pub(crate) fn new(track: String, endpoints: Arc<[Endpoint]>, http: reqwest::Client, seed: u64) -> Self {
        Self {
            track,
            secret: None,
            wait: None,
            endpoints,
            http,
            random: fastrand::Rng::with_seed(seed),
            held: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    /// The same, of a track that has a secret.
    pub(crate) fn with_secret(self) -> Self {
        Self { secret: Some(format!("the-secret-of-{}", self.track)), ..self }
    }

    /// The same, of a track that waits for this many seconds if the pool is empty.
    pub(crate) fn waiting(self, seconds: u64) -> Self {
        Self { wait: Some(seconds), ..self }
    }

    /// Waits for sandboxes, gives up, leaves the queue, and gives back, until `end`.
    pub(crate) async fn queue(mut self, end: Instant) -> Vec<Call> {
        let key = self.track.clone();
        while Instant::now() < end {
            self.wait = Some(self.random.u64(1..8));
            match (self.random.u8(0..6), self.held.get(&key).cloned()) {
                (0, _) => self.invoke(&key, Op::Leave).await,
                (1, None) => self.wait_and_leave(&key).await,
                (2, None) => self.allocate_twice(&key).await,
                (3..=5, Some(sandbox)) => self.release_or_abandon(&key, sandbox).await,
                _ => self.allocate(&key).await,
            }
            sleep(Duration::from_millis(self.random.u64(0..250))).await;
        }
        self.history
    }

    /// Leaves the queue at any replica while it waits.
    async fn wait_and_leave(&mut self, key: &str) {
        let (one, other) = (self.draw_replica(), self.draw_replica());
        let (prefix, timeout, caller) = (self.draw_prefix(), self.draw_timeout(), self.caller());
        let lag = Duration::from_millis(self.random.u64(0..2000));
        let (waited, left) = tokio::join!(self.call(key, Op::Allocate { prefix }, caller, one, timeout), async {
            sleep(lag).await;
            self.call(key, Op::Leave, caller, other, timeout).await
        });
        self.record(left);
        self.record(waited);
    }

    /// Invokes random operations until `end` and returns the calls.
    pub(crate) async fn run(mut self, end: Instant) -> Vec<Call> {
        while Instant::now() < end {
            let key = if self.random.u8(0..4) == 0 { format!("{}-second", self.track) } else { self.track.clone() };
            match (self.random.u8(0..22), self.held.get(&key).cloned()) {
                (0..=2, Some(sandbox)) => self.invoke(&key, Op::Read(sandbox)).await,
                (3..=6, Some(sandbox)) => self.invoke(&key, Op::Renew(sandbox)).await,
                (7..=12, Some(sandbox)) => self.release_or_abandon(&key, sandbox).await,
                // Long enough for the holding to expire.
                (13, Some(_)) => sleep(Duration::from_millis(self.random.u64(0..8000))).await,
                (20..=21, Some(sandbox)) if self.secret.is_some() => self.impersonate(&key, sandbox).await,
                (7..=12, None) => self.allocate_twice(&key).await,
                _ => self.allocate(&key).await,
            }
            sleep(Duration::from_millis(self.random.u64(0..120))).await;
        }
        self.history
    }

    /// Retries an allocation and a release at one replica until both succeed, or until `end`.
    pub(crate) async fn probe(mut self, replica: usize, end: Instant) -> Vec<Call> {
        let key = self.track.clone();
        while Instant::now() < end {
            let op = match self.held.get(&key) {
                None => Op::Allocate { prefix: String::new() },
                Some(sandbox) => Op::Release(sandbox.clone()),
            };
            let call = self.call(&key, op, self.caller(), replica, TIMEOUTS[3]).await;
            let is_released = call.completion == Completion::Released;
            self.record(call);
            if is_released {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.history
    }

    /// Allocates at one replica, after each refusal again at the time that it names, and releases if asked to. Gives up
    /// at `end`.
    pub(crate) async fn attend(mut self, replica: usize, releases: bool, end: Instant) -> Vec<Call> {
        let key = self.track.clone();
        while Instant::now() < end {
            let op = match self.held.get(&key) {
                None => Op::Allocate { prefix: String::new() },
                Some(sandbox) if releases => Op::Release(sandbox.clone()),
                Some(_) => break,
            };
            let call = self.call(&key, op, self.caller(), replica, PATIENT_TIMEOUT).await;
            let completion = call.completion.clone();
            self.record(call);
            match completion {
                Completion::Holds { .. } => {}
                Completion::Unavailable { retry_after, .. } => {
                    sleep(Duration::from_secs(retry_after.unwrap_or(1))).await
                }
                Completion::Indeterminate => sleep(Duration::from_secs(1)).await,
                _ => break,
            }
        }
        self.history
    }

    async fn allocate(&mut self, key: &str) {
        let prefix = self.draw_prefix();
        for _ in 0..MAX_ATTEMPTS {
            self.invoke(key, Op::Allocate { prefix: prefix.clone() }).await;
            let has_no_match = !prefix.is_empty()
                && self.history.last().is_some_and(|call| call.completion == Completion::NoneAvailable);
            if self.held.contains_key(key) || has_no_match {
                return;
            }
            sleep(Duration::from_millis(self.random.u64(10..300))).await;
        }
    }

    /// Sends two concurrent allocations with one key, to one or two replicas, with one or two prefixes.
    async fn allocate_twice(&mut self, key: &str) {
        let (one, other) = (self.draw_replica(), self.draw_replica());
        let (prefix, timeout) = (self.draw_prefix(), self.draw_timeout());
        let other_prefix = if self.random.bool() { prefix.clone() } else { self.draw_prefix() };
        let lag = Duration::from_millis(self.random.u64(0..30));
        let caller = self.caller();
        let (one, other) = tokio::join!(self.call(key, Op::Allocate { prefix }, caller, one, timeout), async {
            sleep(lag).await;
            self.call(key, Op::Allocate { prefix: other_prefix }, caller, other, timeout).await
        });
        self.record(one);
        self.record(other);
    }

    /// Tries to release the sandbox a few times, or not at all.
    async fn release_or_abandon(&mut self, key: &str, sandbox: SandboxId) {
        for _ in 0..self.random.u32(0..MAX_ATTEMPTS) {
            self.invoke(key, Op::Release(sandbox.clone())).await;
            if !self.held.contains_key(key) {
                return;
            }
        }
    }

    /// Does what its owner may do with this sandbox, without the owner's secret.
    async fn impersonate(&mut self, key: &str, sandbox: SandboxId) {
        let op = match self.random.u8(0..4) {
            0 => Op::Allocate { prefix: String::new() },
            1 => Op::Read(sandbox),
            2 => Op::Renew(sandbox),
            _ => Op::Release(sandbox),
        };
        let replica = self.draw_replica();
        let call = self.call(key, op, Caller::Impostor, replica, TIMEOUTS[3]).await;
        self.history.push(call);
    }

    /// Invokes the operation at a random replica and records the call.
    async fn invoke(&mut self, key: &str, op: Op) {
        let (replica, timeout) = (self.draw_replica(), self.draw_timeout());
        let call = self.call(key, op, self.caller(), replica, timeout).await;
        self.record(call);
    }

    fn caller(&self) -> Caller {
        if self.secret.is_some() { Caller::Owner } else { Caller::Open }
    }

    async fn call(&self, key: &str, op: Op, caller: Caller, replica: usize, timeout: Duration) -> Call {
        let invoked = Timestamp::now();
        let completion = match self.endpoints[replica].address() {
            Some(address) => {
                let request = self.request(&format!("http://{address}"), key, &op, caller);
                completion_of(&op, caller, request.timeout(timeout)).await
            }
            None => Completion::Indeterminate,
        };
        let (track, key) = (self.track.clone(), key.to_owned());
        Call { track, key, replica, caller, op, invoked, completed: Timestamp::now(), completion }
    }

    fn request(&self, url: &str, key: &str, op: &Op, caller: Caller) -> RequestBuilder {
        let (method, path) = match op {
            Op::Allocate { .. } => (Method::POST, "/v1/allocate".to_owned()),
            Op::Read(sandbox) => (Method::GET, format!("/v1/sandboxes/{sandbox}")),
            Op::Renew(sandbox) => (Method::POST, format!("/v1/sandboxes/{sandbox}/renew")),
            Op::Release(sandbox) => (Method::POST, format!("/v1/sandboxes/{sandbox}/mark-for-deletion")),
            Op::Leave => (Method::DELETE, "/v1/allocation".to_owned()),
        };
        let request = self.http.request(method, format!("{url}{path}"));
        let mut request = request.bearer_auth(TRACK_TOKEN).header("X-Track-ID", &self.track);
        if key != self.track {
            request = request.header("Idempotency-Key", key);
        }
        let secret = match (caller, op) {
            (Caller::Owner, _) => self.secret.as_deref(),
            (Caller::Impostor, Op::Allocate { .. } | Op::Read(_)) => Some(IMPOSTORS_SECRET),
            // Renewals and releases of impostors come without any secret, which must not help them either.
            (Caller::Open, _) | (Caller::Impostor, _) => None,
        };
        if let Some(secret) = secret {
            request = request.header("X-Track-Secret", secret);
        }
        if let (Some(seconds), Op::Allocate { .. }) = (self.wait, op) {
            request = request.header("Prefer", format!("wait={seconds}"));
        }
        match op {
            Op::Allocate { prefix } if !prefix.is_empty() => request.header("X-Sandbox-Name-Prefix", prefix),
            _ => request,
        }
    }

    fn record(&mut self, call: Call) {
        match (&call.op, &call.completion) {
            (Op::Allocate { .. }, Completion::Holds { sandbox, .. }) => {
                self.held.insert(call.key.clone(), sandbox.clone());
            }
            (_, Completion::Released | Completion::Left | Completion::NotOwned | Completion::WrongState) => {
                self.held.remove(&call.key);
            }
            _ => {}
        }
        self.history.push(call);
    }

    /// A running replica, if there is one.
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

/// Sends the request and reads its completion.
async fn completion_of(op: &Op, caller: Caller, request: RequestBuilder) -> Completion {
    let Ok(answer) = request.send().await else { return Completion::Indeterminate };
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let Ok(text) = answer.text().await else { return Completion::Indeterminate };
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let completion = match (op, status.as_u16(), body["error"]["code"].as_str().unwrap_or_default()) {
        (Op::Allocate { .. }, 200 | 201, _) | (Op::Renew(_), 200, _) => holding(&body),
        (Op::Read(_), 200, _) => body["status"].as_str().map(|status| Completion::Reads { status: status.to_owned() }),
        (Op::Release(_), 200, _) => Some(Completion::Released),
        (Op::Leave, 200, _) => Some(Completion::Left),
        (Op::Allocate { .. }, 409, "WITHDRAWN") => Some(Completion::Withdrawn),
        (Op::Allocate { .. }, 409, "NO_SANDBOXES_AVAILABLE") => Some(Completion::NoneAvailable),
        (Op::Allocate { .. }, 403 | 404, _) if caller == Caller::Open => None,
        (_, 403, "NOT_SANDBOX_OWNER") | (_, 404, "SANDBOX_NOT_FOUND") => Some(Completion::NotOwned),
        (Op::Renew(_), 409, "WRONG_STATE") => Some(Completion::WrongState),
        (Op::Renew(_), 409, "MAX_DURATION_REACHED") => Some(Completion::HeldLongest),
        (_, 503, code) if !code.is_empty() => Some(Completion::Unavailable { code: code.to_owned(), retry_after }),
        // A broker that was suspended while the request arrived treats the request as too slow and does not handle it.
        (_, 408, "") => Some(Completion::Indeterminate),
        _ => None,
    };
    completion.unwrap_or_else(|| Completion::Unexpected(format!("{status} {text}")))
}

fn holding(body: &Value) -> Option<Completion> {
    let sandbox = body["sandbox_id"].as_str()?.to_owned();
    Some(Completion::Holds { sandbox, until: Timestamp::from_seconds(body["expires_at"].as_u64()?) })
}
