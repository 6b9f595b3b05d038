//! The lifecycle scripts of examples/instruqt, with fakes of Instruqt's `agent` and of `sleep`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use reqwest::Method;
use sandbox_broker::config::DEVELOPMENT_TOKEN;
use tempfile::TempDir;
use test_support::{ApiClient, TestApp, assert_error, eventually, output_of, send};
use tokio::time::Instant;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/instruqt");

/// A fake `agent` that keeps each variable in a file.
const AGENT: &str = r#"#!/usr/bin/env bash
set -euo pipefail
case "$1 $2" in
  "variable set") printf '%s' "$4" > "$HOME/variable-$3" ;;
  "variable get") cat "$HOME/variable-$3" 2> /dev/null ;;
  *) exit 2 ;;
esac
"#;

/// A fake `sleep` that records its argument and takes a tenth of it.
const SLEEP: &str = "#!/usr/bin/env bash\necho \"$1\" >> \"$HOME/slept\"\nexec /bin/sleep \"0.$1\"\n";

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

    async fn run(&self, script: &str, argument: &[&str], settings: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.home.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(Path::new(EXAMPLES).join(script));
        command.args(argument).env_clear().envs([
            ("PATH", path.as_str()),
            ("HOME", self.home.path().to_str().unwrap()),
            ("BROKER_URL", &self.url),
            ("BROKER_API_TOKEN", DEVELOPMENT_TOKEN),
            ("BROKER_PATIENCE_SEC", "8"),
            ("INSTRUQT_PARTICIPANT_ID", "participant-1"),
            ("INSTRUQT_TRACK_SLUG", "first-steps"),
        ]);
        command.envs(settings.iter().copied());
        output_of(command).await
    }

    async fn client(&self, command: &str, settings: &[(&str, &str)]) -> Output {
        self.run("client.sh", &[command], settings).await
    }

    async fn setup(&self) -> Output {
        self.client("setup", &[]).await
    }

    async fn cleanup(&self) -> Output {
        self.client("cleanup", &[("BROKER_STRICT", "1")]).await
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

fn printed(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

/// A proxy in front of a broker. It answers the first requests with these faults itself, each with one, and passes on the
/// rest. `"reset"` closes the connection, `"broken"` passes the request on and breaks off the answer.
fn faulty(app: &ApiClient, faults: Vec<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, broker) = (format!("http://{}", listener.local_addr().unwrap()), app.address);
    std::thread::spawn(move || {
        let mut faults = faults.into_iter();
        while let Ok((mut client, _)) = listener.accept() {
            let mut request = [0; 8192];
            let read = client.read(&mut request).unwrap_or(0);
            let fault = faults.next();
            if let Some(answer) = fault.filter(|fault| *fault != "broken") {
                if answer != "reset" {
                    let _ = client.write_all(answer.as_bytes());
                }
                continue;
            }
            let mut server = TcpStream::connect(broker).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).replacen("\r\n", "\r\nConnection: close\r\n", 1);
            server.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            let _ = server.read_to_end(&mut answer);
            let length = if fault.is_some() { answer.len() - 20 } else { answer.len() };
            let _ = client.write_all(&answer[..length]);
        }
    });
    url
}

macro_rules! answer {
    ($status:literal, $headers:literal, $body:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\n", $headers, "Connection: close\r\n\r\n", $body)
    };
}

const HTML: &str = answer!("200 OK", "Content-Type: text/html\r\n", "<html>please log in</html>");
const MOVED: &str = answer!("301 Moved Permanently", "Location: https://elsewhere.example/\r\n", "");
const UNAUTHORIZED: &str = answer!("401 Unauthorized", "", "{}");
const FORBIDDEN: &str = answer!("403 Forbidden", "", "{}");
const NOT_FOUND: &str = answer!("404 Not Found", "", "<html>nothing here</html>");
const TIMEOUT: &str = answer!("408 Request Timeout", "", "{}");
const CONFLICT: &str =
    answer!("409 Conflict", "Retry-After: 1\r\n", "{\"error\":{\"code\":\"NO_SANDBOXES_AVAILABLE\"}}");
