//! The audit log: who ordered what, over all replicas, also with no console open.

use reqwest::Method;
use serde_json::{Value, json};
use test_support::metering::{Fault, FaultRule, Limits, MeteringServer, MeteringSettings};
use test_support::{ApiClient, Broker, TestApp, assert_error, send};

async fn order(broker: &ApiClient, operator: &str, path: &str) -> u16 {
    let request = broker.admin(Method::POST, &format!("/v1/admin/{path}")).header("X-Operator", operator);
    send(request).await.status.as_u16()
}

async fn entries(broker: &ApiClient, query: &str) -> Vec<Value> {
    let page = broker.get_admin(&format!("/v1/admin/audit{query}")).await;
    assert_eq!(page.status, 200, "{page:?}");
    page.body["entries"].as_array().unwrap().clone()
}

#[actix_web::test]
async fn each_order_is_kept_with_who_what_why_and_its_outcome() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    let pause = app.admin(Method::POST, "/v1/admin/actors/cleanup/pause").header("X-Operator", "Ana%20L%C3%B3pez");
    assert_eq!(send(pause.json(&json!({ "reason": "freeze deletions" }))).await.status, 200);
    assert_eq!(order(&app, "ben", &format!("sandboxes/{id}/release")).await, 200);
    assert_eq!(order(&app, "ben", &format!("sandboxes/{id}/release")).await, 409);
    assert_eq!(order(&app, "cem", "actors/cleanup/run").await, 409);
    assert_eq!(order(&app, "cem", "sync?force=true").await, 200);
    assert_eq!(order(&app, "cem", "actors/cleanup/resume").await, 200);
    app.allocate("student-2").await;

    let all = entries(&app, "").await;
    let said = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("-").to_owned();
    let told: Vec<_> = all
        .iter()
        .map(|entry| [said(entry, "action"), said(entry, "target"), said(entry, "outcome")].join(" "))
        .collect();
    let expected = [
        "resume cleanup ok".to_owned(),
        "sync - ok".to_owned(),
        "run cleanup ACTOR_PAUSED".to_owned(),
        format!("force-release {id} WRONG_STATE"),
        format!("force-release {id} ok"),
        "pause cleanup ok".to_owned(),
        // The one that filled the pool.
        "sync - ok".to_owned(),
    ];
    assert_eq!(told, expected, "the last one first, and no request of a track");
    assert_eq!(said(&all[5], "by"), "Ana López@127.0.0.1");
    assert_eq!(said(&all[5], "reason"), "freeze deletions");
    assert_eq!(said(&all[1], "parameters"), "force=true");
    assert!(all.iter().all(|entry| entry["ended_at"].as_u64() >= entry["at"].as_u64()), "{all:?}");

    assert_eq!(entries(&app, "?by=BEN").await.len(), 2);
    assert_eq!(entries(&app, "?action=pause").await.len(), 1);
    assert_eq!(entries(&app, &format!("?target={id}")).await.len(), 2);
    let first = app.get_admin("/v1/admin/audit?limit=3").await;
    let cursor = first.body["cursor"].as_str().unwrap().replace('#', "%23");
    let rest = entries(&app, &format!("?limit=100&cursor={cursor}")).await;
    assert_eq!([first.body["entries"].as_array().unwrap().clone(), rest].concat(), all, "pages cover the log");
    assert_error(&app.get_admin("/v1/admin/audit?cursor=nonsense").await, 400, "BAD_CURSOR");
}

#[actix_web::test]
async fn an_order_that_cannot_be_recorded_is_not_carried_out() {
    let settings = MeteringSettings { limits: Limits::unlimited(), ..MeteringSettings::default() };
    let server = MeteringServer::start(settings);
    let url = server.url();
    server.create_table(&[]).await;
    let broker = Broker::start(&[("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", &url), ("CSP_MODE", "sim")]).await;
    broker.sync("").await;
    let id = broker.allocate("student-1").await.sandbox_id().to_owned();
    server.engine().add_fault(FaultRule::before(Fault::service_unavailable()).on(&["PutItem"]).share(1.0));
    let refused = broker.post_admin(&format!("/v1/admin/sandboxes/{id}/release")).await;
    assert_error(&refused, 503, "STORE_UNAVAILABLE");
    assert_eq!(broker.read(&id, "student-1").await.body["status"], "allocated");
    server.engine().clear_faults();
    assert_eq!(broker.post_admin(&format!("/v1/admin/sandboxes/{id}/release")).await.status, 200);
    assert_eq!(entries(&broker, "?action=force-release").await.len(), 1);
}
