//! Every attack ends within its bound and does not disturb other clients.

use std::collections::BTreeMap;
use std::io::ErrorKind::WouldBlock;
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use test_support::attacks::{Attack, REQUEST, connect, until_closed};
use test_support::{ApiClient, Broker, TRACK_TOKEN, eventually, program, program_path};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// Concurrent attackers of each kind.
const ATTACKERS: usize = 15;

/// The longest duration of an attack. The broker's bounds are 5 and 10 seconds; the rest is for a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(45);

/// Idle connections: more than three quarters of the limit, so that the broker closes some.
const IDLE: usize = 3200;

/// The bound of resident memory in KiB: 64 MiB, and 20 KiB for each idle connection. An attacker's connection may take
/// more, but there are few of them.
const MAX_RESIDENT_KIB: u64 = 64 * 1024 + 20 * IDLE as u64;

const SETTINGS: [(&str, &str); 3] =
    [("BROKER_STORE", "memory"), ("CSP_SIM_SANDBOXES", "2000"), ("CORS_ALLOWED_ORIGINS", "https://x.example")];

const CLOSING_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Connections do not count by address.
const BEHIND_A_PROXY: (&str, &str) = ("TRUSTED_PROXIES", "1");

/// A broker that may open 256 files, half of which are for clients.
async fn small_broker(settings: &[(&str, &str)]) -> Broker {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$0\""]).arg(program_path()).env_clear();
    command.envs(program(&[]).get_envs().filter_map(|(name, value)| Some((name, value?)))).envs(SETTINGS);
    Broker::run(command.envs(settings.iter().copied())).await
}

fn assert_unharmed(broker: &Broker) {
    let log = broker.log();
    assert!(!log.contains("panicked"), "{log}");
    let (_, peak) = broker.process.resident_kib();
    assert!(peak <= MAX_RESIDENT_KIB, "{peak} KiB were resident");
}

