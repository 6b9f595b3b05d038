use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use test_support::{CspSim, TestApp, assert_error, eventually, send};

#[actix_web::test]
async fn stats_and_listings_are_exact_over_any_number_of_pages() {
    let app = TestApp::start(&["--csp-sim-sandboxes=1234"]).await;
    for track in 0..7 {
        assert_eq!(app.allocate(&format!("t{track}")).await.status, 201);
    }
    let stats = app.stats().await.body;
    assert_eq!((&stats["total"], &stats["available"], &stats["allocated"]), (&json!(1234), &json!(1227), &json!(7)));
    for (query, expected) in [("limit=100", 1234), ("status=available&limit=97", 1227), ("status=allocated&limit=2", 7)]
    {
        let listed = app.list_all(query).await;
        assert_eq!(listed.len(), expected, "{query}");
        assert_eq!(BTreeSet::from_iter(listed).len(), expected, "{query} lists a sandbox twice");
    }
}

#[actix_web::test]
async fn a_sync_writes_only_differences() {
    let app = TestApp::start(&["--csp-sim-sandboxes=40"]).await;
    let again = app.sync("").await;
    assert_eq!(again.status, 200);
    for (field, expected) in [("status", json!("completed")), ("synced", json!(40)), ("added", json!(0))] {
        assert_eq!(again.body[field], expected, "{again:?}");
    }
    assert_eq!(again.body["marked_stale"], 0);
    assert!(again.body["duration_ms"].is_u64());
    assert_eq!(app.sync("?dry_run=true").await.body["dry_run"], true);
}

#[actix_web::test]
async fn actors_are_paused_run_and_resumed() {
    let app = TestApp::start(&[]).await;
    let actors = app.get_admin("/v1/admin/actors").await;
    let names: Vec<_> = actors.body["actors"].as_array().unwrap().iter().map(|actor| actor["name"].clone()).collect();
    assert_eq!(names, ["pool-manager", "csp-sync", "expiry-reaper", "cleanup", "stale-collector", "pool-stats"]);

    let pause = app
        .admin(Method::POST, "/v1/admin/actors/cleanup/pause")
        .header("X-Operator", "ops")
        .json(&json!({ "reason": "freeze deletions" }));
    let paused = send(pause).await;
    assert_eq!((paused.status.as_u16(), &paused.body["status"]), (200, &json!("paused")), "{paused:?}");
    assert_eq!(paused.body["desired_state"], "paused");
    assert_eq!(paused.body["control"]["reason"], "freeze deletions");
    assert!(paused.body["control"]["by"].as_str().unwrap().starts_with("ops@"));
    assert_error(&app.post_admin("/v1/admin/actors/cleanup/run").await, 409, "ACTOR_PAUSED");
    assert_error(&app.post_admin("/v1/admin/cleanup").await, 409, "ACTOR_PAUSED");

    let long_name = app.admin(Method::POST, "/v1/admin/actors/cleanup/resume").header("X-Operator", "o".repeat(65));
    assert_error(&send(long_name).await, 400, "BAD_HEADER");
    let resumed = app.post_admin("/v1/admin/actors/cleanup/resume").await;
    assert_eq!(resumed.body["desired_state"], "running");
    for name in ["pool-manager", "csp-sync", "expiry-reaper", "cleanup", "stale-collector", "pool-stats"] {
        let ran = app.post_admin(&format!("/v1/admin/actors/{name}/run")).await;
        assert_eq!(ran.status, 200, "{ran:?}");
        assert!(ran.body["iteration"].as_u64().unwrap() >= 1, "{ran:?}");
    }
}

#[actix_web::test]
async fn a_paused_pool_manager_stops_new_allocations_and_nothing_else() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("holder").await.sandbox_id().to_owned();
    let pause = app.admin(Method::POST, "/v1/admin/actors/pool-manager/pause").json(&json!({ "reason": "drain" }));
    assert_eq!(send(pause).await.status, 200);
    let refused = app.allocate("newcomer").await;
    assert_error(&refused, 503, "BROKER_PAUSED");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(app.allocate("holder").await.status, 200, "a replay is no new allocation");
    assert_eq!(app.read(&id, "holder").await.status, 200);
    assert_eq!(app.mark_for_deletion(&id, "holder").await.status, 200);
    app.post_admin("/v1/admin/actors/pool-manager/resume").await;
    assert_eq!(app.allocate("newcomer").await.status, 201);
}

#[actix_web::test]
async fn operators_release_a_sandbox_for_its_owner() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    let released = app.post_admin(&format!("/v1/admin/sandboxes/{id}/release")).await;
    assert_eq!((released.status.as_u16(), &released.body["status"]), (200, &json!("pending_deletion")));
    assert_eq!(app.allocate("student-1").await.status, 201, "the key is free");
    assert_error(&app.post_admin(&format!("/v1/admin/sandboxes/{id}/release")).await, 409, "WRONG_STATE");
    assert_error(&app.post_admin(&format!("/v1/admin/sandboxes/{id}/retry-deletion")).await, 409, "WRONG_STATE");
    assert_error(&app.post_admin("/v1/admin/sandboxes/4040404/release").await, 404, "SANDBOX_NOT_FOUND");
}

