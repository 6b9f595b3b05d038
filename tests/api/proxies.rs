//! Proxies on both sides: those that the environment names for outgoing calls, and those in front of the broker.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::Value;
use test_support::{
    ADMIN_TOKEN, Broker, CspSim, DynamoServer, TRACK_TOKEN, TestApp, assert_error, eventually, output_of, program, send,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A proxy that refuses everything, and the first lines of what it is asked.
fn refusing_proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes[..length]);
            kept.lock().unwrap().push(text.lines().next().unwrap_or_default().to_owned());
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        }
    });
    (url, asked)
}

const PROXY_VARIABLES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Every outgoing call: the simulator inside the process, a CSP, DynamoDB and a collector on this machine, `ctl`, the
/// health check.
#[actix_web::test]
async fn no_call_to_this_machine_goes_through_the_proxy_of_the_environment() {
    let (proxy, asked) = refusing_proxy();
    let through = PROXY_VARIABLES.map(|name| (name, proxy.as_str()));

    let simulated = Broker::start(&[&through[..], &[("BROKER_STORE", "memory")]].concat()).await;
    assert_eq!(simulated.sync("").await.status, 200);
    assert_eq!(simulated.allocate("student-1").await.status, 201);

    let (server, csp) = (DynamoServer::start().await, CspSim::start(2).await);
    let exported = Arc::new(Mutex::new(0));
    let collector = collector(&exported);
    for host in ["127.0.0.1", "localhost"] {
        let url = |url: &str| url.replace("127.0.0.1", host);
        let (table, tenant, spans) = (url(&server.url), url(&csp.url), url(&collector));
        let settings = [
            ("DDB_ENDPOINT_URL", table.as_str()),
            ("CSP_BASE_URL", &tenant),
            ("CSP_API_TOKEN", CspSim::TOKEN),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &spans),
        ];
        let mut broker = Broker::start(&[&through[..], &settings].concat()).await;
        assert_eq!(broker.sync("").await.status, 200);
        assert_eq!(broker.allocate(host).await.status, 201);
        let url = format!("http://{host}:{}", broker.address.port());
        let mut ctl = program(&["ctl", "stats"]);
        ctl.envs(through).envs([("BROKER_URL", url.as_str()), ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN)]);
        let counted = output_of(ctl).await;
        assert!(counted.status.success(), "{counted:?}");
        let mut check = program(&["healthcheck"]);
        check.envs(through).env("BROKER_PORT", broker.address.port().to_string());
        assert!(output_of(check).await.status.success());
        let mut table = program(&["table", "check"]);
        table.envs(through).envs(settings);
        assert!(output_of(table).await.status.success());
        // The end sends the last spans.
        assert!(broker.process.terminate().await.success());
    }
    assert!(*exported.lock().unwrap() > 0, "no spans arrived");
    assert_eq!(*asked.lock().unwrap(), [""; 0]);
}

/// A collector of traces that counts what it gets.
fn collector(exported: &Arc<Mutex<u64>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let exported = Arc::clone(exported);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut bytes = [0; 1 << 16];
            if stream.read(&mut bytes).is_ok_and(|length| bytes[..length].starts_with(b"POST /v1/traces ")) {
                *exported.lock().unwrap() += 1;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        }
    });
    url
}

#[actix_web::test]
async fn calls_to_other_machines_go_through_the_proxy_of_the_environment() {
    let (proxy, asked) = refusing_proxy();
    let settings = [
        ("BROKER_STORE", "memory"),
        ("CSP_MODE", "http"),
        ("CSP_BASE_URL", "https://csp.invalid"),
        ("CSP_API_TOKEN", "t"),
        ("HTTPS_PROXY", proxy.as_str()),
    ];
    let broker = Broker::start(&settings).await;
    assert_eq!(broker.sync("").await.status, 502);
    assert!(asked.lock().unwrap().iter().any(|line| line.starts_with("CONNECT csp.invalid:443")), "{asked:?}");
}

