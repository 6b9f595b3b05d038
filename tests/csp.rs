//! The CSP's client against the simulator with its faults, and against servers that are not a CSP.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use broker_actors::ports::{CspClient as _, CspDeletion, CspError};
use sandbox_broker::csp::HttpCsp;
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
    assert_eq!(listing.skipped, 0);
    let names: Vec<_> = listing.accounts.iter().map(|account| account.name.as_str()).collect();
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
    let names: Vec<_> = left.iter().map(|account| account.name.as_str()).collect();
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

#[actix_web::test]
async fn records_without_the_required_fields_are_skipped_and_counted() {
    let sandbox = |change: serde_json::Value| {
        let mut record = json!({
            "account_type": "sandbox", "state": "active", "id": "identity/accounts/0a-1b", "name": "lab", "csp_id": 1,
            "created_at": "2025-03-27T16:53:47Z", "sfdc_account_id": null, "unknown": { "field": [1] },
        });
        for (name, value) in change.as_object().unwrap() {
            record[name] = value.clone();
        }
        record
    };
    let results = json!([
        sandbox(json!({})),
        sandbox(json!({ "csp_id": 2, "created_at": "yesterday" })),
        sandbox(json!({ "csp_id": 1, "name": "the same id again" })),
        sandbox(json!({ "csp_id": null })),
        sandbox(json!({ "csp_id": -3 })),
        sandbox(json!({ "csp_id": 4.5 })),
        sandbox(json!({ "csp_id": 5, "name": "" })),
        sandbox(json!({ "csp_id": 6, "id": "identity/accounts/" })),
        sandbox(json!({ "csp_id": 7, "id": "identity/accounts/../../users" })),
        sandbox(json!({ "csp_id": 8, "account_type": "production" })),
        sandbox(json!({ "csp_id": 9, "state": "suspended" })),
        "not a record",
    ]);
    let listing = client(&always(json!({ "results": results }).to_string()).await, TOKEN).list().await.unwrap();
    let kept: Vec<_> = listing.accounts.iter().map(|account| account.sandbox_id.as_str()).collect();
    assert_eq!((kept, listing.skipped), (vec!["1", "2"], 7));
}

#[actix_web::test]
async fn answers_of_another_form_are_errors() {
    for body in ["", "null", "[]", "{}", r#"{"results": 5}"#, r#"{"results": null}"#, "<html>", "\u{0}"] {
        let failed = client(&always(body.to_owned()).await, TOKEN).list().await;
        assert!(matches!(failed, Err(CspError::BadAnswer(_))), "{body:?}: {failed:?}");
    }
}