#[actix_web::test]
async fn a_search_finds_a_sandbox_by_id_name_owner_and_lab() {
    let app = TestApp::start(&["--csp-sim-sandboxes=130"]).await;
    let request = app.track(Method::POST, "/v1/allocate", "Student-7").header("X-Instruqt-Track-ID", "First-Steps");
    let id = send(request).await.sandbox_id().to_owned();
    let search = async |query: &str| app.list_all(&format!("limit=10&search={query}")).await;
    for query in ["student-7", "FIRST-steps", id.as_str()] {
        assert_eq!(search(query).await, [id.as_str()], "{query}");
    }
    assert_eq!(search("lab-0012").await.len(), 10, "lab-00120 to lab-00129");
    assert_eq!(search("lab-").await.len(), 130);
    assert!(search("unknown").await.is_empty());
    assert_error(&app.get_admin("/v1/admin/sandboxes?search=").await, 400, "BAD_QUERY");
}

#[actix_web::test]
async fn operators_set_a_sandbox_aside_and_take_it_back() {
    let app = TestApp::start(&["--csp-sim-sandboxes=1"]).await;
    let id = app.list_all("status=available").await.remove(0);
    let quarantine = async |body| {
        let path = format!("/v1/admin/sandboxes/{id}/quarantine");
        send(app.admin(Method::POST, &path).header("X-Operator", "ops").json(&body)).await
    };
    assert_error(&quarantine(json!({})).await, 400, "BAD_BODY");
    let set_aside = quarantine(json!({ "reason": "damaged" })).await;
    assert_eq!(
        (&set_aside.body["status"], &set_aside.body["quarantine_reason"]),
        (&json!("quarantined"), &json!("damaged"))
    );
    assert!(set_aside.body["quarantined_by"].as_str().unwrap().starts_with("ops@"), "{set_aside:?}");
    assert_error(&quarantine(json!({ "reason": "again" })).await, 409, "WRONG_STATE");
    let stats = app.stats().await.body;
    assert_eq!((&stats["total"], &stats["available"], &stats["quarantined"]), (&json!(1), &json!(0), &json!(1)));
    assert_error(&app.allocate("student-1").await, 409, "NO_SANDBOXES_AVAILABLE");
    app.sync("").await;
    let back = app.post_admin(&format!("/v1/admin/sandboxes/{id}/unquarantine")).await;
    assert_eq!((&back.body["status"], &back.body["quarantine_reason"]), (&json!("available"), &json!(null)));
    assert_eq!(app.allocate("student-1").await.status, 201);

    // What a track had goes back to its deletion.
    app.mark_for_deletion(&id, "student-1").await;
    assert_eq!(quarantine(json!({ "reason": "evidence" })).await.body["status"], "quarantined");
    assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["deleted"], 0);
    let back = app.post_admin(&format!("/v1/admin/sandboxes/{id}/unquarantine")).await;
    assert_eq!(back.body["status"], "pending_deletion");
    assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["deleted"], 1);
    assert_error(&app.post_admin(&format!("/v1/admin/sandboxes/{id}/unquarantine")).await, 404, "SANDBOX_NOT_FOUND");
}

#[actix_web::test]
async fn a_frozen_sandbox_is_not_deleted_before_its_time() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    let freeze = async |hours: &str| app.post_admin(&format!("/v1/admin/sandboxes/{id}/freeze?hours={hours}")).await;
    for hours in ["-1", "8761", "NaN", "soon", ""] {
        assert_error(&freeze(hours).await, 400, "BAD_QUERY");
    }
    assert!(freeze("24").await.body["freeze_until"].is_u64());
    assert_eq!(app.allocate("student-1").await.status, 200, "its owner keeps it");
    assert_eq!(app.renew(&id, "student-1").await.status, 200);
    assert_eq!(app.mark_for_deletion(&id, "student-1").await.status, 200);
    assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["deleted"], 0);
    assert_eq!(freeze("0").await.status, 200);
    assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["deleted"], 1);
}

