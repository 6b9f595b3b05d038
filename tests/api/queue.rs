//! The queue over HTTP: one broker, and several on one table.

use std::collections::BTreeSet;
use std::process::Command;

use broker_actors::ports::{Coordination as _, SandboxStore as _};
use broker_actors::testing::ModelStore;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use test_support::{
    Answer, ApiClient, Broker, CspSim, DynamoServer, TRACK_TOKEN, TestApp, assert_error, dynamo_store, eventually,
    output_of, read_answer, send,
};

/// An allocation that waits for this long.
async fn wait(app: &ApiClient, track: &str, seconds: u64) -> Answer {
    send(app.track(Method::POST, "/v1/allocate", track).header("Prefer", format!("wait={seconds}"))).await
}

async fn waiting(app: &ApiClient) -> u64 {
    app.get_admin("/v1/admin/queue").await.body["waiting"].as_u64().unwrap()
}

#[actix_web::test]
async fn a_request_that_waits_is_told_its_place_and_leaves_the_queue_by_its_key() {
    let app = TestApp::start(&["--csp-sim-sandboxes=0"]).await;
    assert_error(&app.allocate("student-1").await, 409, "NO_SANDBOXES_AVAILABLE");
    let answer = wait(&app, "student-1", 2).await;
    assert_error(&answer, 503, "WAITING");
    let queue = &answer.body["error"]["details"]["queue"];
    assert_eq!((&queue["position"], &queue["of"], &queue["eta_seconds"]), (&1.into(), &1.into(), &json!(null)));
    assert!((2..=30).contains(&answer.body["error"]["retry_after"].as_u64().unwrap()), "{answer:?}");

    let place = send(app.track(Method::GET, "/v1/allocation", "student-1")).await;
    assert_eq!((place.status.as_u16(), &place.body["state"]), (200, &"waiting".into()), "{place:?}");
    let left = send(app.track(Method::DELETE, "/v1/allocation", "student-1")).await;
    assert_eq!(left.body, json!({ "released": true }));
    assert_error(&send(app.track(Method::GET, "/v1/allocation", "student-1")).await, 404, "NOTHING_HELD");
}

#[actix_web::test]
async fn a_client_that_prefers_to_wait_is_told_so_and_a_bad_preference_is_ignored() {
    let app = TestApp::start(&[]).await;
    for (preference, applied) in
        [("wait=7", Some("wait=7")), ("respond-async, WAIT=\"99\"", Some("wait=50")), ("wait=x", None)]
    {
        let request =
            app.track(Method::POST, "/v1/allocate", preference.split('=').next_back().unwrap().trim_matches('"'));
        let answer = send(request.header("Prefer", preference)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let header = answer.headers.get("preference-applied").map(|value| value.to_str().unwrap());
        assert_eq!(header, applied, "{preference}");
    }
}

#[actix_web::test]
async fn operators_see_the_queue_and_drop_a_ticket() {
    let app = TestApp::start(&["--csp-sim-sandboxes=0", "--allocate-wait-sec=30"]).await;
    let request = app.track(Method::POST, "/v1/allocate", "student-1").header("X-Sandbox-Name-Prefix", "lab-");
    let request = request.header("X-Instruqt-Track-ID", "dns");
    let (answer, ()) = tokio::join!(send(request), async {
        eventually("it waits", async || (waiting(&app).await == 1).then_some(())).await;
        let queue = app.get_admin("/v1/admin/queue").await;
        let ticket = &queue.body["tickets"][0];
        assert_eq!((&ticket["position"], &ticket["track_id"]), (&1.into(), &"student-1".into()));
        assert_eq!((&ticket["name_prefix"], &ticket["track_name"]), (&"lab-".into(), &"dns".into()));
        let labs = app.get_admin("/v1/admin/labs").await.body["labs"].clone();
        assert_eq!(labs, json!([{ "lab": "dns", "held": 0, "standby": 0, "waiting": 1, "median_seconds": null }]));
        let path = "/v1/admin/queue?track_id=student-1&reason=left%20the%20class";
        assert_eq!(send(app.admin(Method::DELETE, path)).await.body, json!({ "dropped": true }));
        assert_eq!(send(app.admin(Method::DELETE, path)).await.body, json!({ "dropped": false }));
    });
    assert_error(&answer, 409, "WITHDRAWN");
    let orders = app.get_admin("/v1/admin/audit?action=drop-ticket").await.body;
    assert_eq!(orders["entries"].as_array().unwrap().len(), 2, "{orders}");
    assert!(orders["entries"][0]["parameters"].as_str().unwrap().contains("student-1"), "{orders}");
}

#[actix_web::test]
async fn a_preflight_tells_what_a_class_would_get_and_allocates_nothing() {
    let app = TestApp::start(&["--csp-sim-sandboxes=20"]).await;
    let preflight = async |query: &str| send(app.track(Method::GET, &format!("/v1/preflight?{query}"), "x")).await.body;
    for (query, would, available) in [
        ("count=20&prefix=lab-&minutes=240", "allocate", 20),
        ("count=21", "wait", 20),
        ("count=1&prefix=gpu-", "wait", 0),
        ("count=1&minutes=961", "fail", 20),
    ] {
        let body = preflight(query).await;
        assert_eq!((&body["would"], &body["available"]), (&would.into(), &available.into()), "{query}: {body}");
        assert_eq!(body["reasons"].as_array().unwrap().is_empty(), would == "allocate", "{query}: {body}");
    }
    assert_eq!(app.stats().await.body["available"], 20);
    for bad in ["count=0", "minutes=0", "minutes=525601"] {
        let answer = send(app.track(Method::GET, &format!("/v1/preflight?{bad}"), "x")).await;
        assert_error(&answer, 400, "BAD_QUERY");
    }
}

#[actix_web::test]
async fn the_wait_for_a_sandbox_is_logged_and_no_latency_of_the_broker() {
    let (server, csp) = (DynamoServer::start().await, CspSim::start(0).await);
    let store = dynamo_store(server.dynamo_client()).await;
    let broker = Broker::on_server(&server, &csp.settings()).await;
    let (answer, ()) = tokio::join!(wait(&broker, "student-1", 50), async {
        eventually("it waits", async || (waiting(&broker).await == 1).then_some(())).await;
        assert!(store.create(&ModelStore::sandbox(1)).await.unwrap());
        store.add_supply(1).await.unwrap();
    });
    assert_eq!(answer.status, 201, "{answer:?}");
    let line = eventually("the line is written", async || {
        let lines = broker.log();
        let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.find(|line| line["event"] == "request" && line["status"] == 201)
    })
    .await;
    let (waited, latency) = (line["waited_ms"].as_f64(), line["latency_ms"].as_f64());
    assert!(waited.is_some_and(|waited| waited > 0.0) && waited <= latency, "{line}");
    let allocated = "outcome=\"allocated\"";
    let counted = [
        broker.metric("broker_queue_wait_seconds_count", allocated).await,
        broker.metric("broker_allocation_latency_seconds_count", allocated).await,
    ];
    assert_eq!(counted, [1.0, 0.0]);
}

#[actix_web::test]
async fn at_sigterm_those_who_wait_are_sent_to_another_replica() {
    let mut broker = Broker::start(&[("BROKER_STORE", "memory"), ("CSP_SIM_SANDBOXES", "0")]).await;
    let request = broker.track(Method::POST, "/v1/allocate", "student-1").header("Prefer", "wait=50").send();
    let waiting_request = actix_web::rt::spawn(request);
    eventually("it waits", async || (waiting(&broker).await == 1).then_some(())).await;
    assert!(broker.process.terminate().await.success());
    assert_error(&read_answer(waiting_request.await.unwrap().unwrap()).await, 503, "SHUTTING_DOWN");
}

/// The scripts in the wild, unchanged: five tries, each read for at most 30 s; 503 is repeated after `Retry-After`, any
/// other refusal is final. Times are divided by 10.
const UNCHANGED_SCRIPT: &str = r#"
for try in 1 2 3 4 5; do
  code=$(curl -sS --max-time 3 -D "$HOME/head" -o "$HOME/body" -w '%{http_code}' -X POST "$URL/v1/allocate" \
    -H "Authorization: Bearer $TOKEN" -H "X-Track-ID: $STUDENT")
  case $code in
    200 | 201) grep -o '"sandbox_id":"[^"]*"' "$HOME/body"; exit 0 ;;
    503) seconds=$(tr -d '\r' < "$HOME/head" | sed -n 's/^[Rr]etry-[Aa]fter: //p'); sleep "$(awk "BEGIN { print $seconds / 10 }")" ;;
    *) echo "final: $code $(cat "$HOME/body")"; exit 1 ;;
  esac
