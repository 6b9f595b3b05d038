//! Invalid requests get the specified status and an error of the one form.

use reqwest::Method;
use reqwest::header::HeaderValue;

use sandbox_broker::config::DEVELOPMENT_TOKEN;
use test_support::{Answer, TestApp, assert_error, read_answer, send, test_settings};

#[actix_web::test]
async fn tokens() {
    let app = TestApp::start_empty(&[]).await;
    let bare = |path: &'static str| app.request(Method::POST, path).header("X-Track-ID", "t");
    for (path, authorization, status, code) in [
        ("/v1/allocate", None, 401, "UNAUTHORIZED"),
        ("/v1/allocate", Some("Bearer wrong"), 401, "UNAUTHORIZED"),
        ("/v1/allocate", Some("Bearer"), 401, "UNAUTHORIZED"),
        ("/v1/allocate", Some("Bearer "), 401, "UNAUTHORIZED"),
        ("/v1/allocate", Some("Basic ZGV2OmRldg=="), 401, "UNAUTHORIZED"),
        ("/v1/allocate", Some("Bearer development-admin-token"), 403, "FORBIDDEN"),
        ("/v1/admin/sync", None, 401, "UNAUTHORIZED"),
        ("/v1/admin/sync", Some("Bearer wrong"), 401, "UNAUTHORIZED"),
        ("/v1/admin/sync", Some("Bearer development-track-token"), 403, "FORBIDDEN"),
    ] {
        let request = authorization.iter().fold(bare(path), |request, value| request.header("Authorization", *value));
        let answer = send(request).await;
        assert_error(&answer, status, code);
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401, "{answer:?}");
    }
}

#[actix_web::test]
async fn several_tokens_are_valid_at_once() {
    let secrets = [("BROKER_API_TOKEN", "old-token, new-token"), ("BROKER_ADMIN_TOKEN", "one,two")];
    let app = TestApp::run(test_settings(&[], &secrets)).await;
    for token in ["old-token", "new-token"] {
        let request = app.request(Method::GET, "/v1/sandboxes/1").bearer_auth(token).header("X-Track-ID", "t");
        assert_error(&send(request).await, 404, "SANDBOX_NOT_FOUND");
    }
    let request = app.request(Method::GET, "/v1/sandboxes/1").bearer_auth(DEVELOPMENT_TOKEN).header("X-Track-ID", "t");
    assert_error(&send(request).await, 401, "UNAUTHORIZED");
}

#[actix_web::test]
async fn header_values() {
    let app = TestApp::start(&[]).await;
    let long = "x".repeat(257);
    let bad_texts = [&b"\xff"[..], b"tab\there", b"\xc2\x85", long.as_bytes()];
    let bad_ids = [&b"caf\xc3\xa9"[..]].into_iter().chain(bad_texts);
    let bad_values = |name| match name {
        "X-Instruqt-Track-ID" | "X-Sandbox-Name-Prefix" => bad_texts.to_vec(),
        _ => bad_ids.clone().collect(),
    };
    let names = ["X-Instruqt-Sandbox-ID", "X-Instruqt-Track-ID", "Idempotency-Key", "X-Sandbox-Name-Prefix"];
    for name in names {
        for value in bad_values(name) {
            let request =
                app.track(Method::POST, "/v1/allocate", "t").header(name, HeaderValue::from_bytes(value).unwrap());
            let answer = send(request).await;
            assert_error(&answer, 400, "BAD_HEADER");
            assert!(answer.body["error"]["message"].as_str().unwrap().contains(name), "{answer:?}");
        }
    }
    let longest = "x".repeat(256);
    assert_eq!(app.allocate(&longest).await.status, 201, "256 characters are allowed");
    let twice = app.track(Method::POST, "/v1/allocate", "one").header("X-Track-ID", "two");
    assert_error(&send(twice).await, 400, "BAD_HEADER");
}

#[actix_web::test]
async fn no_track_header() {
    let app = TestApp::start_empty(&[]).await;
    for (method, path) in [
        (Method::POST, "/v1/allocate"),
        (Method::GET, "/v1/sandboxes/1"),
        (Method::POST, "/v1/sandboxes/1/renew"),
        (Method::POST, "/v1/sandboxes/1/mark-for-deletion"),
    ] {
        let answer = send(app.request(method, path).bearer_auth(DEVELOPMENT_TOKEN)).await;
        assert_error(&answer, 400, "MISSING_HEADER");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("X-Track-ID") && message.contains("X-Instruqt-Sandbox-ID"), "{message}");
    }
}

