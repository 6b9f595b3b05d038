//! The CSP's client against the simulator with its faults, and against servers that are not a CSP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use broker_actors::breaker::BreakerSettings;
use broker_actors::error::Chain;
use broker_actors::ports::{CspClient as _, CspDeletion, CspError, PreDelete as _, Prepared};
use broker_actors::sandbox::{Sandbox, SandboxId, Timestamp, UnixMillis};
use sandbox_broker::csp::HttpCsp;
use sandbox_broker::csp::niosxaas::{Niosxaas, NiosxaasSettings};
use sandbox_broker::csp::simulator::{Simulator, SimulatorSettings};
use secrecy::SecretString;
use serde_json::json;
use test_support::http_client;
use url::Url;

const TOKEN: &str = "a-secret-token";

struct Sim {
    address: SocketAddr,
    handle: actix_web::dev::ServerHandle,
}

impl Sim {
    fn start(sandboxes: u64, state_file: Option<PathBuf>) -> Self {
        let simulator = Simulator::bind(SimulatorSettings {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            sandboxes,
            token: SecretString::from(TOKEN),
            state_file,
        })
        .unwrap();
        let (address, handle) = (simulator.address(), simulator.handle());
        actix_web::rt::spawn(simulator.run());
        Self { address, handle }
    }

    fn client(&self) -> HttpCsp {
        client(&format!("http://{}", self.address), TOKEN)
    }

    async fn set(&self, faults: serde_json::Value) -> reqwest::StatusCode {
        let url = format!("http://{}/sim/faults", self.address);
        let request = http_client().put(url).header("Authorization", format!("Token {TOKEN}"));
        request.json(&faults).send().await.unwrap().status()
    }
}

fn client(base_url: &str, token: &str) -> HttpCsp {
    let second = Duration::from_secs(1);
    HttpCsp::new(Url::parse(base_url).unwrap(), &SecretString::from(token), second, second / 2).unwrap()
}

/// The URL of a server that answers every request with this body.
async fn always(body: String) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = actix_web::HttpServer::new(move || {
        let body = body.clone();
        let answer = move || std::future::ready(actix_web::HttpResponse::Ok().body(body.clone()));
        actix_web::App::new().default_service(actix_web::web::to(answer))
    });
    actix_web::rt::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run());
    url
}

#[actix_web::test]
async fn only_who_has_the_token_of_the_simulator_changes_its_faults() {
    let sim = Sim::start(1, None);
    let url = format!("http://{}/sim/faults", sim.address);
    let http = http_client();
    for request in [http.put(&url).json(&json!({ "hang": true })), http.delete(&url)] {
        let refused = request.header("Authorization", "Token another").send().await.unwrap();
        assert_eq!(refused.status(), 401);
    }
    assert_eq!(sim.client().list().await.unwrap().accounts.len(), 1);
}

#[actix_web::test]
async fn active_sandboxes_are_listed_and_nothing_else() {
    let sim = Sim::start(3, None);
    let listing = sim.client().list().await.unwrap();
    assert!(listing.is_complete && listing.unreadable.is_empty());
    let names: Vec<_> = listing.accounts.iter().map(|account| account.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["lab-00001", "lab-00002", "lab-00003"]);
    let first = &listing.accounts[0];
    assert_eq!((first.sandbox_id.as_str(), first.created_at.unwrap().0), ("2000001", 1_743_094_427));
    // A base URL may have a path and a final slash.
    assert!(client(&format!("http://{}/", sim.address), TOKEN).list().await.is_ok());
}

#[actix_web::test]
async fn a_deleted_account_is_replaced_and_a_second_deletion_finds_nothing() {
    let sim = Sim::start(2, None);
    let id = sim.client().list().await.unwrap().accounts[0].external_id.clone();
    assert_eq!(sim.client().delete(&id).await.unwrap(), CspDeletion::Deleted);
    assert_eq!(sim.client().delete(&id).await.unwrap(), CspDeletion::AlreadyGone);
    let left = sim.client().list().await.unwrap().accounts;
    let names: Vec<_> = left.iter().map(|account| account.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["lab-00002", "lab-00003"]);
}

#[actix_web::test]
async fn deleted_accounts_stay_deleted_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let state_file = directory.path().join("sim.json");
    let sim = Sim::start(2, Some(state_file.clone()));
    let id = sim.client().list().await.unwrap().accounts[0].external_id.clone();
    sim.client().delete(&id).await.unwrap();
    let before = sim.client().list().await.unwrap();
    sim.handle.stop(false).await;
    assert_eq!(Sim::start(2, Some(state_file)).client().list().await.unwrap(), before);
}

