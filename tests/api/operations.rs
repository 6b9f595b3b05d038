//! docs/operations.md: every command works, and every error, actor and alert is explained.

use std::collections::BTreeSet;
use std::process::Command;

use broker_actors::actor::ActorName;
use reqwest::Method;
use serde_json::{Value, json};
use test_support::{ADMIN_TOKEN, Broker, CspSim, TestApp, output_of, program_path, send};

const MANUAL: &str = include_str!("../../docs/operations.md");
const ALERTS: &str = include_str!("../../docs/alerts.yaml");

/// The commands in the shell blocks of a part of the manual.
fn commands(text: &str) -> String {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).map(|line| line.trim_start().to_owned() + "\n").collect()
}

/// Each runbook's title and text.
fn runbooks() -> impl Iterator<Item = (&'static str, &'static str)> {
    let (_, runbooks) = MANUAL.split_once("## Runbooks").unwrap();
    runbooks.split("\n### ").skip(1).map(|runbook| runbook.split_once('\n').unwrap())
}

/// A broker that needs an operator: of eight sandboxes one student holds two, and the deletion of a third has failed.
struct Incident {
    broker: Broker,
    _csp: CspSim,
    held: String,
    failed: String,
}

impl Incident {
    async fn start() -> Self {
        let csp = CspSim::start(8).await;
        let broker = Broker::on_csp(&csp, &[("DELETION_RETRY_MAX_ATTEMPTS", "1")]).await;
        assert_eq!(broker.sync("").await.status, 200);
        let failed = broker.allocate("student-2").await.sandbox_id().to_owned();
        assert_eq!(broker.mark_for_deletion(&failed, "student-2").await.status, 200);
        csp.set_faults(json!({ "undeletable": [failed.parse::<u64>().unwrap()] })).await;
        assert_eq!(broker.post_admin("/v1/admin/cleanup").await.body["gave_up"], 1);
        csp.set_faults(json!({})).await;
        let held = broker.allocate("student-1").await.sandbox_id().to_owned();
        let second = broker.track(Method::POST, "/v1/allocate", "student-1").header("Idempotency-Key", "second");
        assert_eq!(send(second).await.status, 201);
        Self { broker, _csp: csp, held, failed }
    }

    /// Runs the script with the program in its path.
    async fn run(&self, script: &str) {
        let program = program_path();
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", script]).env_clear().envs([
            ("PATH", path.as_str()),
            ("BROKER_URL", &format!("http://{}", self.broker.address)),
            ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
            ("HELD", &self.held),
            ("FAILED", &self.failed),
            ("ID", &self.failed),
            ("STUDENT", "student-1"),
        ]);
        let output = output_of(shell).await;
        assert!(output.status.success(), "{script}\n{output:?}");
    }
}

#[actix_web::test]
async fn the_commands_of_each_runbook_work() {
    let (introduction, _) = MANUAL.split_once("## Runbooks").unwrap();
    let mut titles = Vec::new();
    for (title, text) in runbooks() {
        let incident = Incident::start().await;
        incident.run(&(commands(introduction) + &commands(text))).await;
        let stats = incident.broker.stats().await.body;
        let actors = incident.broker.get_admin("/v1/admin/actors").await.body;
        match title {
            "Deletions fail" => {
                assert_eq!((&stats["deletion_failed"], &stats["pending_deletion"]), (&json!(0), &json!(0)))
            }
            "A student holds two" => assert_eq!(stats["allocated"], 1),
            "Drain for maintenance" => assert_eq!((&stats["allocated"], &stats["available"]), (&json!(0), &json!(7))),
            _ => assert_eq!(stats["allocated"], 2, "{title} releases no sandbox"),
        }
        let is_running = |actor: &Value| actor["desired_state"] == "running";
        assert!(actors["actors"].as_array().unwrap().iter().all(is_running), "{title}: {actors}");
        titles.push(title);
    }
    let expected = [
        "The pool is empty",
        "The CSP is down",
        "Deletions fail",
        "Accounts come back",
        "Services of accounts (NIOSXaaS)",
        "Set a sandbox aside",
        "A student holds two",
        "Freeze deletions",
        "Drain for maintenance",
    ];
    assert_eq!(titles, expected);
}

#[actix_web::test]
async fn every_error_of_the_api_is_explained_and_no_other() {
    let document = TestApp::start_empty(&[]).await.get("/v1/openapi.json").await.body;
    // Errors before routing, and those of the framework.
    let unrouted = [
        ("400", "BAD_REQUEST"),
        ("405", "METHOD_NOT_ALLOWED"),
        ("408", "REQUEST_TIMEOUT"),
        ("431", "HEAD_TOO_LARGE"),
        ("503", "TOO_MANY_CONNECTIONS"),
    ];
    let mut answers: BTreeSet<(String, String)> = unrouted.map(owned).into();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    for (status, response) in operations.flat_map(|operation| operation["responses"].as_object().unwrap()) {
        let examples = response["content"]["application/json"]["examples"].as_object();
        answers.extend(examples.into_iter().flatten().map(|(code, _)| owned((status, code))));
    }
    let mut explained = BTreeSet::new();
    for row in MANUAL.lines().filter(|line| line.starts_with("| ")) {
        let mut status = "";
        for word in row.split('|').nth(1).unwrap().split([' ', ',']) {
            match word.strip_prefix('`').and_then(|word| word.strip_suffix('`')) {
                Some(code) if code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') => {
                    explained.insert(owned((status, code)));
                }
                _ if word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty() => status = word,
                _ => {}
            }
        }
    }
    assert_eq!(explained, answers);
}

fn owned((status, code): (&str, &str)) -> (String, String) {
    (status.to_owned(), code.to_owned())
}

#[test]
fn every_actor_is_explained_and_every_runbook_of_an_alert_exists() {
    for actor in ActorName::ALL.iter().map(|actor| actor.as_str()) {
        assert!(MANUAL.contains(&format!("| `{actor}` |")), "{actor}");
    }
    let titles: Vec<_> = runbooks().map(|(title, _)| title).collect();
    let named: Vec<_> = ALERTS.split("runbook \"").skip(1).map(|text| text.split('"').next().unwrap()).collect();
    assert!(named.len() > 3, "{named:?}");
    for name in named {
        assert!(titles.contains(&name), "{name} is not one of {titles:?}");
    }
}
