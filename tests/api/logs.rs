//! The log as a collector reads it: one line for each request, one for each run of a job, and no secrets.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use test_support::{ADMIN_TOKEN, Broker, CspSim, DynamoServer, TRACK_TOKEN, eventually, send};

fn lines(broker: &Broker) -> Vec<Value> {
    broker.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Sends the request and returns its log line. There is exactly one.
async fn logged(broker: &Broker, id: &str, request: RequestBuilder) -> Value {
    send(request.header("X-Request-ID", id)).await;
    let is_match = |line: &Value| line["event"] == "request" && line["request_id"] == id;
    // A thread of the broker's writes the lines, in their order.
    let found = eventually("the line is written", async || {
        let found: Vec<Value> = lines(broker).into_iter().filter(is_match).collect();
        (!found.is_empty()).then_some(found)
    })
    .await;
    let [line] = &found[..] else { panic!("{id} has not one line: {found:?}") };
    assert!(line["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0), "{line}");
    line.clone()
}

fn assert_fields(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
}

#[actix_web::test]
async fn each_request_is_one_line_with_caller_action_and_outcome() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    broker.sync("").await;
    let allocate = || broker.track(Method::POST, "/v1/allocate", "student-1");
    let line = logged(&broker, "first", allocate()).await;
    let id = line["sandbox_id"].as_str().expect("the line names the sandbox").to_owned();
    let expected = json!({ "action": "allocate", "outcome": "allocated", "track_id": "student-1", "status": 201 });
    assert_fields(&line, &expected);
    let line = logged(&broker, "again", allocate()).await;
    assert_fields(&line, &json!({ "action": "allocate", "outcome": "replayed", "sandbox_id": id }));

    let read = broker.track(Method::GET, &format!("/v1/sandboxes/{id}"), "student-2");
    let line = logged(&broker, "of-another", read).await;
    let expected = json!({
        "action": "read", "outcome": "error", "code": "NOT_SANDBOX_OWNER", "track_id": "student-2", "sandbox_id": id,
        "endpoint": "/v1/sandboxes/{id}", "method": "GET", "status": 403, "level": "INFO",
    });
    assert_fields(&line, &expected);
    let line = logged(&broker, "no-token", broker.request(Method::POST, "/v1/allocate")).await;
    assert_fields(&line, &json!({ "action": "allocate", "outcome": "error", "code": "UNAUTHORIZED" }));
    let line = logged(&broker, "no-route", broker.request(Method::GET, "/no/such/route")).await;
    assert_fields(&line, &json!({ "action": "unmatched", "outcome": "error", "code": "NOT_FOUND" }));

    let release = broker.admin(Method::POST, &format!("/v1/admin/sandboxes/{id}/release"));
    let line = logged(&broker, "ordered", release.header("X-Operator", "anna")).await;
    let expected =
        json!({ "action": "force-release", "outcome": "ok", "sandbox_id": id, "operator": "anna@127.0.0.1" });
    assert_fields(&line, &expected);
}

#[actix_web::test]
async fn each_move_of_a_sandbox_is_one_line_that_names_who_moved_it() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    broker.sync("").await;
    let id = broker.allocate("student-1").await.sandbox_id().to_owned();
    broker.renew(&id, "student-1").await;
    send(broker.admin(Method::POST, &format!("/v1/admin/sandboxes/{id}/release")).header("X-Operator", "anna")).await;
    broker.post_admin("/v1/admin/cleanup").await;
    let moves = eventually("three lines are written", async || {
        let mut moves = lines(&broker);
        moves.retain(|line| line["event"] == "sandbox_changed" && line["sandbox_id"] == *id);
        (moves.len() >= 3).then_some(moves)
    })
    .await;
    let moves: Vec<_> = moves.iter().map(|line| json!([line["from"], line["to"], line["by"]])).collect();
    let expected = [
        json!(["available", "allocated", "owner"]),
        json!(["allocated", "pending_deletion", "anna@127.0.0.1"]),
        json!(["pending_deletion", "deleted", "cleanup"]),
    ];
    assert_eq!(moves, expected);
}

#[actix_web::test]
async fn each_run_of_a_job_is_one_line_with_its_report() {
    let csp = CspSim::start(5).await;
    let broker = Broker::on_csp(&csp, &[]).await;
    // The line of the request is written after that of the run.
    let sync = async |id: &str| logged(&broker, id, broker.admin(Method::POST, "/v1/admin/sync")).await;
    let runs = || {
        let mut runs = lines(&broker);
        runs.retain(|line| line["job"] == "csp-sync" && line["outcome"].is_string());
        runs
    };
    sync("first").await;
    let before = runs().len();
    sync("second").await;
    let last = runs().pop().unwrap();
    assert_eq!(runs().len(), before + 1);
    assert_fields(&last, &json!({ "event": "job_run", "outcome": "completed", "level": "INFO" }));
    assert!(last["report"].as_str().unwrap().contains("\"synced\":5") && last["duration_ms"].is_u64(), "{last}");

    csp.set_faults(json!({ "malformed_body": true })).await;
    sync("third").await;
    let last = runs().pop().unwrap();
    assert_eq!(runs().len(), before + 2);
    assert_fields(&last, &json!({ "event": "job_run", "outcome": "csp_error", "level": "WARN" }));
    assert!(last["error"].is_string(), "{last}");
}

#[actix_web::test]
async fn a_sync_that_the_csp_fails_logs_its_error_once() {
    let mut csp = CspSim::start(5).await;
    let mut settings = csp.settings().map(|(name, value)| (name, value.to_owned())).to_vec();
    settings.push(("BROKER_STORE", "memory".to_owned()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let broker = Broker::start(&settings).await;
    broker.sync("").await;
    csp.process.kill();
    let since = |before: usize| {
        let mut lines = lines(&broker).split_off(before);
        lines.retain(|line| line["level"] != "INFO");
        lines
    };

    logged(&broker, "before", broker.request(Method::GET, "/v1/admin/stats")).await;
    let before = lines(&broker).len();
    let request = logged(&broker, "manual", broker.admin(Method::POST, "/v1/admin/sync")).await;
    assert_fields(&request, &json!({ "status": 502, "code": "CSP_ERROR", "error": null, "level": "WARN" }));
    let [run, other] = &since(before)[..] else { panic!("not two lines: {:?}", since(before)) };
    assert_fields(run, &json!({ "event": "job_run", "job": "csp-sync", "outcome": "csp_error", "level": "WARN" }));
    assert!(run["error"].as_str().is_some_and(|error| error.contains("Connection refused")), "{run}");
    assert_eq!(*other, request);

    // No job driver runs a dry run, so its error is in the line of the request.
    let before = lines(&broker).len();
    let request = logged(&broker, "dry", broker.admin(Method::POST, "/v1/admin/sync?dry_run=true")).await;
    assert_fields(&request, &json!({ "status": 502, "code": "CSP_ERROR" }));
    assert!(request["error"].as_str().is_some_and(|error| error.contains("Connection refused")), "{request}");
    assert_eq!(since(before), [request]);
}

#[actix_web::test]
async fn routine_requests_and_floods_do_not_fill_the_log() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    for path in ["/healthz", "/readyz", "/metrics", "/console", "/console/console.js", "/v1/docs"] {
        assert_eq!(broker.get(path).await.status, 200, "{path}");
    }
    let flood = (0..300).map(|number| format!("/no/such/{number}")).collect::<Vec<_>>();
    futures_util::future::join_all(flood.iter().map(|path| broker.get(path))).await;
    logged(&broker, "last", broker.track(Method::GET, "/v1/sandboxes/1", "student-1")).await;
    // A replica that is not ready yet is worth a line.
    let requests = lines(&broker).into_iter().filter(|line| line["event"] == "request" && line["level"] == "INFO");
    let (unmatched, others): (Vec<_>, Vec<_>) = requests.partition(|line| line["action"] == "unmatched");
    assert!((20..100).contains(&unmatched.len()), "{} lines of a flood of 300", unmatched.len());
    let [only] = &others[..] else { panic!("not only the request of the track: {others:?}") };
    assert_eq!(only["action"], "read");
}

/// Not even at the finest level, which includes the lines of the libraries.
#[actix_web::test]
async fn no_secret_is_ever_logged() {
    const AWS_SECRET: &str = "aws-secret-access-key-of-this-test";
    const GUESS: &str = "a-token-that-an-attacker-guessed";
    let (server, csp) = (DynamoServer::start().await, CspSim::start(5).await);
    let mut settings = csp.settings().to_vec();
    settings.extend([("LOG_LEVEL", "trace"), ("AWS_SECRET_ACCESS_KEY", AWS_SECRET)]);
    let mut broker = Broker::on_server(&server, &settings).await;
    assert_eq!(broker.sync("").await.status, 200);
    let id = broker.allocate("student-1").await.sandbox_id().to_owned();
    assert_eq!(broker.mark_for_deletion(&id, "student-1").await.status, 200);
    assert_eq!(broker.post_admin("/v1/admin/cleanup").await.status, 200);
    for path in ["/v1/allocate", "/v1/admin/sync"] {
        assert_eq!(send(broker.request(Method::POST, path).bearer_auth(GUESS)).await.status, 401);
    }
    csp.set_faults(json!({ "error_rate": 1.0, "error_status": 401 })).await;
    assert_eq!(broker.sync("").await.status, 502);
    assert!(broker.process.terminate().await.success());

    let log = broker.log();
    assert!(log.contains("\"level\":\"TRACE\"") && log.contains("student-1"), "the log must have trace lines");
    for secret in [TRACK_TOKEN, ADMIN_TOKEN, CspSim::TOKEN, AWS_SECRET, GUESS] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in {line:?}");
    }
}