#[actix_web::test]
async fn each_fault_becomes_its_error() {
    let sim = Sim::start(2, None);
    let csp = sim.client();
    let listed = async |faults| {
        assert_eq!(sim.set(faults).await, 200);
        csp.list().await
    };
    let unavailable = |listed: &Result<_, CspError>| matches!(listed, Err(CspError::Unavailable(_)));
    for status in [500, 502, 503] {
        let failed = listed(json!({ "error_rate": 1.0, "error_status": status })).await;
        assert!(unavailable(&failed), "{status}: {failed:?}");
    }
    for status in [401, 403] {
        let failed = listed(json!({ "error_rate": 1.0, "error_status": status })).await;
        assert!(matches!(failed, Err(CspError::Unauthorized { status: found }) if found == status), "{failed:?}");
    }
    let throttled = listed(json!({ "error_rate": 1.0, "error_status": 429, "retry_after": 17 })).await;
    let Err(CspError::Throttled { retry_after }) = throttled else { panic!("{throttled:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(17)));
    let malformed = listed(json!({ "malformed_body": true })).await;
    assert!(matches!(malformed, Err(CspError::BadAnswer(_))), "{malformed:?}");
    let hanging = listed(json!({ "hang": true })).await;
    assert!(unavailable(&hanging), "a silent CSP times out: {hanging:?}");
    assert_eq!(listed(json!({ "empty_listing": true })).await.unwrap().accounts, []);
    assert_eq!(listed(json!({ "missing": [2_000_001] })).await.unwrap().accounts.len(), 1);
    assert_eq!(listed(json!({})).await.unwrap().accounts.len(), 2);

    sim.set(json!({ "undeletable": [2_000_001] })).await;
    let accounts = csp.list().await.unwrap().accounts;
    assert!(matches!(csp.delete(&accounts[0].external_id).await, Err(CspError::Unavailable(_))));
    assert_eq!(csp.delete(&accounts[1].external_id).await.unwrap(), CspDeletion::Deleted);
    for nonsense in [json!({ "error_rate": 2.0 }), json!({ "latency": 5 }), json!({ "hang": "yes" })] {
        assert_eq!(sim.set(nonsense.clone()).await, 400, "{nonsense}");
    }
}

#[actix_web::test]
async fn a_wrong_token_is_reported_and_no_token_is_shown() {
    let sim = Sim::start(1, None);
    let csp = client(&format!("http://{}", sim.address), "another-secret");
    let refused = csp.list().await.unwrap_err();
    assert!(matches!(refused, CspError::Unauthorized { status: 401 }), "{refused:?}");
    assert!(refused.to_string().contains("CSP_API_TOKEN"));
    assert!(!format!("{csp:?} {refused:?} {refused}").contains("another-secret"));
}

#[actix_web::test]
async fn a_csp_that_does_not_listen_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failed = client(&format!("http://{free}"), TOKEN).list().await;
    assert!(matches!(failed, Err(CspError::Unavailable(_))), "{failed:?}");
}

fn sandbox(change: serde_json::Value) -> serde_json::Value {
    let mut record = json!({
        "account_type": "sandbox", "state": "active", "id": "identity/accounts/0a-1b", "name": "lab", "csp_id": 1,
        "created_at": "2025-03-27T16:53:47Z", "sfdc_account_id": null, "unknown": { "field": [1] },
    });
    for (name, value) in change.as_object().unwrap() {
        record[name] = value.clone();
    }
    record
}

/// What is listed is there, whatever else cannot be read.
#[actix_web::test]
async fn a_record_that_cannot_be_read_counts_as_listed_by_what_can() {
    let results = json!([
        sandbox(json!({ "csp_id": null })),
        sandbox(json!({ "csp_id": -3, "id": "identity/accounts/3" })),
        sandbox(json!({ "csp_id": 4.5, "id": 4 })),
        sandbox(json!({ "csp_id": 6, "id": "identity/accounts/" })),
        sandbox(json!({ "csp_id": 7, "id": "identity/accounts/../../users" })),
        sandbox(json!({ "csp_id": 8, "account_type": "production" })),
        sandbox(json!({ "csp_id": 9, "state": "suspended" })),
        sandbox(json!({ "csp_id": 10, "id": "identity/accounts/10", "state": null })),
        "not a record",
    ]);
    let listing = client(&always(json!({ "results": results }).to_string()).await, TOKEN).list().await.unwrap();
    assert_eq!(listing.accounts, []);
    let known = listing
        .unreadable
        .iter()
        .map(|record| (record.sandbox_id.as_ref().map(SandboxId::as_str), record.external_id.as_deref()));
    let (first, third, tenth) = ("identity/accounts/0a-1b", "identity/accounts/3", "identity/accounts/10");
    let expected = [
        (None, Some(first)),
        (None, Some(third)),
        (None, None),
        (Some("6"), None),
        (Some("7"), None),
        (Some("10"), Some(tenth)),
        (None, None),
    ];
    assert_eq!(known.collect::<Vec<_>>(), expected);
    assert!(listing.is_complete && !listing.presence().is_conclusive(), "a record without any id may be any account");
}

#[actix_web::test]
async fn fields_are_taken_in_every_form() {
    let at = |created_at: serde_json::Value| json!({ "created_at": created_at });
    let known = Some(Timestamp(1_743_094_427));
    for (change, name, created_at) in [
        (json!({ "csp_id": "1" }), Some("lab"), known),
        (json!({ "csp_id": 1.0 }), Some("lab"), known),
        (json!({ "csp_id": "0001" }), Some("lab"), known),
        (json!({ "name": null }), None, known),
        (json!({ "name": "" }), None, known),
        (json!({ "state": "ACTIVE", "account_type": "Sandbox" }), Some("lab"), known),
        (json!({ "sfdc_account_id": 12345 }), Some("lab"), known),
        (at(json!("2025-03-27T16:53:47.605459Z")), Some("lab"), known),
        (at(json!("2025-03-27T18:53:47.605459123+02:00")), Some("lab"), known),
        (at(json!("2025-03-27 16:53:47Z")), Some("lab"), known),
        (at(json!("2025-03-27T16:53:47")), Some("lab"), known),
        (at(json!("yesterday")), Some("lab"), None),
        (at(json!(1_743_094_427)), Some("lab"), None),
        (at(json!(null)), Some("lab"), None),
    ] {
        let body = json!({ "results": [sandbox(change.clone())] }).to_string();
        let listing = client(&always(body).await, TOKEN).list().await.unwrap();
        let [account] = &listing.accounts[..] else { panic!("{change}: {listing:?}") };
        let found = (account.sandbox_id.as_str(), account.name.as_deref(), account.created_at);
        assert_eq!(found, ("1", name, created_at), "{change}");
    }
}

/// A server that answers each request by its path and query.
async fn server(answer: impl Fn(&HttpRequest) -> HttpResponse + Clone + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = actix_web::HttpServer::new(move || {
        let answer = answer.clone();
        let handler = move |request: HttpRequest| std::future::ready(answer(&request));
        actix_web::App::new().default_service(actix_web::web::to(handler))
    });
    actix_web::rt::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run());
    url
}

