//! The lifecycle scripts of examples/instruqt, with fakes of Instruqt's `agent` and of `sleep`.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use reqwest::Method;
use sandbox_broker::config::DEVELOPMENT_TOKEN;
use tempfile::TempDir;
use test_support::{ApiClient, TestApp, assert_error, output_of, send};
use tokio::time::Instant;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/instruqt/track_scripts");

/// A fake `agent` that keeps each variable in a file.
const AGENT: &str = r#"#!/usr/bin/env bash
set -euo pipefail
case "$1 $2" in
  "variable set") printf '%s' "$4" > "$HOME/variable-$3" ;;
  "variable get") cat "$HOME/variable-$3" ;;
  *) exit 2 ;;
esac
"#;

/// A fake `sleep` that records its argument.
const SLEEP: &str = "#!/usr/bin/env bash\necho \"$1\" >> \"$HOME/slept\"\n";

/// A host on which the scripts run.
struct Host {
    home: TempDir,
    url: String,
}

impl Host {
    fn new(url: &str) -> Self {
        let home = TempDir::new().unwrap();
        for (name, script) in [("agent", AGENT), ("sleep", SLEEP)] {
            let path = home.path().join(name);
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { home, url: url.to_owned() }
    }

    fn of(app: &ApiClient) -> Self {
        Self::new(&format!("http://{}", app.address))
    }

    async fn run(&self, script: &str, settings: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.home.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(Path::new(SCRIPTS).join(script));
        command.env_clear().envs([
            ("PATH", path.as_str()),
            ("HOME", self.home.path().to_str().unwrap()),
            ("BROKER_URL", &self.url),
            ("BROKER_API_TOKEN", DEVELOPMENT_TOKEN),
            ("INSTRUQT_PARTICIPANT_ID", "participant-1"),
            ("INSTRUQT_TRACK_SLUG", "first-steps"),
        ]);
        command.envs(settings.iter().copied());
        output_of(command).await
    }

    async fn setup(&self) -> Output {
        self.run("setup-workstation", &[]).await
    }

    async fn cleanup(&self) -> Output {
        self.run("cleanup-workstation", &[]).await
    }

    fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.home.path().join(name)).ok()
    }

    fn slept(&self) -> Vec<u64> {
        self.file("slept").unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// A server that sends these answers, one to each connection, and then stops. Returns its URL.
fn serve(answers: &'static [&'static str]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"POST /v1/"));
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    url
}

#[actix_web::test]
async fn setup_allocates_a_sandbox_and_cleanup_releases_it() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    assert_success(&host.setup().await);
    let id = host.file("variable-SANDBOX_ID").unwrap();
    let found = app.get_admin("/v1/admin/sandboxes?status=allocated").await;
    let sandbox = &found.body["sandboxes"][0];
    assert_eq!(sandbox["sandbox_id"], *id);
    assert_eq!(sandbox["allocated_to_track"], "participant-1");
    assert_eq!(sandbox["track_name"], "first-steps");
    assert_eq!(sandbox["name"], *host.file("variable-SANDBOX_NAME").unwrap());
    assert_eq!(sandbox["external_id"], *host.file("variable-SANDBOX_EXTERNAL_ID").unwrap());
    assert_eq!(sandbox["expires_at"].to_string(), host.file("variable-SANDBOX_EXPIRES_AT").unwrap());

    assert_error(&app.read(&id, "participant-1").await, 403, "NOT_SANDBOX_OWNER");
    let secret = host.file("variable-SANDBOX_SECRET").expect("the script keeps its secret");
    let read =
        app.track(Method::GET, &format!("/v1/sandboxes/{id}"), "participant-1").header("X-Track-Secret", &secret);
    assert_eq!((send(read).await.status.as_u16(), secret.len()), (200, 64));

    assert_success(&host.setup().await);
    assert_eq!(
        host.file("variable-SANDBOX_ID").unwrap(),
        id,
        "a second setup of the same participant keeps the sandbox"
    );
    assert_eq!(app.stats().await.body["allocated"], 1);

    assert_success(&host.cleanup().await);
    assert_eq!(app.stats().await.body["pending_deletion"], 1);
    assert_success(&host.cleanup().await);
    app.post_admin("/v1/admin/cleanup").await;
    assert_success(&host.cleanup().await);
    assert!(host.slept().is_empty());
}