#[actix_web::test]
async fn routes_and_methods() {
    let app = TestApp::start_empty(&[]).await;
    for path in ["/nope", "/v1", "/v1/nope", "/v1/admin/nope", "/v1/sandboxes", "/healthz/x", "/%ff", "//"] {
        assert_error(&app.get(path).await, 404, "NOT_FOUND");
    }
    let wrong = [
        (app.track(Method::GET, "/v1/allocate", "t"), "POST"),
        (app.track(Method::DELETE, "/v1/sandboxes/1", "t"), "GET, HEAD"),
        (app.admin(Method::GET, "/v1/admin/sync"), "POST"),
        (app.request(Method::PUT, "/healthz"), "GET, HEAD"),
        (app.request(Method::from_bytes(b"BREW").unwrap(), "/"), "GET, HEAD"),
    ];
    for (request, allowed) in wrong {
        let answer = send(request).await;
        assert_error(&answer, 405, "METHOD_NOT_ALLOWED");
        assert_eq!(answer.headers["allow"], allowed);
    }
}

#[actix_web::test]
async fn queries_and_bodies() {
    let app = TestApp::start_empty(&[]).await;
    for query in ["limit=0", "limit=101", "limit=x", "limit=-1", "status=lost", "nonsense=1"] {
        assert_error(&app.get_admin(&format!("/v1/admin/sandboxes?{query}")).await, 400, "BAD_QUERY");
    }
    for cursor in ["x", "available.!", "available.AAAA", "stale.MA", "%F0%9F%A6%80", "deleted."] {
        let path = format!("/v1/admin/sandboxes?status=available&cursor={cursor}");
        assert_error(&app.get_admin(&path).await, 400, "BAD_CURSOR");
    }
    for path in ["sync?force=perhaps", "sync?dryrun=true", "bulk-delete", "bulk-delete?status=available", "cleanup?x=1"]
    {
        assert_error(&app.post_admin(&format!("/v1/admin/{path}")).await, 400, "BAD_QUERY");
    }
    for hours in ["-1", "NaN", "1e99", "x"] {
        let path = format!("/v1/admin/auto-delete-stale?grace_period_hours={hours}");
        assert_error(&app.post_admin(&path).await, 400, "BAD_QUERY");
    }
    for body in ["", "{", "[]", r#"{"reason":""}"#, r#"{"reason":5}"#, r#"{"because":"x"}"#] {
        let request = app.admin(Method::POST, "/v1/admin/actors/cleanup/pause").body(body);
        assert_error(&send(request).await, 400, "BAD_BODY");
    }
    assert_error(&app.post_admin("/v1/admin/actors/nobody/run").await, 404, "ACTOR_NOT_FOUND");
}

#[actix_web::test]
async fn large_bodies() {
    let app = TestApp::start(&[]).await;
    let large = vec![b'x'; 10 * 1024 * 1024];
    for path in ["/v1/allocate", "/v1/sandboxes/1/mark-for-deletion"] {
        let answer = send(app.track(Method::POST, path, "t").body(large.clone())).await;
        assert_error(&answer, 413, "BODY_TOO_LARGE");
    }
    assert_error(&send(app.admin(Method::POST, "/v1/admin/sync").body(large.clone())).await, 413, "BODY_TOO_LARGE");
    // A body without a length in advance is refused when it gets too large.
    let answer = raw(&app, &chunked(200 * 1024)).await;
    assert_error(&answer, 413, "BODY_TOO_LARGE");
    assert_eq!(app.stats().await.body["allocated"], 0, "nothing was allocated by any of these");
}

fn chunked(length: usize) -> Vec<u8> {
    let mut request = format!(
        "POST /v1/allocate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DEVELOPMENT_TOKEN}\r\n\
         X-Track-ID: t\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{length:x}\r\n"
    )
    .into_bytes();
    request.extend(std::iter::repeat_n(b'x', length));
    request.extend(b"\r\n0\r\n\r\n");
    request
}

/// Sends these bytes and reads one answer.
async fn raw(app: &TestApp, bytes: &[u8]) -> Answer {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
    // The server may answer before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = http::Response::builder().status(status);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        response = response.header(name, value);
    }
    read_answer(response.body(body.to_owned()).unwrap().into()).await
}