#[actix_web::test]
async fn an_operator_extends_a_holding_beyond_what_its_owner_may() {
    let app = TestApp::start(&["--lab-duration-hours=1", "--max-holding-hours=1"]).await;
    let held = app.allocate("student-1").await;
    let (id, ends) = (held.sandbox_id().to_owned(), held.body["expires_at"].as_u64().unwrap());
    let extend =
        async |id: &str, hours: &str| app.post_admin(&format!("/v1/admin/sandboxes/{id}/extend?hours={hours}")).await;
    for hours in ["-1", "8761", "NaN", "soon", ""] {
        assert_error(&extend(&id, hours).await, 400, "BAD_QUERY");
    }
    assert_eq!(extend(&id, "0.5").await.body["expires_at"], ends, "it never gets shorter");
    let extended = extend(&id, "3").await.body["expires_at"].as_u64().unwrap();
    assert!((ends + 7199..=ends + 7260).contains(&extended), "{ends} {extended}");
    let replay = app.allocate("student-1").await;
    assert_eq!((replay.status.as_u16(), &replay.body["expires_at"]), (200, &extended.into()), "its owner sees it");
    assert_eq!(app.mark_for_deletion(&id, "student-1").await.status, 200);
    assert_error(&extend(&id, "3").await, 409, "WRONG_STATE");
    assert_error(&extend("no-such-id", "3").await, 404, "SANDBOX_NOT_FOUND");

    let standby = app.track(Method::POST, "/v1/allocate", "student-2").header("X-Sandbox-Standby", "true");
    assert_error(&extend(send(standby).await.sandbox_id(), "3").await, 409, "WRONG_STATE");
}

#[actix_web::test]
async fn standby_and_labs_are_counted_apart() {
    let app = TestApp::start(&[]).await;
    for (student, lab, standby) in [("a", "dns", "true"), ("b", "dns", "false"), ("c", "zero-trust", "true")] {
        let request = app.track(Method::POST, "/v1/allocate", student).header("X-Instruqt-Track-ID", lab);
        assert_eq!(send(request.header("X-Sandbox-Standby", standby)).await.status, 201);
    }
    let stats = app.stats().await.body;
    assert_eq!((&stats["allocated"], &stats["standby"]), (&3.into(), &2.into()), "{stats}");
    assert_eq!(app.post_admin("/v1/admin/actors/pool-stats/run").await.status, 200);
    let list = app.get_admin("/v1/admin/labs").await.body;
    assert!(list["counted_at"].is_u64(), "{list}");
    let figures = |lab: &Value| json!([lab["lab"], lab["held"], lab["standby"], lab["waiting"]]);
    let labs: Vec<_> = list["labs"].as_array().unwrap().iter().map(figures).collect();
    assert_eq!(labs, [json!(["dns", 2, 1, 0]), json!(["zero-trust", 1, 1, 0])]);
    assert!(list["labs"][0]["median_seconds"].is_u64() && list["labs"][1]["median_seconds"].is_null(), "{list}");
    eventually("the gauge follows", async || (app.metric("broker_pool_standby", "").await == 2.0).then_some(())).await;

    let activated = send(app.track(Method::POST, "/v1/allocation/activate", "a")).await;
    assert_eq!(activated.status, 200, "{activated:?}");
    assert_eq!(app.stats().await.body["standby"], 1);
    let shown = app.get_admin(&format!("/v1/admin/sandboxes/{}", activated.sandbox_id())).await.body;
    assert!(shown["standby"] == false && shown["activated_at"].is_u64(), "{shown}");
}

#[actix_web::test]
async fn given_up_deletions_are_retried_by_their_error() {
    let csp = CspSim::start(3).await;
    let app = TestApp::on_csp(&csp.url, &["--deletion-retry-max-attempts=1"], &[]).await;
    for student in ["student-1", "student-2"] {
        let id = app.allocate(student).await.sandbox_id().to_owned();
        app.mark_for_deletion(&id, student).await;
    }
    csp.set_faults(json!({ "undeletable": [2_000_001, 2_000_002, 2_000_003] })).await;
    assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["gave_up"], 2);
    assert_eq!(app.stats().await.body["deletion_failed"], 2);
    let retry =
        async |query: &str| app.post_admin(&format!("/v1/admin/retry-deletion{query}")).await.body["retried"].clone();
    assert_eq!(retry("?error=licence").await, 0, "another error");
    assert_eq!(retry("?error=Failure%20of%20this").await, 2);
    csp.set_faults(json!({})).await;
    assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["deleted"], 2);
    assert_error(&app.post_admin("/v1/admin/retry-deletion?error=").await, 400, "BAD_QUERY");
}

/// The services of an account go before it; without the right password the account goes all the same.
#[actix_web::test]
async fn services_go_before_their_accounts_and_never_keep_them() {
    for (password, shadow, orphaned) in [(CspSim::TOKEN, "false", 0), (CspSim::TOKEN, "true", 5), ("wrong", "false", 5)]
    {
        let csp = CspSim::start(10).await;
        let flags = [
            "--niosxaas-enabled=true",
            &format!("--niosxaas-base-url={}", csp.url),
            "--niosxaas-email=broker@example.com",
            &format!("--niosxaas-shadow-mode={shadow}"),
        ];
        let app = TestApp::on_csp(&csp.url, &flags, &[("NIOSXAAS_PASSWORD", password)]).await;
        for number in 0..5 {
            let student = format!("student-{number}");
            let id = app.allocate(&student).await.sandbox_id().to_owned();
            app.mark_for_deletion(&id, &student).await;
        }
        assert_eq!(app.post_admin("/v1/admin/cleanup").await.body["deleted"], 5);
        let stats = csp.stats().await;
        assert_eq!(stats["services_orphaned"], orphaned, "{password}, shadow {shadow}: {stats}");
    }
}

