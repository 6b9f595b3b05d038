//! docs/operations.md: each of its commands works, and it knows every error, actor and alert.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use broker_actors::actor::ActorName;
use reqwest::Method;
use serde_json::{Value, json};

use crate::helpers::{TestApp, send};
use crate::program::{ADMIN_TOKEN, Broker, CspSim};

const MANUAL: &str = include_str!("../../docs/operations.md");
const ALERTS: &str = include_str!("../../docs/alerts.yaml");

/// The commands of a part of the manual, as they stand in its blocks.
fn commands(text: &str) -> String {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).map(|line| line.trim_start().to_owned() + "\n").collect()
}

/// Each runbook's title and text.
fn runbooks() -> impl Iterator<Item = (&'static str, &'static str)> {
    let (_, runbooks) = MANUAL.split_once("## Runbooks").unwrap();
    runbooks.split("\n### ").skip(1).map(|runbook| runbook.split_once('\n').unwrap())
}

/// A pool of eight, of which one student holds two, and the deletion of one has failed.
struct Trouble {
    broker: Broker,
    _csp: CspSim,
    held: String,
    failed: String,
}

impl Trouble {
    async fn begin() -> Self {
        let csp = CspSim::start(8).await;
        let mut settings = csp.settings().to_vec();
        settings.extend([("BROKER_STORE", "memory"), ("DELETION_RETRY_MAX_ATTEMPTS", "1")]);
        let broker = Broker::start(&settings).await;
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

    async fn follow(&self, script: &str) {
        let programs = Path::new(env!("CARGO_BIN_EXE_sandbox-broker")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", script]).env_clear().envs([
            ("PATH", path.as_str()),
            ("BROKER_URL", &format!("http://{}", self.broker.address)),
            ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
            ("HELD", &self.held),
            ("FAILED", &self.failed),
            ("STUDENT", "student-1"),
        ]);
        let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{script}\n{output:?}");
    }
}

#[actix_web::test]
async fn the_runbooks_can_be_followed_to_the_letter() {
    let (beginning, _) = MANUAL.split_once("## Runbooks").unwrap();
    let mut titles = Vec::new();
    for (title, text) in runbooks() {
        let trouble = Trouble::begin().await;
        trouble.follow(&(commands(beginning) + &commands(text))).await;
        let stats = trouble.broker.stats().await.body;
        let actors = trouble.broker.get_admin("/v1/admin/actors").await.body;
        match title {
            "Deletions fail" => {
                assert_eq!((&stats["deletion_failed"], &stats["pending_deletion"]), (&json!(0), &json!(0)))
            }
            "A student holds two" => assert_eq!(stats["allocated"], 1),
            "Drain for maintenance" => assert_eq!((&stats["allocated"], &stats["available"]), (&json!(0), &json!(7))),
            _ => assert_eq!(stats["allocated"], 2, "{title} takes nothing from anybody"),
        }
        let is_running = |actor: &Value| actor["desired_state"] == "running";
        assert!(actors["actors"].as_array().unwrap().iter().all(is_running), "{title}: {actors}");
        titles.push(title);
    }
    let asked_for = [
        "The pool is empty",
        "The CSP is down",
        "Deletions fail",
        "A student holds two",
        "Freeze deletions",
        "Drain for maintenance",
    ];
    assert_eq!(titles, asked_for);
}

#[actix_web::test]
async fn every_answer_is_explained_and_none_that_there_is_not() {
    let document = TestApp::start_empty(&[]).await.get("/v1/openapi.json").await.body;
    // What is answered before a route is found, or by the framework.
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
fn every_actor_and_every_runbook_that_an_alert_names_is_there() {
    for actor in ActorName::ALL.iter().map(|actor| actor.as_str()) {
        assert!(MANUAL.contains(&format!("| `{actor}` |")), "{actor}");
    }
    let titles: Vec<_> = runbooks().map(|(title, _)| title).collect();
    let named: Vec<_> = ALERTS.split("runbook \"").skip(1).map(|text| text.split('"').next().unwrap()).collect();
    assert!(named.len() > 3, "{named:?}");
    for name in named {
        assert!(titles.contains(&name), "{name} is not among {titles:?}");
    }
}