/// A client that allocates and reads until `is_over`. Returns the number of sandboxes that it got.
async fn good_client(client: &ApiClient, is_over: impl Fn() -> bool) -> usize {
    let mut given = BTreeMap::new();
    while !is_over() {
        let track = format!("good-{}", given.len());
        let sandbox = client.allocate(&track).await;
        assert_eq!(sandbox.status, 201, "{sandbox:?}");
        let id = sandbox.sandbox_id().to_owned();
        let read = client.read(&id, &track).await;
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
async fn every_attack_ends_and_none_disturbs_a_good_client() {
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
    let mut endless: Vec<_> = ends.iter().filter(|(_, end)| end.is_err()).map(|(attack, _)| attack).collect();
    endless.dedup();
    assert!(endless.is_empty(), "not ended after {TIMEOUT:?}: {endless:?}");
    assert!(given > 0);
    assert_eq!(broker.stats().await.body["allocated"], given, "no attack got a sandbox");
    for reason in ["slow_head", "large_head", "slow_body", "not_reading"] {
        assert!(cuts(&broker, reason).await > 0.0, "no connection was cut for {reason}");
    }
    eventually("all connections are closed", async || has_few_connections(&broker).await.then_some(())).await;
    assert_unharmed(&broker);
}

/// Whether only the connections of the test's own client are left: that of the scrape, and a few that it keeps alive.
async fn has_few_connections(broker: &Broker) -> bool {
    broker.metric("broker_connections ", "").await < 10.0
}

#[tokio::test]
async fn attacks_get_the_specified_answers() {
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
        let is_explained = text.contains("REQUEST_TIMEOUT") && text.contains("\"request_id\"");
        assert!(status != 408 || is_explained, "{attack:?}: {text}");
        // A request that is hidden in the body of another is not handled.
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{attack:?}: {text}");
    }
    assert_eq!(broker.stats().await.body["allocated"], 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
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
async fn a_half_closed_connection_is_answered_and_an_incomplete_request_does_nothing() {
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
    eventually("their connections are closed", async || has_few_connections(&broker).await.then_some(())).await;
    assert_eq!(broker.stats().await.body["allocated"], 1, "half a request allocates nothing");
    assert_unharmed(&broker);
}

#[tokio::test]
async fn thousands_of_idle_connections_are_kept_and_some_are_closed_near_the_limit() {
    let broker = Broker::start(&[&SETTINGS[..], &[BEHIND_A_PROXY]].concat()).await;
    broker.sync("").await;
    let (before, _) = broker.process.resident_kib();
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(one_request(connect(broker.address).await.unwrap()).await);
    }
    let (now, _) = broker.process.resident_kib();
    assert!(now <= MAX_RESIDENT_KIB, "{before} KiB grew to {now}");
    assert_eq!(broker.allocate("good").await.status, 201);
    eventually("idle connections are closed", async || (cuts(&broker, "idle").await > 0.0).then_some(())).await;
    eventually("the number of connections is below the threshold", async || {
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
async fn connections_beyond_the_limit_of_open_files_are_refused_with_an_answer() {
    let broker = small_broker(&[BEHIND_A_PROXY]).await;
    broker.sync("").await;
    // The good client has one connection; the others take all files that clients may use.
    assert_eq!(broker.allocate("good").await.status, 201);
    // The broker closes silent connections after a while, so this replaces them until one is refused.
    let mut others = Vec::new();
    let text = eventually("a connection is refused", async || {
        while broker.metric("broker_connections ", "").await < 128.0 {
            others.push(connect(broker.address).await.unwrap());
        }
        let one_more = until_closed(connect(broker.address).await.unwrap(), CLOSING_REQUEST, b"");
        let answer = timeout(Duration::from_secs(3), one_more).await.ok()?.ok()?;
        Some(String::from_utf8(answer).unwrap()).filter(|answer| answer.starts_with("HTTP/1.1 503"))
    })
    .await;
    assert!(text.contains("TOO_MANY_CONNECTIONS"), "{text}");
    assert!(text.contains("retry-after: ") && text.contains("\"request_id\""), "{text}");
    // A replica that is full does not look dead.
    while broker.metric("broker_connections ", "").await < 128.0 {
        others.push(connect(broker.address).await.unwrap());
    }
    assert_eq!(status_of(&until_closed(connect(broker.address).await.unwrap(), REQUEST, b"").await.unwrap()), 200);
    // The other half of the files is reserved: the broker can still open connections to the CSP.
    assert_eq!(broker.sync("").await.status, 200);
    assert!(cuts(&broker, "too_many").await > 0.0);
    // Silent connections are closed after a while and make room.
    eventually("a connection is accepted", async || {
        let stream = connect(broker.address).await.ok()?;
        let answer = until_closed(stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"");
        (status_of(&answer.await.ok()?) == 200).then_some(())
    })
    .await;
    assert_unharmed(&broker);
}

#[tokio::test]
async fn one_address_cannot_take_the_last_quarter_of_the_connections() {
    let broker = small_broker(&[]).await;
    broker.sync("").await;
    let attacker = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        socket.connect(broker.address).await.unwrap()
    };
    // Of 128 connections 96 are three quarters.
    let mut held = Vec::new();
    eventually("the attacker is refused", async || {
        while held.len() < 200 {
            held.push(attacker().await);
        }
        held.retain(|stream: &TcpStream| stream.try_read(&mut [0]).is_err_and(|error| error.kind() == WouldBlock));
        (cuts(&broker, "too_many").await > 0.0).then_some(())
    })
    .await;
    for number in 0..20 {
        let stream = connect(broker.address).await.unwrap();
        let answer = until_closed(stream, CLOSING_REQUEST, b"").await.unwrap();
        assert_eq!(status_of(&answer), 200, "connection {number} of another address");
    }
    assert!(broker.metric("broker_connections ", "").await < 128.0);
    assert_unharmed(&broker);
}