#[actix_web::test]
async fn an_id_a_student_and_a_key_are_found_in_one_request() {
    let app = TestApp::start(&["--csp-sim-sandboxes=3000"]).await;
    let request = app.track(Method::POST, "/v1/allocate", "Student-7").header("Idempotency-Key", "Key-7");
    let id = send(request.header("X-Instruqt-Track-ID", "first-steps")).await.sandbox_id().to_owned();
    app.allocate("Student-77").await;
    for text in [id.as_str(), "Student-7", "Key-7"] {
        let page = app.get_admin(&format!("/v1/admin/sandboxes?search={text}")).await.body;
        assert_eq!((&page["count"], &page["cursor"]), (&json!(1), &Value::Null), "{text}: {page}");
        assert_eq!(page["sandboxes"][0]["sandbox_id"], *id, "{text}");
    }
    assert_eq!(app.list_all("search=student-7").await.len(), 2, "no exact match: both contain it");
    assert_eq!(app.list_all("lab=first-steps").await, [id.as_str()]);
    assert_eq!(app.list_all("search=Key-7&status=stale").await, [""; 0]);

    let shown = app.get_admin(&format!("/v1/admin/sandboxes/{id}")).await;
    assert_eq!((shown.status.as_u16(), &shown.body["idempotency_key"]), (200, &json!("Key-7")));
    assert_error(&app.get_admin("/v1/admin/sandboxes/404").await, 404, "SANDBOX_NOT_FOUND");
}

#[actix_web::test]
async fn sandboxes_that_need_attention_are_listed_first() {
    let flags = ["--csp-sim-sandboxes=40", "--lab-duration-hours=0.0003", "--grace-period-minutes=60"];
    let app = TestApp::start(&flags).await;
    let overdue = app.allocate("student-1").await.sandbox_id().to_owned();
    let released = app.allocate("student-2").await.sandbox_id().to_owned();
    app.mark_for_deletion(&released, "student-2").await;
    let all = app.list_all("limit=100").await;
    assert_eq!((&all[0], &all[1], all.len()), (&overdue, &released, 40));
    eventually("the holding is over", async || {
        (app.list_all("overdue=true").await == [overdue.as_str()]).then_some(())
    })
    .await;
    assert_eq!(app.list_all("held_longer_than_hours=1").await, [""; 0]);
    assert_eq!(app.list_all("held_longer_than_hours=0").await, [overdue.as_str()]);
    let prefix =
        app.get_admin(&format!("/v1/admin/sandboxes/{overdue}")).await.body["name"].as_str().unwrap().to_owned();
    assert_eq!(app.list_all(&format!("name_prefix={prefix}")).await, [overdue.as_str()]);
    for query in ["name_prefix=", "held_longer_than_hours=-1", "overdue=maybe"] {
        assert_error(&app.get_admin(&format!("/v1/admin/sandboxes?{query}")).await, 400, "BAD_QUERY");
    }
}

#[actix_web::test]
async fn the_stats_of_the_last_hours_are_kept_for_charts() {
    let app = TestApp::start(&[]).await;
    let history = app.get_admin("/v1/admin/stats/history?hours=168").await;
    assert_eq!((history.status.as_u16(), &history.body["step_seconds"]), (200, &json!(3360)));
    eventually("the first minute is kept", async || {
        let history = app.get_admin("/v1/admin/stats/history").await.body;
        (!history["points"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    assert_error(&app.get_admin("/v1/admin/stats/history?hours=169").await, 400, "BAD_QUERY");
}

#[actix_web::test]
async fn a_sandbox_tells_who_moved_it_to_each_state() {
    let app = TestApp::start(&["--csp-sim-sandboxes=3"]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    app.mark_for_deletion(&id, "student-1").await;
    app.post_admin("/v1/admin/cleanup").await;
    let shown = app.get_admin(&format!("/v1/admin/sandboxes/{id}")).await.body;
    let history = shown["history"].as_array().unwrap();
    let told: Vec<_> =
        history.iter().map(|change| format!("{} {}", change["to"], change["by"]).replace('"', "")).collect();
    assert_eq!(told, ["allocated owner", "pending_deletion owner", "deleted cleanup"]);
    assert_eq!(history[0]["at"], shown["allocated_at"]);
}