done
echo "no try is left: $code"; exit 1
"#;

#[actix_web::test]
async fn unchanged_scripts_get_their_sandboxes_from_a_pool_that_is_empty_at_first() {
    const STUDENTS: usize = 20;
    let server = DynamoServer::start().await;
    let store = dynamo_store(server.dynamo_client()).await;
    let csp = CspSim::start(0).await;
    let settings = [&csp.settings()[..], &[("ALLOCATE_WAIT_SEC", "2")]].concat();
    let (one, other) = (Broker::on_server(&server, &settings).await, Broker::on_server(&server, &settings).await);
    let scripts: Vec<_> = (0..STUDENTS)
        .map(|number| {
            let address = if number % 2 == 0 { one.address } else { other.address };
            actix_web::rt::spawn(async move {
                let home = tempfile::tempdir().unwrap();
                let mut script = Command::new("bash");
                script.args(["-c", UNCHANGED_SCRIPT]).env("HOME", home.path());
                script.envs([("URL", format!("http://{address}")), ("STUDENT", format!("student-{number}"))]);
                script.env("TOKEN", TRACK_TOKEN);
                output_of(script).await
            })
        })
        .collect();
    // Each has been told to come back at least once.
    eventually("all have waited in vain", async || {
        let queue = one.get_admin("/v1/admin/queue").await.body;
        let all = queue["waiting"].as_u64().unwrap() + queue["absent"].as_u64().unwrap();
        (all == STUDENTS as u64 && queue["absent"].as_u64() > Some(0)).then_some(())
    })
    .await;
    for number in 1..=STUDENTS as u32 {
        assert!(store.create(&ModelStore::sandbox(number)).await.unwrap());
    }
    store.add_supply(STUDENTS as u64).await.unwrap();
    let outputs: Vec<_> = join_all(scripts).await.into_iter().map(Result::unwrap).collect();
    let printed: BTreeSet<_> =
        outputs.iter().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{printed:?}");
    assert_eq!(printed.len(), STUDENTS, "I1: {printed:?}");
}

#[actix_web::test]
async fn a_client_that_closes_its_connection_is_granted_nothing_and_keeps_its_place() {
    let app = TestApp::start(&["--csp-sim-sandboxes=0"]).await;
    let request = app.track(Method::POST, "/v1/allocate", "student-1").header("Prefer", "wait=50");
    let client = actix_web::rt::spawn(request.send());
    eventually("it waits", async || (waiting(&app).await == 1).then_some(())).await;
    client.abort();
    eventually("it is absent", async || {
        let queue = app.get_admin("/v1/admin/queue").await.body;
        ((&queue["waiting"], &queue["absent"]) == (&0.into(), &1.into())).then_some(())
    })
    .await;
}
