//! What a key holds, without an id: read, give back, standby and activate, durations.

use reqwest::Method;
use test_support::{Answer, TestApp, assert_error, send};

async fn held(app: &TestApp, track: &str) -> Answer {
    send(app.track(Method::GET, "/v1/allocation", track)).await
}

async fn give_back(app: &TestApp, track: &str) -> Answer {
    send(app.track(Method::DELETE, "/v1/allocation", track)).await
}

async fn allocate_with(app: &TestApp, track: &str, header: &str, value: &str) -> Answer {
    send(app.track(Method::POST, "/v1/allocate", track).header(header, value)).await
}

fn held_for(answer: &Answer) -> u64 {
    answer.body["expires_at"].as_u64().unwrap() - answer.body["allocated_at"].as_u64().unwrap()
}

#[actix_web::test]
async fn a_key_reads_and_gives_back_what_it_holds_without_an_id() {
    let app = TestApp::start(&[]).await;
    assert_error(&held(&app, "student-1").await, 404, "NOTHING_HELD");
    let request = app.track(Method::POST, "/v1/allocate", "student-1").header("X-Instruqt-Track-ID", "intro-lab");
    let allocated = send(request).await;
    let by_id = app.read(allocated.sandbox_id(), "student-1").await;
    let by_key = held(&app, "student-1").await;
    let mut expected = by_id.body;
    assert_eq!(expected.as_object_mut().unwrap().remove("gone_at_provider"), Some(false.into()));
    assert_eq!((by_key.status.as_u16(), &by_key.body), (200, &expected), "the same answer as by id");

    let released = give_back(&app, "student-1").await;
    assert_eq!(released.status, 200);
    assert_eq!(released.body["released"], true);
    assert_eq!(released.body["sandbox_id"], allocated.sandbox_id());
    assert_eq!(released.body["status"], "pending_deletion");
    let again = send(app.track(Method::POST, "/v1/allocation/release", "student-1")).await;
    assert_eq!((again.status.as_u16(), again.body), (200, serde_json::json!({ "released": false })));
    assert_error(&held(&app, "student-1").await, 404, "NOTHING_HELD");
}

#[actix_web::test]
async fn each_key_of_a_track_gives_back_its_own_sandbox() {
    let app = TestApp::start(&[]).await;
    let default = app.allocate("student-1").await;
    let other = allocate_with(&app, "student-1", "Idempotency-Key", "other").await;
    let release = app.track(Method::DELETE, "/v1/allocation", "student-1").header("Idempotency-Key", "other");
    assert_eq!(send(release).await.body["sandbox_id"], other.sandbox_id());
    assert_eq!(held(&app, "student-1").await.body["sandbox_id"], default.sandbox_id());
}

#[actix_web::test]
async fn only_the_owners_secret_reads_activates_and_gives_back_what_its_key_holds() {
    let app = TestApp::start(&[]).await;
    const SECRET: &str = "a-secret-of-24-characters";
    let allocated = allocate_with(&app, "student-1", "X-Track-Secret", SECRET).await;
    assert_eq!(allocated.status, 201, "{allocated:?}");
    for (method, path) in [
        (Method::GET, "/v1/allocation"),
        (Method::DELETE, "/v1/allocation"),
        (Method::POST, "/v1/allocation/release"),
        (Method::POST, "/v1/allocation/activate"),
    ] {
        assert_error(&send(app.track(method.clone(), path, "student-1")).await, 403, "NOT_SANDBOX_OWNER");
        let wrong = app.track(method, path, "student-1").header("X-Track-Secret", "another-secret-of-a-stranger");
        assert_error(&send(wrong).await, 403, "NOT_SANDBOX_OWNER");
    }
    let own = app.track(Method::DELETE, "/v1/allocation", "student-1").header("X-Track-Secret", SECRET);
    assert_eq!(send(own).await.body["released"], true);
}

#[actix_web::test]
async fn a_request_sets_the_duration_of_its_holding_up_to_the_longest() {
    let app = TestApp::start(&["--lab-duration-hours=2", "--max-holding-hours=4"]).await;
    let allocated = allocate_with(&app, "student-1", "X-Sandbox-Minutes", "90").await;
    assert_eq!(held_for(&allocated), 90 * 60);
    assert_eq!(held_for(&app.allocate("student-2").await), 2 * 3600);
    assert_error(&allocate_with(&app, "student-3", "X-Sandbox-Minutes", "241").await, 400, "BAD_HEADER");
    for bad in ["0", "-1", "1.5", "5m", "99999999999999999999"] {
        assert_error(&allocate_with(&app, "student-3", "X-Sandbox-Minutes", bad).await, 400, "BAD_HEADER");
    }

    let path = format!("/v1/sandboxes/{}/renew", allocated.sandbox_id());
    let renew = async |minutes: &str| {
        send(app.track(Method::POST, &path, "student-1").header("X-Sandbox-Minutes", minutes)).await
    };
    let renewed = renew("120").await;
    assert_eq!((renewed.status.as_u16(), &renewed.body["capped"]), (200, &false.into()));
    assert!(held_for(&renewed) >= 120 * 60, "{renewed:?}");
    let capped = renew("1000").await;
    assert_eq!((held_for(&capped), &capped.body["capped"]), (4 * 3600, &true.into()));
    assert_error(&renew("1000").await, 409, "MAX_DURATION_REACHED");
}

#[actix_web::test]
async fn a_standby_waits_for_its_learner_and_its_lab_starts_with_the_activation() {
    let app = TestApp::start(&["--lab-duration-hours=2", "--max-holding-hours=4"]).await;
    let request = app.track(Method::POST, "/v1/allocate", "student-1").header("X-Sandbox-Standby", "true");
    let standby = send(request.header("X-Sandbox-Minutes", "90")).await;
    assert_eq!((standby.status.as_u16(), &standby.body["standby"]), (201, &true.into()));
    assert_eq!(held_for(&standby), 96 * 3600);
    let read = app.read(standby.sandbox_id(), "student-1").await;
    assert_eq!(read.body["standby"], true);
    assert_error(&app.renew(standby.sandbox_id(), "student-1").await, 409, "WRONG_STATE");

    let activate = async || send(app.track(Method::POST, "/v1/allocation/activate", "student-1")).await;
    let active = activate().await;
    assert_eq!((active.status.as_u16(), active.body.get("standby")), (200, None), "{active:?}");
    assert!(held_for(&active) <= 90 * 60 + 5, "{active:?}");
    let again = activate().await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &active.body), "the time does not start again");
    let replay = app.allocate("student-1").await;
    assert_eq!((replay.status.as_u16(), &replay.body), (200, &active.body), "the claim knows it too");
    assert_eq!(app.renew(standby.sandbox_id(), "student-1").await.status, 200);
    assert_eq!(give_back(&app, "student-1").await.body["released"], true);
    assert_error(&activate().await, 404, "NOTHING_HELD");
    assert_error(&allocate_with(&app, "student-2", "X-Sandbox-Standby", "yes").await, 400, "BAD_HEADER");
}