/// The records from `first` on.
fn records(first: u64, count: u64) -> Vec<serde_json::Value> {
    let record = |number| sandbox(json!({ "csp_id": number, "id": format!("identity/accounts/{number}") }));
    (first..first + count).map(record).collect()
}

/// Seven accounts, three on a page, in each way to say where the next page is.
#[actix_web::test]
async fn all_pages_are_read() {
    type Answer = fn(u64) -> serde_json::Value;
    let ways: [(&str, Answer); 7] = [
        ("nothing is said", |from| json!({ "results": records(from, 7u64.saturating_sub(from).min(3)) })),
        ("no pages", |_| json!({ "results": records(0, 7) })),
        ("a total", |from| json!({ "results": records(from, (7 - from).min(3)), "total": 7 })),
        ("a URL", |from| {
            let next = (from < 6).then(|| format!("http://{{host}}/current_user/accounts?_offset={}", from + 3));
            json!({ "results": records(from, (7 - from).min(3)), "next": next })
        }),
        ("a path", |from| {
            let next = (from < 6).then(|| format!("/current_user/accounts?_offset={}", from + 3));
            json!({ "results": records(from, (7 - from).min(3)), "links": { "next": next }, "total": 7 })
        }),
        ("a query", |from| {
            let next = (from < 6).then(|| format!("?_offset={}", from + 3));
            json!({ "results": records(from, (7 - from).min(3)), "next": next })
        }),
        ("a token", |from| {
            let token = if from < 6 { (from + 3).to_string() } else { String::new() };
            json!({ "results": records(from, (7 - from).min(3)), "page": { "page_token": token } })
        }),
    ];
    for (way, answer) in ways {
        let url = server(move |request| {
            let query = url::form_urlencoded::parse(request.query_string().as_bytes());
            let from = query.filter(|(name, _)| name == "_offset" || name == "_page_token");
            let body = answer(from.map(|(_, value)| value.parse().unwrap()).next().unwrap_or(0)).to_string();
            HttpResponse::Ok().body(body.replace("{host}", request.connection_info().host()))
        })
        .await;
        let listing = client(&url, TOKEN).list().await.unwrap();
        assert_eq!((listing.accounts.len(), listing.is_complete), (7, true), "{way}");
    }
}