#[actix_web::test]
async fn setup_passes_the_name_prefix() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    assert_success(&host.run("setup-workstation", &[("BROKER_NAME_PREFIX", "lab-0003")]).await);
    assert!(host.file("variable-SANDBOX_NAME").unwrap().starts_with("lab-0003"));
}

#[actix_web::test]
async fn cleanup_without_a_setup_has_nothing_to_do() {
    let app = TestApp::start(&[]).await;
    assert_success(&Host::of(&app).cleanup().await);
    assert_eq!(app.stats().await.body["pending_deletion"], 0);
}

#[actix_web::test]
async fn setup_waits_for_retry_after_until_it_gets_a_sandbox() {
    let host = Host::new(&serve(&[
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 409 Conflict\r\nretry-after: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "",
        "HTTP/1.1 201 Created\r\nContent-Length: 77\r\nConnection: close\r\n\r\n{\"sandbox_id\":",
        "HTTP/1.1 201 Created\r\nContent-Length: 77\r\nConnection: close\r\n\r\n\
         {\"sandbox_id\":\"7\",\"name\":\"a \\\"b\\\"\",\"external_id\":\"e\",\"expires_at\":1795481385}",
    ]));
    assert_success(&host.setup().await);
    let slept = host.slept();
    assert_eq!(slept.len(), 4);
    for (slept, least) in slept.iter().zip([7, 60, 5, 5]) {
        assert!((least..=least + 2).contains(slept), "slept {slept} s, not {least} s to {} s", least + 2);
    }
    assert_eq!(host.file("variable-SANDBOX_ID").unwrap(), "7");
    assert_eq!(host.file("variable-SANDBOX_NAME").unwrap(), r#"a \"b\""#);
}

#[actix_web::test]
async fn setup_fails_after_its_timeout() {
    let app = TestApp::start(&["--csp-sim-sandboxes=0"]).await;
    let host = Host::of(&app);
    let output = host.run("setup-workstation", &[("BROKER_PATIENCE_SEC", "20")]).await;
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("NO_SANDBOXES_AVAILABLE") && message.contains("no sandbox after"), "{message}");
    let slept: u64 = host.slept().iter().sum();
    assert!((10..=20).contains(&slept), "{slept}");
    assert!(host.file("variable-SANDBOX_ID").is_none());
}

#[actix_web::test]
async fn a_wrong_token_ends_both_scripts_at_once_and_is_not_printed() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    assert_success(&host.setup().await);
    for script in ["setup-workstation", "cleanup-workstation"] {
        let output = host.run(script, &[("BROKER_API_TOKEN", "wrong-token")]).await;
        assert!(!output.status.success());
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(printed.contains("401") && printed.contains("UNAUTHORIZED"), "{printed}");
        assert!(!printed.contains("wrong-token"), "{printed}");
    }
    assert!(host.slept().is_empty());
}

#[actix_web::test]
async fn a_missing_variable_is_named() {
    let host = Host::new("http://127.0.0.1:9");
    for script in ["setup-workstation", "cleanup-workstation"] {
        for name in ["BROKER_URL", "BROKER_API_TOKEN", "INSTRUQT_PARTICIPANT_ID"] {
            let output = host.run(script, &[(name, "")]).await;
            assert!(!output.status.success());
            assert!(String::from_utf8(output.stderr).unwrap().contains(name));
        }
    }
}

#[actix_web::test]
async fn cleanup_waits_for_retry_after_and_retries() {
    let host = Host::new(&serve(&[
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ]));
    std::fs::write(host.home.path().join("variable-SANDBOX_ID"), "7").unwrap();
    let started = Instant::now();
    assert_success(&host.cleanup().await);
    assert!(started.elapsed() >= Duration::from_secs(4), "curl by itself retries after one second");
}

#[actix_web::test]
async fn cleanup_does_not_release_another_students_sandbox() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("participant-2").await.sandbox_id().to_owned();
    let host = Host::of(&app);
    std::fs::write(host.home.path().join("variable-SANDBOX_ID"), &id).unwrap();
    let output = host.cleanup().await;
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("NOT_SANDBOX_OWNER"));
    assert_eq!(app.read(&id, "participant-2").await.body["status"], "allocated");
}
