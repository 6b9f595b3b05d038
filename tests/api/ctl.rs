//! The output and the exit codes of `sandbox-broker ctl` against a running broker.

use std::io::Read as _;
use std::process::{Output, Stdio};

use reqwest::Method;
use serde_json::Value;
use tempfile::NamedTempFile;
use test_support::{ADMIN_TOKEN, Broker, Process, TRACK_TOKEN, eventually, output_of, program, send};

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

    /// Runs a command that prints a table and fails with this exit code, and returns its message.
    async fn fails_with_output(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
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
    let line = |name: &str| stats.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
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
async fn holdings_are_extended_and_labs_are_listed() {
    let (broker, ctl) = broker().await;
    let mut ids = Vec::new();
    for student in ["student-1", "student-2"] {
        let request = broker.track(Method::POST, "/v1/allocate", student).header("X-Instruqt-Track-ID", "dns");
        ids.push(send(request).await.sandbox_id().to_owned());
    }
    let before = ctl.json(&["show", &ids[0]]).await["expires_at"].as_u64().unwrap();
    let extended = ctl.json(&["extend", &ids[0], &ids[1], "--for", "2d"]).await;
    let ends = extended["sandboxes"][0]["expires_at"].as_u64().unwrap();
    assert!((before + 43 * 3600..=before + 48 * 3600).contains(&ends), "{before} {extended}");
    assert_eq!(extended["sandboxes"].as_array().unwrap().len(), 2);
    ctl.fails(2, &["extend", &ids[0]]).await;
    assert!(ctl.fails(4, &["extend", "no-such-id", "--for", "1h"]).await.contains("SANDBOX_NOT_FOUND"));
    let orders = ctl.json(&["audit", "--action", "extend"]).await;
    assert_eq!(orders["entries"].as_array().unwrap().len(), 3, "{orders}");

    ctl.ok(&["run", "pool-stats"]).await;
    let labs = ctl.ok(&["labs"]).await;
    let line = labs.lines().find(|line| line.starts_with("dns")).unwrap_or_else(|| panic!("no line for dns: {labs}"));
    assert_eq!(line.split_whitespace().nth(1), Some("2"), "{labs}");
}

#[actix_web::test]
async fn a_preflight_needs_a_track_token() {
    let (broker, ctl) = broker().await;
    let run = async |token: Option<&str>, arguments: &[&str]| {
        let mut command = program(&["ctl", "--url", &ctl.url, "preflight"]);
        command.args(arguments).env_remove("BROKER_ADMIN_TOKEN").env_remove("BROKER_API_TOKEN");
        command.envs(token.map(|token| ("BROKER_API_TOKEN", token)));
        output_of(command).await
    };
    let said = run(Some(TRACK_TOKEN), &["--count", "230", "--prefix", "lab-", "--minutes", "60", "--json"]).await;
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["would"], &said["available"]), (&"allocate".into(), &230.into()), "{said}");
    let table = run(Some(TRACK_TOKEN), &["--count", "231"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains("wait"), "{table:?}");
    let missing = run(None, &[]).await;
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("BROKER_API_TOKEN"), "{missing:?}");
    assert_eq!(run(Some("wrong"), &[]).await.status.code(), Some(3));
    assert_eq!(broker.stats().await.body["available"], 230);
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
    let unknown = ctl.fails(2, &["sandboxes", "--status", "lost"]).await;
    assert!(unknown.contains("deletion_failed"), "the known ones are named: {unknown}");
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
    let unreachable = ctl.fails(6, &["stats"]).await;
    assert!(unreachable.contains("Connection refused") && unreachable.contains(&ctl.url), "{unreachable}");
}

#[actix_web::test]
async fn one_sandbox_is_found_and_shown_and_its_orders_are_listed() {
    let (broker, ctl) = broker().await;
    let id = broker.allocate("student-1").await.sandbox_id().to_owned();
    broker.allocate("student-2").await;
    for text in [id.as_str(), "student-1"] {
        assert_eq!(ctl.ok(&["find", text, "-o", "name"]).await.trim(), id, "{text}");
    }
    assert!(ctl.fails_with_output(4, &["find", "no-such-student"]).await.contains("no-such-student"));
    let shown = ctl.ok(&["show", &id]).await;
    assert!(shown.contains("allocated_to_track") && shown.contains("student-1"), "{shown}");
    assert!(ctl.fails(4, &["show", "4040404"]).await.contains("SANDBOX_NOT_FOUND"));

    let both = ctl.ok(&["sandboxes", "--status", "allocated", "-o", "name"]).await;
    let ids: Vec<_> = both.lines().collect();
    assert_eq!(ids.len(), 2);
    let released = ctl.ok(&["release", ids[0], ids[1], "--operator", "Ana López"]).await;
    assert_eq!(released.matches("pending_deletion").count(), 2, "{released}");
    let history = ctl.ok(&["history", &id]).await;
    let lines: Vec<_> = history.lines().skip(1).collect();
    assert!(lines.len() == 2 && lines[0].contains("allocated") && lines[0].ends_with("owner"), "{history}");
    assert!(lines[1].contains("pending_deletion") && lines[1].ends_with("Ana López@127.0.0.1"), "{history}");
    let again = ctl.fails(1, &["release", ids[0], "4040404"]).await;
    assert!(again.contains("2 of 2 failed"), "{again}");
    let orders = ctl.ok(&["audit", "--by", "lópez"]).await;
    assert!(orders.contains("Ana López@127.0.0.1") && orders.lines().count() == 3, "{orders}");
}

