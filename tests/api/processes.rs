//! Brokers as processes: crashes, several brokers on one DynamoDB server, a dead CSP, the command line.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use test_support::{Broker, CspSim, DynamoServer, TRACK_TOKEN, assert_error, eventually, output_of, program, send};
use tokio::time::{Instant, sleep};

#[actix_web::test]
async fn a_holding_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [("BROKER_STORE", "embedded"), ("BROKER_DATA_DIR", directory.path().to_str().unwrap())];
    let mut broker = Broker::start(&settings).await;
    broker.sync("").await;
    let held = broker.allocate("student-1").await;
    assert_eq!(held.status, 201);
    let released = broker.allocate("student-2").await.sandbox_id().to_owned();
    assert_eq!(broker.mark_for_deletion(&released, "student-2").await.status, 200);
    broker.process.kill();

    let broker = Broker::start(&settings).await;
    let again = broker.allocate("student-1").await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &held.body), "I3");
    assert_eq!(broker.read(&released, "student-2").await.body["status"], "pending_deletion", "I3");
}

/// Requests in flight are answered, leases are released, and idle connections do not delay the exit.
#[actix_web::test]
async fn sigterm_stops_the_program_in_order() {
    let (server, csp) = (DynamoServer::start().await, CspSim::start(5).await);
    let settings = csp.settings();
    let mut broker = Broker::on_server(&server, &settings).await;
    assert_eq!(broker.sync("").await.status, 200);
    csp.set_faults(json!({ "latency_ms": 1500 })).await;
    let lists = async || csp.stats().await["lists"].as_u64().unwrap();
    let before = lists().await;
    let in_flight = actix_web::rt::spawn(broker.admin(Method::POST, "/v1/admin/sync").send());
    eventually("the sync has started", async || (lists().await > before).then_some(())).await;
    let started = Instant::now();
    assert!(broker.process.terminate().await.success());
    assert!(started.elapsed() < Duration::from_secs(20), "the grace period of 25 s is not used up");
    assert_eq!(in_flight.await.unwrap().unwrap().status(), 200);
    csp.set_faults(json!({})).await;
    let successor = Broker::on_server(&server, &settings).await;
    assert_eq!(successor.sync("").await.status, 200, "the lease is free");
}

/// 200 tracks send their request to both brokers at once and get one sandbox each. Then 700 tracks get the other 700
/// sandboxes, and none is refused.
#[actix_web::test]
async fn duplicates_at_two_brokers_get_one_sandbox_and_the_whole_pool_is_usable() {
    for round in 0..rounds() {
        let (server, csp) = (DynamoServer::start().await, CspSim::start(900).await);
        let mut settings = csp.settings().to_vec();
        settings.push(("MAX_IN_FLIGHT", "2000"));
        let one = Broker::on_server(&server, &settings).await;
        let other = Broker::on_server(&server, &settings).await;
        assert_eq!(one.sync("").await.status, 200);

        let duplicates = (0..200).map(|number| {
            let (one, other, track) = (&one, &other, format!("duplicate-{number}"));
            async move { tokio::join!(one.allocate(&track), other.allocate(&track)) }
        });
        let mut sandboxes = BTreeSet::new();
        for (first, second) in join_all(duplicates).await {
            assert_eq!(first.sandbox_id(), second.sandbox_id(), "I2, round {round}");
            assert!(sandboxes.insert(first.sandbox_id().to_owned()), "I1, round {round}");
        }
        let singles = (0..700).map(|number| {
            let broker = if number % 2 == 0 { &one } else { &other };
            async move { broker.allocate(&format!("single-{number}")).await }
        });
        for answer in join_all(singles).await {
            assert_eq!(answer.status, 201, "I4, round {round}: {answer:?}");
            assert!(sandboxes.insert(answer.sandbox_id().to_owned()), "I1, round {round}");
        }
        assert_eq!(sandboxes.len(), 900);
        assert_error(&one.allocate("one-too-many").await, 409, "NO_SANDBOXES_AVAILABLE");
    }
}

