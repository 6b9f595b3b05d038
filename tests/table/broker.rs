//! A broker as a process, and its HTTP API.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep};

use crate::table::program;
use test_support::http_client;

pub(crate) const TRACK_TOKEN: &str = "track-token-of-at-least-32-characters";
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-at-least-32-characters";

/// How long a test waits for anything.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A process that is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    output: NamedTempFile,
}

impl Process {
    /// Starts it with all its output in a file.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let output = NamedTempFile::new().unwrap();
        let file = output.reopen().unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, output }
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    /// Waits until it has printed this, or has ended.
    pub(crate) async fn printed(&mut self, text: &str) -> bool {
        eventually(text, async || {
            let is_over = self.child.try_wait().unwrap().is_some();
            let has_printed = self.output().contains(text);
            (has_printed || is_over).then_some(has_printed)
        })
        .await
    }

    /// SIGKILL. Returns whether it was still running.
    pub(crate) fn kill(&mut self) -> bool {
        let was_running = self.child.try_wait().unwrap().is_none();
        let _ = self.child.kill();
        let _ = self.child.wait();
        was_running
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) async fn terminate(mut self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        eventually("the process ends", async || self.child.try_wait().unwrap()).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An answer of the broker.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn sandbox_id(&self) -> &str {
        self.body["sandbox_id"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }
}

pub(crate) struct Broker {
    pub(crate) process: Process,
    url: String,
    http: Client,
}

impl Broker {
    /// Starts a broker with these settings and waits until it is ready.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let common = [
            ("BROKER_HOST", "127.0.0.1"),
            ("BROKER_PORT", "0"),
            ("BROKER_API_TOKEN", TRACK_TOKEN),
            ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
            ("RATE_LIMIT_RPS", "0"),
            ("LAB_DURATION_HOURS", "48"),
        ];
        let process = Process::spawn(program(&[], &[&common[..], settings].concat()));
        let address = eventually("the broker listens", async || listening_address(&process.output())).await;
        let broker = Self { process, url: format!("http://{address}"), http: http_client() };
        eventually("the broker is ready", async || {
            (broker.send(broker.http.get(format!("{}/readyz", broker.url))).await.status == 200).then_some(())
        })
        .await;
        broker
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        Answer { status: answer.status().as_u16(), body: answer.json().await.unwrap_or_default() }
    }

    pub(crate) async fn allocate(&self, track: &str, key: &str) -> Answer {
        let request = self.http.post(format!("{}/v1/allocate", self.url)).bearer_auth(TRACK_TOKEN);
        self.send(request.header("X-Track-ID", track).header("Idempotency-Key", key)).await
    }

    pub(crate) async fn release(&self, sandbox_id: &str, track: &str) -> Answer {
        let url = format!("{}/v1/sandboxes/{sandbox_id}/mark-for-deletion", self.url);
        self.send(self.http.post(url).bearer_auth(TRACK_TOKEN).header("X-Track-ID", track)).await
    }

    pub(crate) async fn admin(&self, method: Method, path: &str) -> Answer {
        let request = self.http.request(method, format!("{}/v1/admin/{path}", self.url));
        self.send(request.bearer_auth(ADMIN_TOKEN)).await
    }
}

fn listening_address(log: &str) -> Option<SocketAddr> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == "listening")?["address"].as_str()?.parse().ok()
}