#[actix_web::test]
async fn each_form_of_output_suits_its_reader() {
    let (broker, ctl) = broker().await;
    broker.allocate("=1+1").await;
    let csv = ctl.ok(&["sandboxes", "--status", "allocated", "-o", "csv"]).await;
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("id,name,status,track,lab,"), "{csv}");
    assert!(lines[1].contains(",'=1+1,"), "no formula: {csv}");
    let wide = ctl.ok(&["actors", "-o", "wide", "--no-headers"]).await;
    assert!(wide.lines().count() == 6 && !wide.contains("LEADER"), "{wide}");
    assert_eq!(ctl.ok(&["sandboxes", "--limit", "7", "-o", "name"]).await.lines().count(), 7);
    assert!(!ctl.ok(&["sandboxes", "--limit", "7"]).await.contains('\u{1b}'), "no colours in a pipe");
}

#[actix_web::test]
async fn every_command_ends_when_no_one_reads_its_output() {
    let (broker, ctl) = broker().await;
    broker.allocate("student-1").await;
    let commands: &[&[&str]] = &[
        &["stats", "--watch", "--interval", "1"],
        &["sandboxes", "--watch", "--interval", "1"],
        &["sandboxes", "-o", "json"],
        &["sandboxes", "-o", "csv"],
        &["actors"],
        &["actors", "cleanup"],
        &["audit"],
        &["events", "--follow"],
        &["--help"],
    ];
    for arguments in commands {
        let mut command = program(&["ctl", "--url", &ctl.url]);
        command.args(*arguments).env("BROKER_ADMIN_TOKEN", ADMIN_TOKEN);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(process.stdout.take());
        // Something happens, so that each command has something to print.
        broker.allocate("student-2").await;
        let status = eventually("the command ends", async || process.try_wait().unwrap()).await;
        let mut errors = String::new();
        process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(status.success() && errors.is_empty(), "{arguments:?}: {status}, {errors}");
    }
}

#[actix_web::test]
async fn a_watch_goes_on_after_a_restart_of_the_broker() {
    let (mut broker, ctl) = broker().await;
    let output = NamedTempFile::new().unwrap();
    let mut command = program(&["ctl", "--url", &ctl.url, "stats", "--watch", "--interval", "1"]);
    let mut watch = Process::spawn(command.env("BROKER_ADMIN_TOKEN", ADMIN_TOKEN), output.path());
    let printed = async |text: &str| {
        let read = || std::fs::read_to_string(output.path()).unwrap();
        eventually("the watch prints", async || read().contains(text).then_some(())).await;
    };
    printed("230").await;
    broker.process.kill();
    printed("trying again").await;
    let port = broker.address.port().to_string();
    let settings = [("BROKER_STORE", "memory"), ("CSP_SIM_SANDBOXES", "77"), ("BROKER_PORT", &port)];
    let restarted = Broker::start(&settings).await;
    restarted.sync("").await;
    printed("77").await;
    assert!(watch.exit_status().is_none());
}

#[actix_web::test]
async fn completions_man_pages_and_the_version_need_no_broker() {
    let completions = output_of(program(&["completions", "bash"])).await;
    assert!(String::from_utf8_lossy(&completions.stdout).contains("retry-deletion"));
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man");
    assert!(output_of(program(&["man", pages.to_str().unwrap()])).await.status.success());
    for page in ["sandbox-broker.1", "sandbox-broker-ctl.1", "sandbox-broker-ctl-show.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
    let version = output_of(program(&["version"])).await;
    assert_eq!(String::from_utf8_lossy(&version.stdout).trim(), concat!("sandbox-broker ", env!("CARGO_PKG_VERSION")));
}
