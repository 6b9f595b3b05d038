//! Every attack ends within its bound, and nobody else notices.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::attacks::{Attack, REQUEST, connect, until_closed};
use crate::helpers::{TestApp, eventually};
use crate::program::{Broker, TRACK_TOKEN, program};

/// Attackers of each kind at once.
const ATTACKERS: usize = 15;

/// The broker's bounds are 5 and 10 seconds; a machine under load may take its time.
const TIMEOUT: Duration = Duration::from_secs(45);

/// Idle connections, more than three quarters of those that a broker takes, so that it lets them go.
const IDLE: usize = 3200;

/// The most that the broker may occupy, in KiB: the 64 MiB of the specification, and 20 KiB for each idle connection. One
/// that does its worst takes more, but of those a test has few.
const MAX_RESIDENT_KIB: u64 = 64 * 1024 + 20 * IDLE as u64;

const SETTINGS: [(&str, &str); 3] =
    [("BROKER_STORE", "memory"), ("CSP_SIM_SANDBOXES", "2000"), ("CORS_ALLOWED_ORIGINS", "https://x.example")];

/// Resident memory now, and the most there ever was, in KiB.
fn resident_kib(broker: &Broker) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn assert_unharmed(broker: &Broker) {
    let log = broker.log();
    assert!(!log.contains("panicked"), "{log}");
    let (_, most) = resident_kib(broker);
    assert!(most <= MAX_RESIDENT_KIB, "{most} KiB were resident");
}

/// A client that minds its own business until it is told to stop; returns how many sandboxes it was given.
async fn good_client(app: &TestApp, is_over: impl Fn() -> bool) -> usize {
    let mut given = BTreeMap::new();
    while !is_over() {
        let track = format!("good-{}", given.len());
        let sandbox = app.allocate(&track).await;
        assert_eq!(sandbox.status, 201, "{sandbox:?}");
        let id = sandbox.sandbox_id().to_owned();
        let read = app.read(&id, &track).await;
        assert_eq!((read.status.as_u16(), read.body["allocated_to_track"].as_str()), (200, Some(track.as_str())));
        assert_eq!(given.insert(id, track), None, "a sandbox was given twice");
        sleep(Duration::from_millis(20)).await;
    }
    given.len()
}

async fn cuts(broker: &Broker, reason: &str) -> f64 {
    broker.metric("broker_connections_cut_total", &format!("reason=\"{reason}\"")).await
}

fn status_of(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {text:?}"))
}

#[tokio::test]
async fn no_attack_lasts_and_none_disturbs_a_good_client() {
    let broker = Broker::start(&SETTINGS).await;
    broker.sync("").await;
    let over = std::cell::Cell::new(false);
    let attackers = Attack::ALL.iter().flat_map(|attack| std::iter::repeat_n(*attack, ATTACKERS));
    let attacks = join_all(attackers.map(|attack| {
        let address = broker.address;
        async move { (attack, timeout(TIMEOUT, attack.once(address, TRACK_TOKEN)).await) }
    }));
    let attacks = async {
        let ends = attacks.await;
        over.set(true);
        ends
    };
    let (ends, given) = tokio::join!(attacks, good_client(&broker, || over.get()));
    let mut lasting: Vec<_> = ends.iter().filter(|(_, end)| end.is_err()).map(|(attack, _)| attack).collect();
    lasting.dedup();
    assert!(lasting.is_empty(), "not ended after {TIMEOUT:?}: {lasting:?}");
    assert!(given > 0);
    assert_eq!(broker.stats().await.body["allocated"], given, "no attack got a sandbox");
    for reason in ["slow_head", "large_head", "slow_body", "not_reading"] {
        assert!(cuts(&broker, reason).await > 0.0, "no connection was cut for {reason}");
    }
    eventually("all connections are closed", async || {
        // The scrape comes over one, and the client may keep a few.
        (broker.metric("broker_connections ", "").await < 10.0).then_some(())
    })
    .await;
    assert_unharmed(&broker);
}