/// Each form names another client, so none shares a bucket with another, and each shares it with its other forms.
#[actix_web::test]
async fn an_address_counts_in_every_form_in_which_a_proxy_forwards_it() {
    let app = TestApp::start_empty(&["--rate-limit-rps=1", "--rate-limit-burst=1000", "--trusted-proxies=1"]).await;
    let remaining = async |forwarded: &str| {
        let guess = app.request(Method::GET, "/v1/sandboxes/1").bearer_auth("guess");
        let answer = send(guess.header("X-Forwarded-For", forwarded)).await;
        answer.headers["x-ratelimit-remaining"].to_str().unwrap().parse::<u32>().unwrap()
    };
    let v4 = [
        "198.51.100.7",
        "198.51.100.7:40123",
        "\"198.51.100.7:40124\"",
        "::ffff:198.51.100.7",
        "[::ffff:198.51.100.7]:1",
    ];
    let v6 = ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:40123", "\"[2001:db8::1]:40124\"", "2001:db8::1%eth0"];
    for forms in [v4, v6] {
        let mut before = remaining(forms[0]).await;
        assert_eq!(before, 999, "{}: a bucket of its own", forms[0]);
        for form in &forms[1..] {
            let after = remaining(form).await;
            // The bucket refills by one a second.
            assert!(after < 999 && after <= before, "{form}: {after} after {before}");
            before = after;
        }
    }
    assert_eq!(remaining("203.0.113.9:1").await, 999, "another client has another bucket");
}

/// Sends these bytes and reads to the end of the connection.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The broker may answer before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// nginx, as it is by default, sends a POST without a body so.
#[actix_web::test]
async fn a_post_in_http_1_0_without_a_length_is_one_without_a_body() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    broker.sync("").await;
    let head = |name: &str| format!("Host: b\r\nAuthorization: Bearer {TRACK_TOKEN}\r\nX-Track-ID: {name}\r\n");
    for (name, connection) in [("one", "Connection: close\r\n"), ("two", "")] {
        let request = format!("POST /v1/allocate HTTP/1.0\r\n{connection}{}\r\n", head(name));
        let answer = raw(broker.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 201 Created\r\n"), "{answer}");
        assert_eq!(broker.allocate(name).await.status, 200, "it holds what it was given");
    }
    // With a length, and byte by byte.
    let body = "{\"reason\":\"test\"}";
    let path = "/v1/admin/actors/cleanup/pause";
    let request = format!(
        "POST {path} HTTP/1.0\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(raw(broker.address, request.as_bytes()).await.contains(" 200 OK\r\n"));
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in format!("POST /v1/allocate HTTP/1.0\r\n{}\r\n", head("three")).bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 201 Created\r\n"), "{answer}");
    eventually("each is logged", async || {
        let log = broker.log();
        let lines =
            log.lines().filter(|line| line.contains("\"action\":\"allocate\"") && line.contains("\"status\":201"));
        (lines.count() == 3).then_some(())
    })
    .await;
}

/// Everything that the parser refuses.
#[actix_web::test]
async fn what_is_not_http_gets_an_error_of_the_one_form_a_log_line_and_a_metric() {
    let broker = Broker::start(&[("BROKER_STORE", "memory"), ("COMPAT_ERROR_DETAIL", "true")]).await;
    let requests: Vec<Vec<u8>> = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1 extra\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n(): b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "\u{16}\u{3}\u{1} hello\r\n\r\n",
        // After requests that were answered on the same connection.
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/9.9\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for (number, request) in (1..).zip(&requests) {
        let answers = raw(broker.address, request).await;
        let what = String::from_utf8_lossy(request);
        let start = answers.rfind("HTTP/1.").unwrap_or_else(|| panic!("no answer to {what}"));
        let (head, body) = answers[start..].split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 400 Bad Request"), "{what}: {head}");
        let header = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("{what}: no {name} in {head}"))
        };
        assert_eq!((header("connection"), header("x-content-type-options")), ("close", "nosniff"));
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{what}: {error} in {body}"));
        assert_eq!((&body["error"]["code"], &body["detail"]), (&"BAD_REQUEST".into(), &body["error"]), "{what}");
        let id = header("x-request-id");
        assert_eq!(body["error"]["request_id"], id);
        eventually("it is logged", async || {
            let log = broker.log();
            let line = log.lines().find(|line| line.contains(id))?;
            let line: Value = serde_json::from_str(line).unwrap();
            (line["event"] == "request" && line["status"] == 400 && line["action"] == "malformed").then_some(())
        })
        .await;
        let counted = broker.metric("broker_connections_cut_total", "reason=\"malformed\"").await;
        assert_eq!(counted, f64::from(number), "{what}");
    }
    assert_error(&broker.get("/nope").await, 404, "NOT_FOUND");
}