#[actix_web::test]
async fn a_compressed_listing_is_read() {
    // `{"results":[],"next":null}`
    const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x4a\x2d\x2e\xcd\x29\x29\x56\xb2\x8a\x8e\xd5\x51\xca\x4b\xad\x28\x51\xb2\xca\x2b\xcd\xc9\xa9\x05\x00\x4c\xe1\x6d\x87\x1a\x00\x00\x00";
    let url = server(|_| HttpResponse::Ok().insert_header(("Content-Encoding", "gzip")).body(GZIP)).await;
    assert_eq!(client(&url, TOKEN).list().await.unwrap().accounts, []);
}

#[actix_web::test]
async fn a_page_that_fails_makes_the_listing_incomplete() {
    let sim = Sim::start(30, None);
    for (faults, is_complete) in
        [(json!({ "page_size": 7 }), true), (json!({ "page_size": 7, "failing_pages": true }), false)]
    {
        sim.set(faults.clone()).await;
        let listing = sim.client().list().await.unwrap();
        assert_eq!((listing.is_complete, listing.accounts.len() == 30), (is_complete, is_complete), "{faults}");
    }
    let broken: [fn() -> serde_json::Value; 4] = [
        || json!({ "results": records(0, 3), "next": "http://192.0.2.1/current_user/accounts" }),
        || json!({ "results": records(0, 3), "next": "http://[" }),
        || json!({ "results": records(0, 3), "next": "" }),
        || json!({ "results": records(0, 3), "next": null, "total": 7 }),
    ];
    for body in broken {
        let listing = client(&always(body().to_string()).await, TOKEN).list().await;
        let is_incomplete = listing.as_ref().is_ok_and(|listing| !listing.is_complete);
        assert!(is_incomplete || matches!(listing, Err(CspError::BadAnswer(_))), "{}: {listing:?}", body());
    }
}

