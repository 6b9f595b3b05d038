//! What all endpoints share: request ids, security headers, CORS, rate limits, tokens; and the probes.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use sandbox_broker::http::auth::Role;
use sandbox_broker::http::{ENDPOINTS, Endpoint};
use serde_json::Value;
use test_support::{Answer, TestApp, assert_error, send};
use tokio::time::Instant;

#[actix_web::test]
async fn a_valid_request_id_is_kept_and_any_other_is_replaced() {
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
async fn pages_of_the_configured_origins_may_call() {
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

/// Flags of a broker behind one proxy that allows each client `burst` requests at once and one per second.
fn limited_to(burst: u32) -> [String; 3] {
    ["--rate-limit-rps=1".to_owned(), format!("--rate-limit-burst={burst}"), "--trusted-proxies=1".to_owned()]
}

/// Sends requests as one client after another, until all requests of one client fall within a second, in which its bucket
/// does not refill.
async fn within_a_second(client: impl AsyncFn(&str) -> Vec<Answer>) -> Vec<Answer> {
    for number in 1..50 {
        let began = Instant::now();
        let answers = client(&format!("192.0.2.{number}")).await;
        if began.elapsed() < Duration::from_millis(900) {
            return answers;
        }
    }
    panic!("this machine is too slow to send a few requests within a second");
}

#[actix_web::test]
async fn requests_of_one_stranger_are_limited_and_probes_are_not() {
    let flags = limited_to(3);
    let app = TestApp::start_empty(&flags.each_ref().map(String::as_str)).await;
    let from = async |forwarded: &str| {
        send(app.request(Method::GET, "/v1/sandboxes/1").header("X-Forwarded-For", forwarded)).await
    };
    let answers = within_a_second(async |client| {
        // An entry that the client puts before the proxy's entry changes nothing.
        let forged = format!("203.0.113.9, {client}");
        vec![from(client).await, from(&forged).await, from(client).await, from(client).await]
    })
    .await;
    let [.., last] = &answers[..] else { panic!("four answers") };
    let remaining: Vec<_> = answers.iter().map(|answer| answer.headers["x-ratelimit-remaining"].clone()).collect();
    assert_eq!(remaining, ["2", "1", "0", "0"]);
    assert_error(last, 429, "RATE_LIMITED");
    assert_eq!(last.headers["x-ratelimit-limit"], "3");
    assert!(last.headers.contains_key("x-ratelimit-reset"));
    assert_error(&from("192.0.2.99").await, 401, "UNAUTHORIZED");
    // If the proxy's entry is no address, the connection's address counts, not the client's entry before it.
    let answers =
        within_a_second(async |client| vec![from(&format!("{client}, nonsense")).await, from("x, nonsense").await])
            .await;
    let [first, second] = [0, 1].map(|index| {
        let remaining = answers[index].headers["x-ratelimit-remaining"].to_str().unwrap();
        remaining.parse::<u32>().unwrap()
    });
    assert_eq!(second, first - 1, "one bucket for both");
    for path in ["/healthz", "/readyz", "/metrics"] {
        for _ in 0..10 {
            assert_eq!(app.get(path).await.status, 200);
        }
    }
}

#[actix_web::test]
async fn a_student_is_limited_without_the_others_of_its_token_and_a_token_with_all_its_students() {
    let app = TestApp::start_empty(&["--rate-limit-rps=1", "--rate-limit-burst=3", "--rate-limit-token-rps=40"]).await;
    let read = async |track: &str| send(app.track(Method::GET, "/v1/sandboxes/1", track)).await;
    let answers = within_a_second(async |student| {
        vec![read(student).await, read(student).await, read(student).await, read(student).await]
    })
    .await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [404, 404, 404, 429]);
    assert_error(&read("another-student").await, 404, "SANDBOX_NOT_FOUND");

    let students: Vec<_> = (0..400).map(|number| format!("of-many-{number}")).collect();
    let answers = futures_util::future::join_all(students.iter().map(|student| read(student))).await;
    let limited = answers.iter().find(|answer| answer.status == 429).expect("the token's bucket is empty");
    assert_error(limited, 429, "RATE_LIMITED");
    assert!(limited.body["error"]["message"].as_str().unwrap().ends_with("with this token"), "{limited:?}");
    assert_eq!(app.stats().await.status, 200, "operators have buckets of their own");
}

#[actix_web::test]
async fn an_operator_is_limited_by_its_own_address() {
    let flags = limited_to(3);
    let app = TestApp::start_empty(&flags.each_ref().map(String::as_str)).await;
    let from = async |address: &str| {
        send(app.admin(Method::GET, "/v1/admin/actors").header("X-Forwarded-For", address)).await.status.as_u16()
    };
    let mut last = 200;
    for _ in 0..50 {
        last = from("192.0.2.1").await;
        if last == 429 {
            break;
        }
    }
    assert_eq!((last, from("192.0.2.2").await), (429, 200));
}

#[actix_web::test]
async fn guessing_tokens_is_limited_too() {
    let flags = limited_to(2);
    let app = TestApp::start_empty(&flags.each_ref().map(String::as_str)).await;
    let answers = within_a_second(async |client| {
        let guess = async || {
            let request = app.request(Method::GET, "/v1/sandboxes/1").bearer_auth("guess");
            send(request.header("X-Forwarded-For", client)).await
        };
        vec![guess().await, guess().await, guess().await]
    })
    .await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [401, 401, 429]);
}