const TOO_MANY: &str = answer!("429 Too Many Requests", "Retry-After: 1\r\n", "{}");
const INTERNAL: &str = answer!("500 Internal Server Error", "", "{}");
const BAD_GATEWAY: &str = answer!("502 Bad Gateway", "", "<html>bad gateway</html>");
const UNAVAILABLE: &str = answer!("503 Service Unavailable", "Retry-After: 1\r\n", "{}");

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
    let secret = host.file("variable-BROKER_SECRET").expect("the script keeps its secret");
    let read =
        app.track(Method::GET, &format!("/v1/sandboxes/{id}"), "participant-1").header("X-Track-Secret", &secret);
    assert_eq!((send(read).await.status.as_u16(), secret.len()), (200, 64));

    assert_success(&host.setup().await);
    assert_eq!(host.file("variable-SANDBOX_ID").unwrap(), id, "a second setup keeps the sandbox");
    assert_success(&host.client("renew", &[]).await);
    assert_eq!(app.stats().await.body["allocated"], 1);

    assert_success(&host.cleanup().await);
    assert_eq!(app.stats().await.body["pending_deletion"], 1);
    let again = host.cleanup().await;
    assert_success(&again);
    assert!(printed(&again).contains("nothing to give back"));
    assert!(host.slept().is_empty());
}

#[actix_web::test]
async fn the_track_scripts_run_the_client_that_the_broker_serves() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    assert_success(&host.run("track_scripts/setup-workstation", &[], &[]).await);
    assert!(host.file("variable-SANDBOX_ID").is_some());
    assert_success(&host.run("track_scripts/cleanup-workstation", &[], &[]).await);
    assert_eq!(app.stats().await.body["pending_deletion"], 1);
    let down = Host::new("http://127.0.0.1:9");
    assert!(!down.run("track_scripts/setup-workstation", &[], &[("BROKER_PATIENCE_SEC", "1")]).await.status.success());
    assert_success(&down.run("track_scripts/cleanup-workstation", &[], &[("BROKER_PATIENCE_SEC", "1")]).await);
}

#[actix_web::test]
async fn setup_passes_prefix_duration_and_standby_and_activate_starts_the_lab() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    let settings = [("BROKER_NAME_PREFIX", "lab-0003"), ("BROKER_MINUTES", "90"), ("BROKER_STANDBY", "1")];
    assert_success(&host.client("setup", &settings).await);
    assert!(host.file("variable-SANDBOX_NAME").unwrap().starts_with("lab-0003"));
    let expires_at = || host.file("variable-SANDBOX_EXPIRES_AT").unwrap().parse::<u64>().unwrap();
    let standby_until = expires_at();
    assert_success(&host.client("activate", &[]).await);
    assert!(expires_at() < standby_until - 90 * 3600, "the lab's time is 90 minutes");
}

#[actix_web::test]
async fn setup_gets_its_sandbox_after_each_fault_that_may_pass() {
    for faults in [
        vec!["reset"],
        vec!["broken"],
        vec![HTML],
        vec![TIMEOUT],
        vec![CONFLICT],
        vec![TOO_MANY],
        vec![INTERNAL],
        vec![BAD_GATEWAY],
        vec![UNAVAILABLE],
        vec!["broken", "reset", UNAVAILABLE, CONFLICT],
    ] {
        let app = TestApp::start(&[]).await;
        let host = Host::new(&faulty(&app, faults.clone()));
        let setup = host.client("setup", &[("BROKER_PATIENCE_SEC", "60")]).await;
        assert!(setup.status.success(), "{faults:?}: {setup:?}");
        assert!(!host.slept().is_empty(), "{faults:?}");
        assert_eq!(app.stats().await.body["allocated"], 1, "{faults:?}");
        assert_success(&host.cleanup().await);
        assert_eq!(app.stats().await.body["allocated"], 0, "{faults:?}");
    }
}

#[actix_web::test]
async fn setup_ends_at_once_at_each_fault_that_stays_and_says_why() {
    for (fault, reason) in [
        (MOVED, "redirects to https://elsewhere.example/"),
        (UNAUTHORIZED, "401"),
        (FORBIDDEN, "403"),
        (NOT_FOUND, "BROKER_URL"),
    ] {
        let app = TestApp::start(&[]).await;
        let host = Host::new(&faulty(&app, vec![fault; 3]));
        let setup = host.setup().await;
        assert!(!setup.status.success() && printed(&setup).contains(reason), "{setup:?}");
        assert!(host.slept().is_empty());
        let cleanup = host.client("cleanup", &[]).await;
        assert_success(&cleanup);
        assert!(printed(&cleanup).contains(reason) && !printed(&cleanup).contains("nothing to give back"));
    }
}

