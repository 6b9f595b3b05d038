//! The endpoints of tracks.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use test_support::{TestApp, assert_error, send};

#[actix_web::test]
async fn allocate_answers_six_fields_and_a_replay_the_same() {
    let app = TestApp::start(&[]).await;
    let first = app.allocate("student-1").await;
    assert_eq!(first.status, 201, "{first:?}");
    let fields: BTreeSet<_> = first.body.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["sandbox_id", "name", "external_id", "allocated_at", "expires_at", "sfdc_account_id"];
    assert_eq!(fields, expected.into());
    let held_for = first.body["expires_at"].as_u64().unwrap() - first.body["allocated_at"].as_u64().unwrap();
    assert_eq!(held_for, 4 * 3600);
    let again = app.allocate("student-1").await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &first.body));
}

#[actix_web::test]
async fn either_track_header_names_the_caller_and_the_second_wins() {
    let app = TestApp::start(&[]).await;
    let named = app.allocate("student-1").await;
    let both = app
        .track(Method::POST, "/v1/allocate", "ignored")
        .header("X-Instruqt-Sandbox-ID", "student-1")
        .header("X-Instruqt-Track-ID", "intro-lab");
    assert_eq!(send(both).await.body, named.body);
}

#[actix_web::test]
async fn the_lab_and_the_owner_are_stored() {
    let app = TestApp::start(&[]).await;
    let request = app.track(Method::POST, "/v1/allocate", "student-1").header("X-Instruqt-Track-ID", "intro-lab");
    let allocated = send(request).await;
    let read = app.read(allocated.sandbox_id(), "student-1").await;
    assert_eq!(read.status, 200);
    for (field, expected) in [("status", "allocated"), ("allocated_to_track", "student-1"), ("track_name", "intro-lab")]
    {
        assert_eq!(read.body[field], expected, "{read:?}");
    }
    assert_eq!(read.body["name"], allocated.body["name"]);
}

#[actix_web::test]
async fn a_track_holds_one_sandbox_per_idempotency_key() {
    let app = TestApp::start(&[]).await;
    let with_key =
        |key: &'static str| send(app.track(Method::POST, "/v1/allocate", "student-1").header("Idempotency-Key", key));
    let (one, other, again) = (with_key("one").await, with_key("other").await, with_key("one").await);
    assert_ne!(one.body["sandbox_id"], other.body["sandbox_id"]);
    assert_eq!(one.body, again.body);
    let released = app.mark_for_deletion(other.sandbox_id(), "student-1").await;
    assert_eq!(released.status, 200, "the broker finds the key: {released:?}");
}

#[actix_web::test]
async fn a_name_prefix_selects_sandboxes() {
    let app = TestApp::start(&[]).await;
    let with_prefix = |track: &'static str, prefix: &'static str| {
        send(app.track(Method::POST, "/v1/allocate", track).header("X-Sandbox-Name-Prefix", prefix))
    };
    assert_eq!(with_prefix("student-1", "lab-00042").await.body["name"], "lab-00042");
    assert_error(&with_prefix("student-2", "lab-00042").await, 409, "NO_SANDBOXES_AVAILABLE");
}

#[actix_web::test]
async fn an_empty_pool_is_an_error_except_for_replays() {
    let app = TestApp::start(&["--csp-sim-sandboxes=3"]).await;
    let answers = join_all(["a", "b", "c"].map(|track| app.allocate(track))).await;
    let distinct: BTreeSet<_> = answers.iter().map(|answer| answer.sandbox_id()).collect();
    assert_eq!(distinct.len(), 3);
    let refused = app.allocate("d").await;
    assert_error(&refused, 409, "NO_SANDBOXES_AVAILABLE");
    assert!(refused.body["error"]["retry_after"].is_u64());
    assert_eq!(app.allocate("b").await.status, 200);
}

#[actix_web::test]
async fn a_repeated_release_gets_the_same_answer() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    let released = app.mark_for_deletion(&id, "student-1").await;
    assert_eq!((released.status.as_u16(), released.body["status"].as_str()), (200, Some("pending_deletion")));
    assert_eq!(released.body["sandbox_id"], id.as_str());
    assert!(released.body["deletion_requested_at"].is_u64());
    assert_eq!(app.mark_for_deletion(&id, "student-1").await.body, released.body);
    let next = app.allocate("student-1").await;
    assert_eq!(next.status, 201, "the key is free again");
    assert_ne!(next.sandbox_id(), id);
    app.post_admin("/v1/admin/cleanup").await;
    assert_error(&app.mark_for_deletion(&id, "student-1").await, 404, "SANDBOX_NOT_FOUND");
    assert_error(&app.read(&id, "student-1").await, 404, "SANDBOX_NOT_FOUND");
}

#[actix_web::test]
async fn other_tracks_may_not_read_renew_or_release() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    assert_error(&app.read(&id, "student-2").await, 403, "NOT_SANDBOX_OWNER");
    assert_error(&app.renew(&id, "student-2").await, 403, "NOT_SANDBOX_OWNER");
    assert_error(&app.mark_for_deletion(&id, "student-2").await, 403, "NOT_SANDBOX_OWNER");
    assert_error(&app.read("4040404", "student-1").await, 404, "SANDBOX_NOT_FOUND");
    assert_eq!(app.read(&id, "student-1").await.body["status"], "allocated");
}

#[actix_web::test]
async fn a_holding_can_be_renewed_until_its_release() {
    let app = TestApp::start(&[]).await;
    let allocated = app.allocate("student-1").await;
    let renewed = app.renew(allocated.sandbox_id(), "student-1").await;
    assert_eq!(renewed.status, 200);
    assert!(renewed.body["expires_at"].as_u64() >= allocated.body["expires_at"].as_u64());
    app.mark_for_deletion(allocated.sandbox_id(), "student-1").await;
    assert_error(&app.renew(allocated.sandbox_id(), "student-1").await, 409, "WRONG_STATE");
}
