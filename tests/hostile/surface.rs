//! What a stranger reaches: one spelling of each path, the operators' port, and a log that no one reads.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use test_support::attacks::{connect, until_closed};
use test_support::{ADMIN_TOKEN, ApiClient, Broker, TRACK_TOKEN, assert_error, eventually, listening_address, program};

/// Sends a request with exactly this path and returns the whole answer.
async fn raw(broker: &Broker, path: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n");
    let answer = until_closed(connect(broker.address).await.unwrap(), request.as_bytes(), b"").await;
    String::from_utf8(answer.unwrap()).unwrap()
}

#[tokio::test]
async fn a_filter_by_path_cannot_be_passed_by_another_spelling() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    assert!(raw(&broker, "/v1/admin/actors").await.starts_with("HTTP/1.1 200"));
    for path in [
        "/v1/%61dmin/actors",
        "/v1/%61%64%6D%69%6e/actors",
        "//v1/admin/actors",
        "/v1//admin/actors",
        "/v1/./admin/actors",
        "/v1/docs/../admin/actors",
        "/v1/docs/%2e%2E/admin/actors",
        "/./v1/admin/actors",
        "http://x/v1/%61dmin/actors",
    ] {
        let answer = raw(&broker, path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(answer.contains("NOT_FOUND") && answer.contains("the canonical path is /v1/admin/actors"), "{answer}");
    }
    // An encoded slash is no slash: what is behind it is one segment.
    let answer = raw(&broker, "/v1%2Fadmin/actors").await;
    assert!(answer.starts_with("HTTP/1.1 404") && !answer.contains("canonical"), "{answer}");
}

#[tokio::test]
async fn with_a_port_of_their_own_operators_are_served_there_only() {
    let broker = Broker::start(&[("BROKER_STORE", "memory"), ("BROKER_ADMIN_PORT", "0")]).await;
    let line = broker.log().lines().find(|line| line.contains("\"listening\"")).unwrap().to_owned();
    let line: Value = serde_json::from_str(&line).unwrap();
    let address = line["admin_address"].as_str().expect("it is in the log").parse().unwrap();
    let operators = ApiClient::new(address, TRACK_TOKEN, ADMIN_TOKEN);
    for path in ["/v1/admin/stats", "/v1/admin/actors", "/console", "/console/console.js", "/metrics"] {
        assert_error(&broker.get_admin(path).await, 404, "NOT_FOUND");
        assert_eq!(operators.get_admin(path).await.status, 200, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!((broker.get(path).await.status.as_u16(), operators.get(path).await.status.as_u16()), (200, 200));
    }
    eventually("a sync succeeds", async || (operators.sync("").await.status == 200).then_some(())).await;
    assert_error(&operators.allocate("student").await, 404, "NOT_FOUND");
    assert_eq!(broker.allocate("student").await.status, 201);
    assert_eq!(broker.get("/v1/docs").await.status, 200);
}

/// A process that does not outlive a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_log_that_is_not_read_stops_nothing() {
    let mut command = program(&[]);
    command.env("BROKER_STORE", "memory").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut broker = Killed(command.spawn().unwrap());
    let mut output = BufReader::new(broker.0.stdout.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the broker has ended");
        if let Some(address) = listening_address(&line) {
            break address;
        }
    };
    // From here on no one reads. A pipe holds 64 KiB, which is less than the lines of 300 requests.
    let client = ApiClient::new(address, TRACK_TOKEN, ADMIN_TOKEN);
    client.wait_until_ready().await;
    for _ in 0..100 {
        let answers = join_all((0..100).map(async |_| client.read("1", "student").await)).await;
        assert!(answers.iter().all(|answer| answer.status == 404), "{:?}", answers[0]);
    }
    assert_eq!(client.get("/healthz").await.status, 200);
    assert!(client.metric("broker_log_lines_dropped_total", "").await > 0.0, "what is lost is counted");
    // It also ends while no one reads.
    let ended = tokio::task::spawn_blocking(move || {
        Command::new("kill").arg(broker.0.id().to_string()).status().unwrap();
        broker.0.wait().unwrap()
    });
    let ended = tokio::time::timeout(Duration::from_secs(40), ended).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended:?}");
    drop(output);
}