#[actix_web::test]
async fn cleanup_gives_back_after_each_fault_that_may_pass() {
    for fault in ["reset", "broken", TIMEOUT, TOO_MANY, INTERNAL, BAD_GATEWAY, UNAVAILABLE] {
        let app = TestApp::start(&[]).await;
        let host = Host::of(&app);
        assert_success(&host.setup().await);
        let url = faulty(&app, vec![fault]);
        let settings = [("BROKER_URL", url.as_str()), ("BROKER_STRICT", "1"), ("BROKER_PATIENCE_SEC", "60")];
        assert_success(&host.client("cleanup", &settings).await);
        assert_eq!(app.stats().await.body["allocated"], 0, "{fault}");
    }
}

#[actix_web::test]
async fn setup_fails_after_its_patience_in_real_time() {
    let app = TestApp::start(&["--csp-sim-sandboxes=0"]).await;
    let host = Host::of(&app);
    let started = Instant::now();
    let output = host.client("setup", &[("BROKER_PATIENCE_SEC", "6")]).await;
    assert!(!output.status.success());
    assert!(printed(&output).contains("WAITING") && printed(&output).contains("no sandbox after"), "{output:?}");
    assert!(started.elapsed() < Duration::from_secs(60), "waiting for an answer counts");
    assert!(host.file("variable-SANDBOX_ID").is_none());
    eventually("it left the queue", async || {
        let queue = app.get_admin("/v1/admin/queue").await.body;
        ((&queue["waiting"], &queue["absent"]) == (&0.into(), &0.into())).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_setup_that_cannot_store_its_sandbox_gives_it_back() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    // The agent takes the owner and the secret, and then no more.
    let agent = AGENT.replace("\"variable set\")", "\"variable set\") case $3 in BROKER_*) ;; *) exit 1 ;; esac;");
    std::fs::write(host.home.path().join("agent"), agent).unwrap();
    assert!(!host.client("setup", &[("BROKER_PATIENCE_SEC", "3")]).await.status.success());
    assert_eq!(app.stats().await.body["allocated"], 0);
    assert_eq!(app.stats().await.body["pending_deletion"], 1);
}

#[actix_web::test]
async fn cleanup_gives_back_what_a_killed_setup_got() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    // Killed between the broker's answer and the first variable of the sandbox.
    let agent = AGENT.replace("\"variable set\")", "\"variable set\") case $3 in SANDBOX_*) kill -9 $PPID ;; esac;");
    std::fs::write(host.home.path().join("agent"), agent).unwrap();
    assert!(!host.setup().await.status.success());
    assert_eq!(app.stats().await.body["allocated"], 1);
    assert_success(&host.cleanup().await);
    assert_eq!(app.stats().await.body["allocated"], 0);
}

#[actix_web::test]
async fn two_setups_at_once_get_one_sandbox_and_cleanup_gives_it_back() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    let (one, other) = tokio::join!(host.setup(), host.setup());
    assert_success(&one);
    assert_success(&other);
    assert_eq!(app.stats().await.body["allocated"], 1);
    assert_success(&host.cleanup().await);
    assert_eq!(app.stats().await.body["allocated"], 0);
}

#[actix_web::test]
async fn a_bad_setting_is_named_and_ends_no_other_teardown() {
    let host = Host::new("http://127.0.0.1:9");
    for (name, value) in [("BROKER_URL", ""), ("BROKER_API_TOKEN", ""), ("BROKER_PATIENCE_SEC", "5m")] {
        let setup = host.client("setup", &[(name, value)]).await;
        assert!(!setup.status.success() && printed(&setup).contains(name), "{setup:?}");
        let cleanup = host.client("cleanup", &[(name, value)]).await;
        assert!(cleanup.status.success() && printed(&cleanup).contains(name), "{cleanup:?}");
    }
    let nameless = host.client("setup", &[("INSTRUQT_PARTICIPANT_ID", "")]).await;
    assert!(!nameless.status.success() && printed(&nameless).contains("INSTRUQT_PARTICIPANT_ID"));
}

#[actix_web::test]
async fn a_url_with_a_slash_at_its_end_is_the_same_url() {
    let app = TestApp::start(&[]).await;
    let host = Host::new(&format!("http://{}/", app.address));
    assert_success(&host.setup().await);
    assert_success(&host.cleanup().await);
    assert_eq!(app.stats().await.body["allocated"], 0);
}