#[actix_web::test]
async fn probes_report_the_state_of_the_broker() {
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

/// The endpoint's path, filled with the examples of the OpenAPI document.
fn path_by_example(document: &Value, endpoint: &Endpoint) -> String {
    let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
    let parameters = operation["parameters"].as_array().unwrap();
    let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
    let path = of_path.fold(endpoint.path.to_owned(), |path, parameter| {
        let [name, example] = ["name", "example"].map(|field| parameter[field].as_str().unwrap());
        path.replace(&format!("{{{name}}}"), example)
    });
    assert!(!path.contains('{'), "an example is missing for {path}");
    path
}

#[actix_web::test]
async fn every_endpoint_that_is_not_public_requires_a_token() {
    let app = TestApp::start_empty(&[]).await;
    let paths: BTreeSet<_> = ENDPOINTS.iter().map(|endpoint| (endpoint.method, endpoint.path)).collect();
    assert_eq!(paths.len(), ENDPOINTS.len(), "each row is unique");
    let document = app.get("/v1/openapi.json").await.body;
    for endpoint in ENDPOINTS {
        let path = path_by_example(&document, endpoint);
        let method = Method::from_bytes(endpoint.method.as_str().as_bytes()).unwrap();
        let answer = send(app.request(method, &path)).await;
        match endpoint.role {
            Role::Probe | Role::Public => assert_eq!(answer.status, 200, "{endpoint:?}"),
            Role::Track | Role::Admin => assert_error(&answer, 401, "UNAUTHORIZED"),
        }
    }
}

#[actix_web::test]
async fn allocations_beyond_the_limit_are_refused() {
    let app = TestApp::start_empty(&["--csp-sim-sandboxes=0", "--max-in-flight=1"]).await;
    for round in 0..100 {
        // An empty pool is read again before the answer, which makes overlaps of requests likely.
        let tracks = [0, 1, 2, 3, 4, 5, 6, 7].map(|track| format!("{round}-{track}"));
        let answers = futures_util::future::join_all(tracks.iter().map(|track| app.allocate(track))).await;
        let (refused, served): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 503);
        refused.iter().for_each(|answer| assert_error(answer, 503, "OVERLOADED"));
        served.iter().for_each(|answer| assert_error(answer, 409, "NO_SANDBOXES_AVAILABLE"));
        if !refused.is_empty() {
            return;
        }
    }
    panic!("of 800 allocations, sent eight at a time, no two overlapped");
}

#[actix_web::test]
async fn browsers_get_a_page_of_links_and_programs_get_json() {
    let app = TestApp::start_empty(&[]).await;
    let page = send(app.request(Method::GET, "/").header("Accept", "text/html,application/xhtml+xml")).await;
    let text = page.body.as_str().unwrap();
    for address in ["/console", "/v1/docs", "/healthz"] {
        assert!(text.contains(&format!("href=\"{address}\"")), "{address}: {text}");
    }
    assert_eq!(app.get("/").await.body["links"]["console"], "/console");
}

#[actix_web::test]
async fn head_works_wherever_get_does() {
    let app = TestApp::start_empty(&[]).await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/console", "/console/console.css", "/v1/docs"] {
        let head = send(app.request(Method::HEAD, path)).await;
        assert_eq!((head.status.as_u16(), &head.body), (200, &Value::String(String::new())), "{path}");
    }
    assert_eq!(send(app.admin(Method::HEAD, "/v1/admin/stats")).await.status, 200);
    assert_eq!(send(app.track(Method::HEAD, "/v1/allocate", "student-1")).await.status, 405);
}

#[actix_web::test]
async fn addresses_that_people_type_lead_to_the_pages_they_mean() {
    let app = TestApp::start_empty(&[]).await;
    for path in ["/console/", "/v1/docs/", "/docs", "/docs/", "/openapi.json"] {
        assert_eq!(app.get(path).await.status, 200, "{path}");
    }
}
