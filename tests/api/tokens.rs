//! Named tokens with their bounds, the roles of the admin API, and secrets in files.

use std::io::Write as _;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use test_support::{
    ADMIN_TOKEN, Answer, ApiClient, Broker, CspSim, TestApp, assert_error, eventually, program, send, test_settings,
};

/// A token and its entry, made by the program.
fn new_token(arguments: &[&str]) -> (String, Value) {
    let output = program(&["token", "new"]).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let token = text.lines().find(|line| line.starts_with("sbt_")).expect("it prints the token").to_owned();
    let entry: Value = serde_json::from_str(text.lines().last().unwrap()).expect("it prints the entry");
    assert!(!entry.to_string().contains(&token), "the entry holds no token");
    (token, entry)
}

fn file_with(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

async fn allocate(broker: &ApiClient, token: &str, track: &str, headers: &[(&str, &str)]) -> Answer {
    let request = broker.request(Method::POST, "/v1/allocate").bearer_auth(token).header("X-Track-ID", track);
    send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

#[actix_web::test]
async fn a_named_token_allocates_within_its_bounds_and_shows_its_name() {
    let (token, entry) = new_token(&["--name", "event-7", "--lab", "aws-101", "--lab", "aws-102", "--prefix", "lab-"]);
    let file = file_with(&json!([entry]).to_string());
    let broker = Broker::start(&[("BROKER_STORE", "memory"), ("BROKER_TRACK_TOKENS_FILE", path(&file))]).await;
    broker.sync("").await;
    let (lab, prefix) = (("X-Instruqt-Track-ID", "aws-102"), ("X-Sandbox-Name-Prefix", "lab-0"));
    let allocated = allocate(&broker, &token, "student-1", &[lab, prefix]).await;
    assert_eq!(allocated.status, 201, "{allocated:?}");
    for headers in
        [&[lab][..], &[prefix], &[lab, ("X-Sandbox-Name-Prefix", "la")], &[("X-Instruqt-Track-ID", "aws-103"), prefix]]
    {
        assert_error(&allocate(&broker, &token, "student-2", headers).await, 403, "FORBIDDEN");
    }
    assert_eq!(broker.allocate("student-3").await.status, 201, "the token of BROKER_API_TOKEN has no bounds");

    let is_written = |log: &String| log.contains("student-3");
    let log = eventually("the requests are in the log", async || Some(broker.log()).filter(is_written)).await;
    let line = |track: &str| log.lines().find(|line| line.contains(track)).unwrap_or_default();
    assert!(line("student-1").contains(r#""token":"event-7""#), "{log}");
    assert!(line("student-3").contains(r#""token":"default""#), "{log}");
    assert!(!log.contains(&token));
    let count = async |label: &str| broker.metric("broker_token_requests_total", label).await;
    assert_eq!(count(r#"outcome="ok",token="event-7""#).await + count(r#"token="event-7",outcome="ok""#).await, 1.0);
}

#[actix_web::test]
async fn a_quota_limits_new_allocations_and_no_replays() {
    let (token, entry) = new_token(&["--name", "small", "--new-per-minute", "2"]);
    let tokens = json!([entry]).to_string();
    let secrets = [("BROKER_TRACK_TOKENS", &*tokens), ("BROKER_API_TOKEN", "development-track-token")];
    let app = TestApp::run(test_settings(&[], &secrets)).await;
    app.sync("").await;
    for track in ["one", "two"] {
        assert_eq!(allocate(&app, &token, track, &[]).await.status, 201);
        for _ in 0..5 {
            assert_eq!(allocate(&app, &token, track, &[]).await.status, 200, "a replay");
        }
    }
    let over = allocate(&app, &token, "three", &[]).await;
    assert_error(&over, 429, "QUOTA_EXCEEDED");
    assert_eq!(over.body["error"]["details"]["new_per_minute"], 2);
    assert_eq!(allocate(&app, &token, "one", &[]).await.status, 200, "a replay after the quota is used up");
    assert_eq!(app.allocate("three").await.status, 201, "another token has its own");
}

#[actix_web::test]
async fn the_token_without_a_name_has_a_quota_too() {
    let app = TestApp::start(&["--broker-new-per-minute=1"]).await;
    assert_eq!(app.allocate("one").await.status, 201);
    assert_error(&app.allocate("two").await, 429, "QUOTA_EXCEEDED");
}

#[actix_web::test]
async fn an_expired_token_is_unknown() {
    let (token, entry) = new_token(&["--name", "past", "--expires-at", "2001-01-01T00:00:00Z"]);
    let app = TestApp::run(test_settings(&[], &[("BROKER_TRACK_TOKENS", &json!([entry]).to_string())])).await;
    assert_error(&allocate(&app, &token, "student", &[]).await, 401, "UNAUTHORIZED");
}

#[actix_web::test]
async fn a_file_of_tokens_is_read_again_and_a_broken_one_changes_nothing() {
    let [(first, one), (second, two)] = [new_token(&["--name", "one"]), new_token(&["--name", "two"])];
    let file = file_with(&json!([one]).to_string());
    let broker = Broker::start(&[("BROKER_STORE", "memory"), ("BROKER_TRACK_TOKENS_FILE", path(&file))]).await;
    let is_known = async |token: &str| {
        let read = broker.request(Method::GET, "/v1/sandboxes/1").bearer_auth(token).header("X-Track-ID", "student");
        send(read).await.status == 404
    };
    assert!(is_known(&first).await && !is_known(&second).await);

    std::fs::write(file.path(), "[{").unwrap();
    broker.process.signal("-HUP");
    eventually("the problem is in the log", async || broker.log().contains("tokens_not_read").then_some(())).await;
    assert!(is_known(&first).await);

    std::fs::write(file.path(), json!([two]).to_string()).unwrap();
    broker.process.signal("-HUP");
    eventually("the new token is known", async || is_known(&second).await.then_some(())).await;
    assert!(!is_known(&first).await, "a token that was taken out of the file is no longer accepted");
}

#[actix_web::test]
async fn each_secret_may_come_from_a_file() {
    let csp = CspSim::start(3).await;
    let tokens = [CspSim::TOKEN, "track-token-from-a-file-with-characters", "admin-token-from-a-file-with-characters"];
    let files = tokens.map(|token| file_with(&format!("{token}\n")));
    let mut command = program(&[]);
    command.env_remove("BROKER_API_TOKEN").env_remove("BROKER_ADMIN_TOKEN").envs([
        ("BROKER_STORE", "memory"),
        ("CSP_MODE", "http"),
        ("CSP_BASE_URL", &csp.url),
        ("CSP_API_TOKEN_FILE", path(&files[0])),
        ("BROKER_API_TOKEN_FILE", path(&files[1])),
        ("BROKER_ADMIN_TOKEN_FILE", path(&files[2])),
    ]);
    let broker = Broker::run(&mut command).await;
    let client = ApiClient::new(broker.address, tokens[1], tokens[2]);
    assert_eq!(client.sync("").await.body["synced"], 3);
    assert_eq!(client.allocate("student").await.status, 201);
    let mut ctl = program(&["ctl", "stats", "--url", &format!("http://{}", broker.address)]);
    ctl.env_remove("BROKER_ADMIN_TOKEN").env("BROKER_ADMIN_TOKEN_FILE", path(&files[2]));
    let output = test_support::output_of(ctl).await;
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn no_secret_is_a_flag() {
    for arguments in [&["--help"][..], &["csp-sim", "--help"], &["ctl", "--help"]] {
        let output = program(arguments).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
        let secret = flags.into_iter().find(|flag| flag.contains("token") && !flag.contains("rate-limit"));
        assert!(secret.is_none(), "{secret:?} in {help}");
        assert!(!help.contains(ADMIN_TOKEN));
    }
}

#[actix_web::test]
async fn a_viewer_reads_and_changes_nothing() {
    let secrets = [("BROKER_VIEWER_TOKEN", "viewer"), ("BROKER_ADMIN_TOKEN", "development-admin-token")];
    let app = TestApp::run(test_settings(&[], &secrets)).await;
    let viewer = async |method, path| send(app.request(method, path).bearer_auth("viewer")).await;
    for path in ["/v1/admin/stats", "/v1/admin/sandboxes", "/v1/admin/actors", "/v1/admin/whoami"] {
        assert_eq!(viewer(Method::GET, path).await.status, 200, "{path}");
    }
    for path in ["/v1/admin/sync", "/v1/admin/actors/cleanup/pause", "/v1/admin/sandboxes/1/release"] {
        assert_error(&viewer(Method::POST, path).await, 403, "FORBIDDEN");
    }
    assert_error(&viewer(Method::GET, "/v1/sandboxes/1").await, 403, "FORBIDDEN");
    assert_eq!(viewer(Method::GET, "/v1/admin/whoami").await.body, json!({ "token": "viewer", "role": "viewer" }));
    assert_eq!(app.get_admin("/v1/admin/whoami").await.body, json!({ "token": "admin", "role": "admin" }));
}