#[actix_web::test]
async fn a_wrong_token_is_explained_and_not_printed() {
    let app = TestApp::start(&[]).await;
    let host = Host::of(&app);
    for command in ["setup", "cleanup"] {
        let output = host.client(command, &[("BROKER_API_TOKEN", "wrong-token"), ("BROKER_STRICT", "1")]).await;
        assert!(!output.status.success());
        let printed = printed(&output);
        assert!(printed.contains("401") && printed.contains("UNAUTHORIZED"), "{printed}");
        assert!(!printed.contains("wrong-token"), "{printed}");
    }
}

/// The Python client, as a copy beside which it writes its files.
async fn python(host: &Host, command: &str, settings: &[(&str, &str)]) -> Output {
    let script = host.home.path().join("broker.py");
    std::fs::copy(Path::new(EXAMPLES).join("python/broker.py"), &script).unwrap();
    let mut python = Command::new("python3");
    python.arg(script).arg(command).envs([
        ("BROKER_API_URL", host.url.as_str()),
        ("BROKER_API_TOKEN", DEVELOPMENT_TOKEN),
        ("INSTRUQT_PARTICIPANT_ID", "participant-1"),
        ("INSTRUQT_TRACK_SLUG", "first-steps"),
        ("BROKER_STRICT", "1"),
    ]);
    python.envs(settings.iter().copied());
    output_of(python).await
}

#[actix_web::test]
async fn the_python_client_writes_the_files_of_the_scripts_that_it_replaces() {
    let app = TestApp::start(&[]).await;
    let host = Host::new(&format!("http://{}/v1", app.address));
    assert_success(&python(&host, "allocate", &[]).await);
    let found = app.get_admin("/v1/admin/sandboxes?status=allocated").await;
    let sandbox = &found.body["sandboxes"][0];
    let account = sandbox["external_id"].as_str().unwrap().rsplit('/').next().unwrap();
    let (id, name) = (sandbox["sandbox_id"].as_str().unwrap(), sandbox["name"].as_str().unwrap());
    let crm_account = sandbox["sfdc_account_id"].as_str().unwrap_or_default();
    for (file, content) in [
        ("subtenant_id.txt", id),
        ("external_id.txt", account),
        ("sandbox_id.txt", account),
        ("sandbox_name.txt", name),
        ("sfdc_account_id.txt", crm_account),
    ] {
        assert_eq!(host.file(file).as_deref(), Some(content), "{file}");
    }
    let exports = host.file("sandbox_env.sh").unwrap();
    for line in [format!("export STUDENT_TENANT={name}"), format!("export CSP_ACCOUNT_ID={account}")] {
        assert!(exports.contains(&line), "{exports}");
    }
    assert_success(&python(&host, "release", &[]).await);
    assert_eq!(app.stats().await.body["pending_deletion"], 1);
    assert!(printed(&python(&host, "release", &[]).await).contains("nothing to give back"));
}

#[actix_web::test]
async fn the_python_client_gets_its_sandbox_after_each_fault_that_may_pass() {
    for fault in ["reset", "broken", HTML, TIMEOUT, CONFLICT, TOO_MANY, INTERNAL, BAD_GATEWAY, UNAVAILABLE] {
        let app = TestApp::start(&[]).await;
        let host = Host::new(&faulty(&app, vec![fault]));
        let allocated = python(&host, "allocate", &[("BROKER_PATIENCE_SEC", "60")]).await;
        assert!(allocated.status.success(), "{fault}: {allocated:?}");
        assert_success(&python(&host, "release", &[]).await);
        assert_eq!(app.stats().await.body["allocated"], 0, "{fault}");
    }
}

#[actix_web::test]
async fn the_python_client_says_why_it_fails_and_its_release_ends_no_other_teardown() {
    for (fault, reason) in [(MOVED, "https://elsewhere.example/"), (UNAUTHORIZED, "401"), (NOT_FOUND, "404")] {
        let app = TestApp::start(&[]).await;
        let host = Host::new(&faulty(&app, vec![fault; 2]));
        let allocated = python(&host, "allocate", &[]).await;
        assert!(!allocated.status.success() && printed(&allocated).contains(reason), "{allocated:?}");
        let released = python(&host, "release", &[("BROKER_STRICT", "")]).await;
        assert!(released.status.success() && printed(&released).contains(reason), "{released:?}");
    }
}