#[tokio::test]
async fn attacks_are_answered_as_far_as_they_can_be() {
    let broker = Broker::start(&SETTINGS).await;
    let answer = async |attack: Attack| {
        let answer = timeout(TIMEOUT, attack.once(broker.address, TRACK_TOKEN)).await.unwrap().unwrap();
        (status_of(&answer), String::from_utf8_lossy(&answer).into_owned())
    };
    let answers = join_all(
        [
            (Attack::Silence, 408),
            (Attack::DrippedHead, 408),
            (Attack::DrippedBody, 408),
            (Attack::DrippedChunks, 200),
            (Attack::StrangersBody, 401),
            (Attack::ManyHeaders, 431),
            (Attack::Tls, 400),
            (Attack::Garbage, 400),
            (Attack::BadChunk, 400),
            (Attack::TwoLengths, 400),
            (Attack::TwoContentLengths, 400),
            (Attack::OddEncoding, 400),
        ]
        .map(|(attack, status)| async move { (attack, status, answer(attack).await) }),
    )
    .await;
    for (attack, status, (answered, text)) in answers {
        assert_eq!(answered, status, "{attack:?}: {text}");
        let is_told = text.contains("REQUEST_TIMEOUT") && text.contains("\"request_id\"");
        assert!(status != 408 || is_told, "{attack:?}: {text}");
        // A request that hides behind another must not be seen as one.
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{attack:?}: {text}");
    }
    assert_eq!(broker.stats().await.body["allocated"], 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let broker = Broker::start(&SETTINGS).await;
    broker.sync("").await;
    let requests: String = (0..400)
        .map(|number| {
            let close = if number == 399 { "Connection: close\r\n" } else { "" };
            format!("GET /v1/sandboxes/{number} HTTP/1.1\r\nHost: x\r\nX-Request-ID: number-{number}\r\n{close}\r\n")
        })
        .collect();
    let end = timeout(TIMEOUT, until_closed(connect(broker.address).await.unwrap(), requests.as_bytes(), b"")).await;
    let text = String::from_utf8(end.unwrap().unwrap()).unwrap();
    let ids = text.lines().filter_map(|line| line.strip_prefix("x-request-id: number-"));
    let ids: Vec<usize> = ids.map(|id| id.trim().parse().unwrap()).collect();
    assert_eq!(ids, (0..400).collect::<Vec<_>>());
    assert_eq!(text.matches("HTTP/1.1 401 ").count(), 400);
    assert_unharmed(&broker);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_answered_and_one_that_vanishes_leaves_nothing() {
    let broker = Broker::start(&SETTINGS).await;
    broker.sync("").await;
    let request = format!(
        "POST /v1/allocate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TRACK_TOKEN}\r\nX-Track-ID: half-closed\r\n\r\n"
    );
    let mut stream = connect(broker.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(TIMEOUT, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(status_of(&answer), 201);
    for cut in [0, 10, request.len() - 2] {
        for _ in 0..100 {
            let mut stream = connect(broker.address).await.unwrap();
            stream.write_all(&request.as_bytes()[..cut]).await.unwrap();
        }
    }
    eventually("their connections are closed", async || {
        (broker.metric("broker_connections ", "").await < 10.0).then_some(())
    })
    .await;
    assert_eq!(broker.stats().await.body["allocated"], 1, "half a request allocates nothing");
    assert_unharmed(&broker);
}

#[tokio::test]
async fn thousands_of_idle_connections_are_served_and_let_go_when_places_get_scarce() {
    let broker = Broker::start(&SETTINGS).await;
    broker.sync("").await;
    let (before, _) = resident_kib(&broker);
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(one_request(connect(broker.address).await.unwrap()).await);
    }
    let (now, _) = resident_kib(&broker);
    assert!(now <= MAX_RESIDENT_KIB, "{before} KiB grew to {now}");
    assert_eq!(broker.allocate("good").await.status, 201);
    eventually("idle connections are let go", async || (cuts(&broker, "idle").await > 0.0).then_some(())).await;
    // Those that are left are as good as before.
    eventually("places are not scarce any more", async || {
        (broker.metric("broker_connections ", "").await <= 3100.0).then_some(())
    })
    .await;
    assert_eq!(broker.read(broker.allocate("good").await.sandbox_id(), "good").await.status, 200);
    drop(idle);
    assert_unharmed(&broker);
}

/// Sends a request and reads its answer; the connection stays open.
async fn one_request(mut stream: TcpStream) -> TcpStream {
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = [0; 2048];
    let mut length = 0;
    while !answer[..length].ends_with(b"}") {
        let read = stream.read(&mut answer[length..]).await.unwrap();
        assert!(read > 0, "closed: {:?}", String::from_utf8_lossy(&answer[..length]));
        length += read;
    }
    assert_eq!(status_of(&answer), 200);
    stream
}

#[tokio::test]
async fn more_connections_than_there_are_files_for_are_refused_and_told() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$0\"", env!("CARGO_BIN_EXE_sandbox-broker")]).env_clear();
    command.envs(program(&[]).get_envs().filter_map(|(name, value)| Some((name, value?)))).envs(SETTINGS);
    let broker = Broker::run(&mut command).await;
    broker.sync("").await;
    // One that the good client has, one more for each file that there is for clients.
    assert_eq!(broker.allocate("good").await.status, 201);
    // Silent ones are ended after a while; where that is too fast for this machine, others take their places.
    let mut others = Vec::new();
    let text = eventually("one is refused", async || {
        while broker.metric("broker_connections ", "").await < 128.0 {
            others.push(connect(broker.address).await.unwrap());
        }
        let probe = until_closed(connect(broker.address).await.unwrap(), REQUEST, b"");
        let told = timeout(Duration::from_secs(3), probe).await.ok()?.ok()?;
        Some(String::from_utf8(told).unwrap()).filter(|told| told.starts_with("HTTP/1.1 503"))
    })
    .await;
    assert!(text.contains("TOO_MANY_CONNECTIONS"), "{text}");
    assert!(text.contains("retry-after: ") && text.contains("\"request_id\""), "{text}");
    // The files of the other half are untouched: new connections to the CSP can be made.
    assert_eq!(broker.sync("").await.status, 200);
    assert!(cuts(&broker, "too_many").await > 0.0);
    // The silent ones are ended after their time, and there is room again.
    eventually("there is room again", async || {
        let stream = connect(broker.address).await.ok()?;
        let answer = until_closed(stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"");
        (status_of(&answer.await.ok()?) == 200).then_some(())
    })
    .await;
    assert_unharmed(&broker);
}
