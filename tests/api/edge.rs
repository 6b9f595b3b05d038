//! What all routes share: request ids, security headers, CORS, limits, probes, the end.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use sandbox_broker::app::Application;
use sandbox_broker::http::ENDPOINTS;
use sandbox_broker::http::access::Access;

use crate::helpers::{TestApp, assert_error, send, settings};

#[actix_web::test]
async fn a_fit_request_id_is_kept_and_any_other_replaced() {
    let app = TestApp::start_empty(&[]).await;
    let longest = "a".repeat(128);
    for (given, is_kept) in [("trace-1.2_x", true), (longest.as_str(), true), ("has space", false), ("é", false)] {
        let answer = send(app.request(Method::GET, "/healthz").header("X-Request-ID", given)).await;
        let id = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(id == given, is_kept, "{given} → {id}");
        assert!(is_kept || uuid::Uuid::parse_str(id).unwrap().get_version_num() == 7);
    }
}

#[actix_web::test]
async fn every_answer_has_the_security_headers() {
    let app = TestApp::start_empty(&[]).await;
    for path in ["/", "/healthz", "/nope", "/v1/admin/stats"] {
        let headers = app.get(path).await.headers;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"), "{path}");
        assert!(headers.contains_key("strict-transport-security") && headers.contains_key("referrer-policy"), "{path}");
    }
}

#[actix_web::test]
async fn browsers_of_the_named_origins_may_call() {
    let app = TestApp::start_empty(&["--cors-allowed-origins=https://labs.example.com"]).await;
    let preflight = |origin: &'static str| {
        send(
            app.request(Method::OPTIONS, "/v1/allocate")
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "POST")
                .header("Access-Control-Request-Headers", "authorization,x-track-id"),
        )
    };
    let allowed = preflight("https://labs.example.com").await;
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://labs.example.com");
    let other = preflight("https://other.example.com").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"), "{other:?}");
}

#[actix_web::test]
async fn requests_of_one_client_are_limited_and_probes_are_not() {
    let flags = ["--rate-limit-rps=1", "--rate-limit-burst=3", "--trusted-proxies=1"];
    let app = TestApp::start_empty(&flags).await;
    let from = |forwarded: &'static str| {
        send(app.track(Method::GET, "/v1/sandboxes/1", "t").header("X-Forwarded-For", forwarded))
    };
    let remaining =
        async |forwarded| from(forwarded).await.headers["x-ratelimit-remaining"].to_str().unwrap().to_owned();
    assert_eq!(remaining("192.0.2.1").await, "2");
    assert_eq!(remaining("192.0.2.1").await, "1");
    // What the client itself puts before the proxy's entry changes nothing.
    assert_eq!(remaining("203.0.113.9, 192.0.2.1").await, "0");
    let limited = from("192.0.2.1").await;
    assert_error(&limited, 429, "RATE_LIMITED");
    assert_eq!(limited.headers["x-ratelimit-limit"], "3");
    assert!(limited.headers.contains_key("x-ratelimit-reset"));
    assert_error(&from("192.0.2.2").await, 404, "SANDBOX_NOT_FOUND");
    for path in ["/healthz", "/readyz", "/metrics"] {
        for _ in 0..10 {
            assert_eq!(send(app.request(Method::GET, path).header("X-Forwarded-For", "192.0.2.1")).await.status, 200);
        }
    }
}

#[actix_web::test]
async fn guessing_tokens_is_limited_too() {
    let app = TestApp::start_empty(&["--rate-limit-rps=1", "--rate-limit-burst=2"]).await;
    let guess = || send(app.request(Method::GET, "/v1/sandboxes/1").bearer_auth("guess"));
    let statuses = [guess().await.status, guess().await.status, guess().await.status];
    assert_eq!(statuses.map(|status| status.as_u16()), [401, 401, 429]);
}

#[actix_web::test]
async fn probes_tell_how_the_broker_is() {
    let app = TestApp::start(&[]).await;
    let health = app.get("/healthz").await;
    assert_eq!((health.status.as_u16(), health.body["status"].as_str()), (200, Some("healthy")));
    assert!(health.body["timestamp"].is_u64());
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.body["status"].as_str()), (200, Some("ready")));
    assert_eq!(ready.body["checks"]["dynamodb"], "ok");
    let root = app.get("/").await;
    assert_eq!(root.body["service"], "sandbox-broker");
    assert!(app.metric("broker_request_latency_seconds_count", "endpoint=\"/readyz\"").await >= 1.0);
}

#[actix_web::test]
async fn every_endpoint_of_the_route_table_asks_for_its_token() {
    let app = TestApp::start_empty(&[]).await;
    let paths: BTreeSet<_> = ENDPOINTS.iter().map(|endpoint| (endpoint.method, endpoint.path)).collect();
    assert_eq!(paths.len(), ENDPOINTS.len(), "no row twice");
    for endpoint in ENDPOINTS {
        let path = endpoint.path.replace("{id}", "1").replace("{name}", "cleanup");
        let method = Method::from_bytes(endpoint.method.as_bytes()).unwrap();
        let answer = send(app.request(method, &path)).await;
        match endpoint.access {
            Access::Public => assert_eq!(answer.status, 200, "{endpoint:?}"),
            Access::Track | Access::Admin => assert_error(&answer, 401, "UNAUTHORIZED"),
        }
    }
}

#[actix_web::test]
async fn more_allocations_at_once_than_are_taken_are_turned_away() {
    let app = TestApp::start_empty(&["--csp-sim-sandboxes=0", "--max-in-flight=1"]).await;
    // An empty pool is read again before the answer, so that requests overlap.
    let answers = futures_util::future::join_all(["a", "b", "c", "d"].map(|track| app.allocate(track))).await;
    let overloaded: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!overloaded.is_empty(), "{answers:?}");
    overloaded.iter().for_each(|answer| assert_error(answer, 503, "OVERLOADED"));
    assert_error(&app.allocate("e").await, 409, "NO_SANDBOXES_AVAILABLE");
}

/// SIGTERM's path: what is in flight is answered, then the broker ends, also with idle connections open.
#[actix_web::test]
async fn a_stopping_broker_answers_what_is_in_flight() {
    let application =
        Application::build(settings(&["--csp-sim-sandboxes=0", "--shutdown-grace-sec=10"])).await.unwrap();
    let url = format!("http://{}", application.address());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = actix_web::rt::spawn(application.run_until_stopped(async {
        let _ = stopped.await;
    }));
    let http = reqwest::Client::new();
    http.get(format!("{url}/healthz")).send().await.unwrap();
    // An empty pool is read again before the answer, so this request is in flight for a while.
    let waiting = http
        .post(format!("{url}/v1/allocate"))
        .bearer_auth(sandbox_broker::config::DEVELOPMENT_TOKEN)
        .header("X-Track-ID", "t");
    let answer = actix_web::rt::spawn(waiting.send());
    tokio::time::sleep(Duration::from_millis(30)).await;
    stop.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), 409);
    let ended = tokio::time::timeout(Duration::from_secs(10), running).await;
    ended.expect("inside the grace period").unwrap().unwrap();
    assert!(http.get(format!("{url}/healthz")).send().await.is_err(), "nobody listens any more");
}