/// One round by default; `BROKER_TEST_ROUNDS=20` makes an accidental pass unlikely.
fn rounds() -> u32 {
    std::env::var("BROKER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().expect("BROKER_TEST_ROUNDS is a number"))
}

#[actix_web::test]
async fn tracks_do_not_notice_that_the_csp_is_dead() {
    let mut csp = CspSim::start(20).await;
    let broker = Broker::on_csp(&csp, &[("CIRCUIT_BREAKER_THRESHOLD", "2")]).await;
    assert_eq!(broker.sync("").await.status, 200);
    csp.process.kill();

    for _ in 0..2 {
        assert_error(&broker.sync("").await, 502, "CSP_ERROR");
    }
    let open = broker.sync("").await;
    assert_error(&open, 503, "CSP_CIRCUIT_OPEN");
    assert!(open.headers.contains_key("retry-after"));
    let id = broker.allocate("student-1").await.sandbox_id().to_owned();
    assert_eq!(broker.read(&id, "student-1").await.status, 200, "I6");
    assert_eq!(broker.mark_for_deletion(&id, "student-1").await.status, 200, "I6");
    assert_eq!(broker.get("/readyz").await.status, 200, "I6");
}

#[actix_web::test]
async fn a_listing_that_would_empty_the_pool_is_refused_unless_forced() {
    let csp = CspSim::start(20).await;
    let broker = Broker::on_csp(&csp, &[]).await;
    assert_eq!(broker.sync("").await.status, 200);
    csp.set_faults(json!({ "empty_listing": true })).await;
    assert_error(&broker.sync("").await, 409, "SYNC_REFUSED");
    assert_eq!(broker.sync("?dry_run=true").await.body["marked_stale"], 20);
    assert_eq!(broker.stats().await.body["available"], 20, "nothing was changed");
    csp.set_faults(json!({ "malformed_body": true })).await;
    assert_error(&broker.sync("?force=true").await, 502, "CSP_ERROR");
    csp.set_faults(json!({ "empty_listing": true })).await;
    assert_eq!(broker.sync("?force=true").await.body["marked_stale"], 20);
    csp.set_faults(json!({})).await;
    assert_eq!(broker.sync("").await.body["revived"], 20);
    assert_eq!(broker.stats().await.body["available"], 20);
}

#[actix_web::test]
async fn stale_sandboxes_become_tombstones_when_an_operator_deletes_them() {
    let csp = CspSim::start(20).await;
    let broker = Broker::on_csp(&csp, &[]).await;
    assert_eq!(broker.sync("").await.status, 200);
    csp.set_faults(json!({ "missing": [2_000_001, 2_000_002, 2_000_003] })).await;
    assert_eq!(broker.sync("").await.body["marked_stale"], 3);
    let early = broker.post_admin("/v1/admin/auto-delete-stale").await;
    assert_eq!(
        (&early.body["status"], &early.body["deleted"]),
        (&json!("completed"), &json!(0)),
        "the grace period is a day"
    );
    let tombstone = broker.post_admin("/v1/admin/auto-delete-stale?grace_period_hours=0").await;
    assert_eq!(tombstone.body["deleted"], 3, "{tombstone:?}");
    csp.set_faults(json!({ "missing": [2_000_004] })).await;
    assert_eq!(broker.sync("").await.body["marked_stale"], 1, "tombstones stay tombstones");
    assert_eq!(broker.post_admin("/v1/admin/bulk-delete?status=stale").await.body["deleted"], 1);
    assert_eq!(broker.post_admin("/v1/admin/bulk-delete?status=deletion_failed").await.body["deleted"], 0);
    let stats = broker.stats().await.body;
    assert_eq!((&stats["total"], &stats["stale"]), (&json!(16), &json!(0)));
    assert_eq!(csp.stats().await["deletes"], json!({}), "the CSP is not called");
    assert_eq!(broker.post_admin("/v1/admin/auto-expire").await.body["expired"], 0);
}

#[test]
fn a_bad_setting_is_named_and_ends_the_program_with_exit_code_2() {
    type Setting = (&'static str, &'static str);
    let cases: [(&[Setting], &[&str]); 8] = [
        (&[("BROKER_PORT", "http")], &["BROKER_PORT", "http"]),
        (&[("BROKER_STORE", "dynamodb"), ("BROKER_API_TOKEN", "short")], &["BROKER_API_TOKEN", "32"]),
        (&[("BROKER_STORE", "dynamodb")], &["CSP_BASE_URL", "CSP_API_TOKEN"]),
        (&[("BROKER_STORE", "floppy")], &["BROKER_STORE", "floppy", "embedded", "memory", "dynamodb"]),
        (&[("LAB_DURATION_HOURS", "-1")], &["LAB_DURATION_HOURS", "-1"]),
        (&[("MAX_IN_FLIGHT", "0")], &["MAX_IN_FLIGHT", "0"]),
        (&[("BROKER_ADMIN_TOKEN", TRACK_TOKEN)], &["BROKER_ADMIN_TOKEN", "other tokens"]),
        (&[("LOG_LEVEL", "sandbox_broker=loud")], &["LOG_LEVEL", "loud"]),
    ];
    for (settings, words) in cases {
        let output = program(&[]).env("BROKER_STORE", "memory").envs(settings.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{settings:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(!text.contains("short"), "a token in {text}");
    }
}

#[test]
fn help_lists_all_settings() {
    let output = program(&["--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let settings = [
        "BROKER_HOST",
        "BROKER_PORT",
        "BROKER_API_TOKEN",
        "BROKER_ADMIN_TOKEN",
        "BROKER_STORE",
        "BROKER_DATA_DIR",
        "BROKER_REPLICA_ID",
        "DDB_TABLE_NAME",
        "DDB_GSI1_NAME",
        "DDB_GSI2_NAME",
        "DDB_GSI3_NAME",
        "DDB_ENDPOINT_URL",
        "AWS_REGION",
        "CSP_MODE",
        "CSP_SIM_SANDBOXES",
        "CSP_BASE_URL",
        "CSP_API_TOKEN",
        "CSP_TIMEOUT_CONNECT_SEC",
        "CSP_TIMEOUT_READ_SEC",
        "LAB_DURATION_HOURS",
        "GRACE_PERIOD_MINUTES",
        "SYNC_INTERVAL_SEC",
        "CLEANUP_INTERVAL_SEC",
        "AUTO_EXPIRY_INTERVAL_SEC",
        "STALE_INTERVAL_SEC",
        "POOL_REFRESH_INTERVAL_SEC",
        "K_CANDIDATES",
        "BACKOFF_BASE_MS",
        "BACKOFF_MAX_MS",
        "CLEANUP_CONCURRENCY",
        "CLEANUP_PER_SANDBOX_DELAY_SEC",
        "DELETION_RETRY_MAX_ATTEMPTS",
        "SYNC_MAX_STALE_PERCENT",
        "STALE_GRACE_HOURS",
        "DELETED_RETENTION_HOURS",
        "CIRCUIT_BREAKER_THRESHOLD",
        "CIRCUIT_BREAKER_TIMEOUT_SEC",
        "JOB_LEASE_SEC",
        "CONTROL_POLL_SEC",
        "RATE_LIMIT_RPS",
        "RATE_LIMIT_BURST",
        "TRUSTED_PROXIES",
        "MAX_IN_FLIGHT",
        "ALLOCATE_TIMEOUT_MS",
        "CORS_ALLOWED_ORIGINS",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "SHUTDOWN_GRACE_SEC",
    ];
    for setting in settings {
        assert!(help.contains(&format!("[env: {setting}")), "{setting} is not in --help");
    }
    assert!(!help.contains(TRACK_TOKEN), "a token in --help");
}

/// Three brokers on one table: one syncs at a time, a killed leader is replaced, a pause reaches all.
#[actix_web::test]
async fn three_brokers_share_the_background_jobs() {
    let (server, csp) = (DynamoServer::start().await, CspSim::start(30).await);
    let mut settings = csp.settings().to_vec();
    settings.extend([
        ("SYNC_INTERVAL_SEC", "2"),
        ("CLEANUP_INTERVAL_SEC", "1"),
        ("JOB_LEASE_SEC", "4"),
        ("CONTROL_POLL_SEC", "1"),
    ]);
    let mut brokers = Vec::new();
    for name in ["one", "two", "three"] {
        let mut settings = settings.clone();
        settings.push(("BROKER_REPLICA_ID", name));
        brokers.push((name, Broker::on_server(&server, &settings).await));
    }

    // One listing in each interval, not three. There may be fewer: an interval starts at the end of a run, and the
    // leases compare whole seconds.
    let lists = async || csp.stats().await["lists"].as_u64().unwrap();
    let before = lists().await;
    sleep(Duration::from_secs(8)).await;
    let in_four_intervals = lists().await - before;
    assert!((2..=5).contains(&in_four_intervals), "{in_four_intervals} listings in four intervals");

    // The leader is killed during a run, while it holds the lease.
    csp.set_faults(json!({ "latency_ms": 3000 })).await;
    let leader = eventually("a sync is running", async || {
        let status = brokers[0].1.get_admin("/v1/admin/actors/csp-sync").await.body;
        let leader = status["leader"].as_str()?.to_owned();
        let (_, broker) = brokers.iter().find(|(name, _)| *name == leader)?;
        let own_status = broker.get_admin("/v1/admin/actors/csp-sync").await.body;
        (own_status["status"] == "running").then_some(leader)
    })
    .await;
    let index = brokers.iter().position(|(name, _)| *name == leader).unwrap();
    brokers.remove(index).1.process.kill();
    csp.set_faults(json!({})).await;
    let killed_at = Instant::now();
    eventually("another replica takes over", async || {
        let status = brokers[0].1.get_admin("/v1/admin/actors/csp-sync").await.body;
        (status["leader"] != leader.as_str() && status["last_run"]["error"].is_null()).then_some(())
    })
    .await;
    assert!(killed_at.elapsed() < Duration::from_secs(4 + 4), "within the lease of 4 s, with time for polling");

    // A pause at one broker reaches the other.
    let [(_, one), (_, other)] = &brokers[..] else { panic!("two are left") };
    let pause = one.admin(Method::POST, "/v1/admin/actors/cleanup/pause").json(&json!({ "reason": "freeze" }));
    assert_eq!(send(pause).await.status, 200);
    eventually("the other broker pauses", async || {
        let status = other.get_admin("/v1/admin/actors/cleanup").await.body;
        (status["status"] == "paused").then_some(())
    })
    .await;
    let mut released = Vec::new();
    for number in 0..10 {
        let (track, broker) = (format!("t{number}"), if number % 2 == 0 { one } else { other });
        let id = broker.allocate(&track).await.sandbox_id().to_owned();
        assert_eq!(broker.mark_for_deletion(&id, &track).await.status, 200);
        released.push(id);
    }
    sleep(Duration::from_secs(3)).await;
    assert_eq!(csp.stats().await["deletes"], json!({}), "no broker deletes");
    assert_eq!(one.stats().await.body["pending_deletion"], 10);

    other.post_admin("/v1/admin/actors/cleanup/resume").await;
    eventually("all are deleted", async || (one.stats().await.body["pending_deletion"] == 0).then_some(())).await;
    let exactly_once: serde_json::Map<_, _> = released.into_iter().map(|id| (id, json!(1))).collect();
    assert_eq!(csp.stats().await["deletes"], json!(exactly_once));
}

/// A sandbox that its track forgets is expired on time, deleted and replaced without an operator.
#[actix_web::test]
async fn the_pool_renews_itself() {
    let csp = CspSim::start(1).await;
    let settings = [
        ("LAB_DURATION_HOURS", "0.0015"),
        ("GRACE_PERIOD_MINUTES", "0"),
        ("CLEANUP_INTERVAL_SEC", "1"),
        ("SYNC_INTERVAL_SEC", "1"),
    ];
    let broker = Broker::on_csp(&csp, &settings).await;
    let first = eventually("the first sync has filled the pool", async || {
        Some(broker.allocate("t1").await).filter(|answer| answer.status == 201)
    })
    .await;
    let expires_at = first.body["expires_at"].as_u64().unwrap();
    assert_error(&broker.allocate("t2").await, 409, "NO_SANDBOXES_AVAILABLE");
    let tombstone = eventually("the sandbox is deleted", async || {
        let deleted = broker.get_admin("/v1/admin/sandboxes?status=deleted").await;
        deleted.body["sandboxes"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(tombstone["sandbox_id"], first.body["sandbox_id"]);
    let expired_at = tombstone["deletion_requested_at"].as_u64().unwrap();
    assert!((expires_at..=expires_at + 2).contains(&expired_at), "due at {expires_at}, expired at {expired_at}");
    let second = eventually("the replacement is available", async || {
        Some(broker.allocate("t2").await).filter(|answer| answer.status == 201)
    })
    .await;
    assert_ne!(second.sandbox_id(), first.sandbox_id());
    assert_eq!(csp.stats().await["deletes"], json!({ first.sandbox_id(): 1 }));
}

/// The container's health check tells a healthy broker from none, from a frozen one and from another program.
#[actix_web::test]
async fn healthcheck_says_why_a_broker_is_not_healthy() {
    let check = async |port: u16| {
        let output = output_of(program(&["healthcheck", "--broker-port", &port.to_string()])).await;
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    let port = broker.address.port();
    assert_eq!(check(port).await, (Some(0), String::new()));

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other_port = other.local_addr().unwrap().port();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let (code, message) = check(other_port).await;
    answers.join().unwrap();
    assert_eq!(code, Some(1));
    assert!(message.contains("answers \"HTTP/1.1 503\""), "{message}");
    let (code, message) = check(other_port).await;
    assert_eq!(code, Some(1), "nothing listens there now");
    assert!(message.contains(&format!("cannot ask the broker on port {other_port}")), "{message}");

    broker.process.signal("-STOP");
    let (code, message) = check(port).await;
    broker.process.signal("-CONT");
    assert_eq!(code, Some(1));
    assert!(message.contains("does not answer within 8 s"), "{message}");
}