#[actix_web::test]
async fn each_answer_to_a_deletion_has_its_meaning() {
    let accounts = [
        (200, "", "deleted"),
        (204, "", "deleted"),
        (202, "", "accepted"),
        (404, "", "gone"),
        (404, r#"{"detail":"no such account"}"#, "gone"),
        (410, "", "gone"),
        (404, "default backend - 404", "foreign"),
        (404, "<html>not found</html>", "foreign"),
        (404, "[]", "foreign"),
        (301, "", "bad answer"),
        (400, "no", "refused"),
        (403, "no", "refused"),
        (409, "no", "refused"),
        (423, "no", "refused"),
        (401, "", "unauthorized"),
        (429, "", "throttled"),
        (500, "<html>licence service</html>", "unavailable"),
        (503, "", "unavailable"),
    ];
    for (status, body, expected) in accounts {
        let url = server(move |_| HttpResponse::build(StatusCode::from_u16(status).unwrap()).body(body)).await;
        let answer = client(&url, TOKEN).delete("identity/accounts/1").await;
        let meaning = match &answer {
            Ok(CspDeletion::Deleted) => "deleted",
            Ok(CspDeletion::Accepted) => "accepted",
            Ok(CspDeletion::AlreadyGone) => "gone",
            Err(CspError::ForeignNotFound(_)) => "foreign",
            Err(CspError::BadAnswer(_)) => "bad answer",
            Err(CspError::Refused { .. }) => "refused",
            Err(CspError::Unauthorized { .. }) => "unauthorized",
            Err(CspError::Throttled { .. }) => "throttled",
            Err(CspError::Unavailable(_)) => "unavailable",
            Err(error) => panic!("{status}: {error:?}"),
        };
        assert_eq!(meaning, expected, "{status} {body:?}");
        if let Err(error) = answer.as_ref()
            && !body.is_empty()
            && expected != "throttled"
        {
            assert!(Chain(error).to_string().contains(body), "{status} {body:?}: {}", Chain(error));
        }
    }
}

#[actix_web::test]
async fn a_wait_that_the_csp_asks_for_is_read_in_both_forms() {
    let date = "Wed, 25 Nov 2026 12:00:00 GMT";
    for (status, value, expected) in [
        (429, "17", Some(17)),
        (503, "17", Some(17)),
        (429, "Wed, 25 Nov 2026 12:01:30 GMT", Some(90)),
        (503, "Wed, 25 Nov 2026 11:59:00 GMT", Some(0)),
        (429, "999999", Some(3600)),
        (429, "soon", None),
        (429, "-5", None),
    ] {
        let url = server(move |_| {
            let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
            answer.insert_header(("Retry-After", value)).insert_header(("Date", date)).finish()
        })
        .await;
        for answer in [
            client(&url, TOKEN).list().await.map(|_| ()),
            client(&url, TOKEN).delete("identity/accounts/1").await.map(|_| ()),
        ] {
            let Err(CspError::Throttled { retry_after }) = answer else { panic!("{status} {value}: {answer:?}") };
            assert_eq!(retry_after.map(|wait| wait.as_secs()), expected, "{status} {value}");
        }
    }
}

#[actix_web::test]
async fn answers_of_another_form_are_errors() {
    for body in ["", "null", "[]", "{}", r#"{"results": 5}"#, r#"{"results": null}"#, "<html>", "\u{0}"] {
        let failed = client(&always(body.to_owned()).await, TOKEN).list().await;
        assert!(matches!(failed, Err(CspError::BadAnswer(_))), "{body:?}: {failed:?}");
    }
}

fn niosxaas(sim: &Sim, change: impl FnOnce(&mut NiosxaasSettings)) -> Niosxaas {
    let mut settings = NiosxaasSettings {
        base_url: Url::parse(&format!("http://{}", sim.address)).unwrap(),
        email: "broker@example.com".to_owned(),
        password: SecretString::from(TOKEN),
        service_name: "Instrqt-SaaS".to_owned(),
        timeout: Duration::from_secs(1),
        delay: Duration::ZERO,
        is_shadow: false,
        breaker: BreakerSettings { threshold: 3, timeout: Duration::from_secs(60) },
    };
    change(&mut settings);
    Niosxaas::new(settings).unwrap()
}

async fn sim_stats(sim: &Sim) -> serde_json::Value {
    http_client().get(format!("http://{}/sim/stats", sim.address)).send().await.unwrap().json().await.unwrap()
}

async fn listed_sandbox(sim: &Sim, index: usize) -> Sandbox {
    let account = sim.client().list().await.unwrap().accounts.swap_remove(index);
    Sandbox::discovered(&account, Duration::ZERO, UnixMillis(0))
}

#[actix_web::test]
async fn services_are_deleted_call_by_call() {
    let sim = Sim::start(2, None);
    let (first, second) = (listed_sandbox(&sim, 0).await, listed_sandbox(&sim, 1).await);
    let step = niosxaas(&sim, |_| {});
    assert_eq!(step.prepare(&first).await.unwrap(), Prepared::Cleaned);
    assert_eq!(step.prepare(&second).await.unwrap(), Prepared::Cleaned);
    let switch = |sandbox: &Sandbox| format!("switch {}", sandbox.external_id);
    let expected =
        json!(
            ["sign_in", switch(&first), "services", "delete 1-track", switch(&second), "services", "delete 2-track",]
        );
    assert_eq!(sim_stats(&sim).await["calls"], expected, "one session, and only the services of tracks");
    // Another program signs in as the same user, which ends the session; it is renewed once.
    niosxaas(&sim, |settings| settings.service_name = String::new()).prepare(&first).await.unwrap();
    assert_eq!(step.prepare(&second).await.unwrap(), Prepared::Cleaned);
    assert_eq!(sim_stats(&sim).await["services_deleted"], 3, "an empty name is all services");
}

#[actix_web::test]
async fn shadow_mode_reports_and_deletes_nothing() {
    let sim = Sim::start(1, None);
    let sandbox = listed_sandbox(&sim, 0).await;
    let step = niosxaas(&sim, |settings| settings.is_shadow = true);
    assert_eq!(step.prepare(&sandbox).await.unwrap(), Prepared::Reported);
    assert_eq!(sim_stats(&sim).await["services_deleted"], 0);
}

#[actix_web::test]
async fn wrong_credentials_fail_the_step_and_open_its_own_breaker() {
    let sim = Sim::start(1, None);
    let sandbox = listed_sandbox(&sim, 0).await;
    let step = niosxaas(&sim, |settings| settings.password = SecretString::from("another-secret"));
    for _ in 0..10 {
        let failed = step.prepare(&sandbox).await.unwrap_err();
        assert!(!format!("{failed:?} {}", Chain(&failed)).contains("another-secret"));
    }
    assert_eq!(sim_stats(&sim).await["calls"].as_array().unwrap().len(), 3, "the breaker is open");
}
