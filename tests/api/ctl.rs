//! The output and the exit codes of `sandbox-broker ctl` against a running broker.

use std::process::Output;

use serde_json::Value;
use test_support::{ADMIN_TOKEN, Broker, TRACK_TOKEN, output_of, program};

struct Ctl {
    url: String,
    token: &'static str,
}

impl Ctl {
    fn new(broker: &Broker) -> Self {
        Self { url: format!("http://{}", broker.address), token: ADMIN_TOKEN }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program(&["ctl", "--url", &self.url]);
        command.args(arguments).env("BROKER_ADMIN_TOKEN", self.token).env("USER", "ops");
        output_of(command).await
    }

    /// Runs a command that succeeds and returns its output.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat()).await).unwrap()
    }

    /// Runs a command that fails with this exit code and returns its message.
    async fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "errors go to standard error: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

async fn broker() -> (Broker, Ctl) {
    let broker = Broker::start(&[("BROKER_STORE", "memory"), ("CSP_SIM_SANDBOXES", "230")]).await;
    broker.sync("").await;
    let ctl = Ctl::new(&broker);
    (broker, ctl)
}

#[actix_web::test]
async fn output_is_tables_by_default_and_json_on_request() {
    let (broker, ctl) = broker().await;
    let id = broker.allocate("student-1").await.sandbox_id().to_owned();
    let stats = ctl.ok(&["stats"]).await;
    let line = |name: &str| stats.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
    assert!(line("available").ends_with("229") && line("total").ends_with("230"), "{stats}");
    assert_eq!(ctl.json(&["stats"]).await["allocated"], 1);

    let all = ctl.json(&["sandboxes"]).await;
    assert_eq!(all["sandboxes"].as_array().unwrap().len(), 230, "all pages are listed");
    let allocated = ctl.ok(&["sandboxes", "--status", "allocated"]).await;
    assert!(
        allocated.contains(&id) && allocated.contains("student-1") && allocated.lines().count() == 2,
        "{allocated}"
    );

    let found = ctl.json(&["sandboxes", "--search", "STUDENT-1"]).await;
    assert_eq!(found["sandboxes"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["sandboxes"][0]["sandbox_id"], *id);

    let actors = ctl.ok(&["actors"]).await;
    for name in ["pool-manager", "csp-sync", "expiry-reaper", "cleanup", "stale-collector", "pool-stats"] {
        assert!(actors.contains(name), "{actors}");
    }
    assert_eq!(ctl.json(&["actors", "csp-sync"]).await["last_run"]["report"]["synced"], 230);
    assert!(ctl.ok(&["sync", "--dry-run"]).await.contains("dry_run"));
    assert_eq!(ctl.json(&["sync"]).await["status"], "completed");
}

#[actix_web::test]
async fn actors_are_paused_resumed_and_run() {
    let (_broker, ctl) = broker().await;
    let paused = ctl.ok(&["pause", "cleanup", "--reason", "freeze deletions"]).await;
    assert!(paused.contains("paused") && paused.contains("freeze deletions"), "{paused}");
    let control = ctl.json(&["actors", "cleanup"]).await["control"].clone();
    assert!(control["by"].as_str().unwrap().starts_with("ops@"), "{control}");
    assert!(ctl.fails(5, &["run", "cleanup"]).await.contains("ACTOR_PAUSED"));
    ctl.ok(&["resume", "cleanup"]).await;
    assert!(ctl.ok(&["run", "cleanup"]).await.contains("nothing to do"));
}

#[actix_web::test]
async fn single_sandboxes_and_all_of_a_status_are_processed() {
    let (broker, ctl) = broker().await;
    let id = broker.allocate("student-0").await.sandbox_id().to_owned();
    assert!(ctl.ok(&["release", &id]).await.contains("pending_deletion"));
    assert!(ctl.fails(5, &["retry-deletion", &id]).await.contains("WRONG_STATE"));
    assert_eq!(ctl.json(&["retry-deletion", "--all", "--error", "licence"]).await["retried"], 0);
    ctl.fails(2, &["retry-deletion"]).await;
    assert!(ctl.json(&["freeze", &id, "--for", "90m"]).await["freeze_until"].is_u64());
    ctl.fails(2, &["freeze", &id, "--for", "soon"]).await;
    ctl.fails(2, &["quarantine", &id]).await;
    assert!(ctl.ok(&["quarantine", &id, "--reason", "evidence"]).await.contains("quarantined"));
    assert!(ctl.ok(&["unquarantine", &id]).await.contains("pending_deletion"));
    for number in 1..=25 {
        broker.allocate(&format!("student-{number}")).await;
    }
    let unconfirmed = ctl.fails(2, &["drain", "--status", "allocated"]).await;
    assert!(unconfirmed.contains("25") && unconfirmed.contains("--yes"), "{unconfirmed}");
    assert_eq!(ctl.json(&["drain", "--status", "allocated", "--yes"]).await["drained"], 25);
    assert_eq!(ctl.json(&["stats"]).await["pending_deletion"], 26);
    assert_eq!(ctl.json(&["drain", "--status", "stale", "--yes"]).await["drained"], 0);
}

#[actix_web::test]
async fn commands_that_the_rate_limit_refused_are_repeated() {
    let settings = [("BROKER_STORE", "memory"), ("RATE_LIMIT_RPS", "10"), ("RATE_LIMIT_BURST", "20")];
    let broker = Broker::start(&settings).await;
    let ctl = Ctl::new(&broker);
    ctl.ok(&["sync"]).await;
    for number in 0..40 {
        assert_eq!(broker.allocate(&format!("student-{number}")).await.status, 201);
    }
    assert_eq!(ctl.json(&["drain", "--status", "allocated", "--yes"]).await["drained"], 40);
    assert!(broker.metric("broker_token_requests_total", "outcome=\"limited\"").await > 0.0, "some were refused");
}

#[actix_web::test]
async fn exit_codes_distinguish_the_kinds_of_failure() {
    let (mut broker, mut ctl) = broker().await;
    ctl.fails(2, &["pause", "cleanup"]).await;
    ctl.fails(2, &["drain", "--status", "available"]).await;
    assert!(ctl.fails(1, &["sandboxes", "--status", "lost"]).await.contains("BAD_QUERY"));
    assert!(ctl.fails(4, &["run", "no-such-actor"]).await.contains("ACTOR_NOT_FOUND"));
    assert!(ctl.fails(4, &["release", "4040404"]).await.contains("SANDBOX_NOT_FOUND"));
    let error: Value = serde_json::from_str(&ctl.fails(4, &["release", "4040404", "--json"]).await).unwrap();
    assert_eq!(error["error"]["code"], "SANDBOX_NOT_FOUND");
    ctl.token = TRACK_TOKEN;
    assert!(ctl.fails(3, &["stats"]).await.contains("FORBIDDEN"));
    ctl.token = "unknown";
    assert!(ctl.fails(3, &["stats"]).await.contains("UNAUTHORIZED"));
    ctl.token = "";
    assert!(ctl.fails(2, &["stats"]).await.contains("BROKER_ADMIN_TOKEN"));
    ctl.token = ADMIN_TOKEN;
    broker.process.kill();
    assert!(ctl.fails(6, &["stats"]).await.contains("does not answer"));
}
