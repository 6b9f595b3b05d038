//! The program as a process: a server of DynamoDB's protocol for it, its start, its end.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use serde_json::Value;

use crate::helpers::{TestApp, eventually};

pub const TRACK_TOKEN: &str = "track-token-of-at-least-32-characters";
pub const ADMIN_TOKEN: &str = "admin-token-of-at-least-32-characters";

/// The program with an environment of its own.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-broker"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command.envs([
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "eu-central-1"),
        ("BROKER_HOST", "127.0.0.1"),
        ("BROKER_PORT", "0"),
        ("BROKER_API_TOKEN", TRACK_TOKEN),
        ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
        ("RATE_LIMIT_RPS", "0"),
    ]);
    command
}

/// A process that is killed when this is dropped.
pub struct Process(Child);

impl Process {
    /// Starts it with its output in a file.
    fn spawn(command: &mut Command, output: &Path) -> Self {
        let file = std::fs::File::create(output).unwrap();
        Self(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM, and how the process ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        let signalled = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap();
        assert!(signalled.success());
        eventually("the process ends", async || self.0.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A broker in a process of its own.
pub struct Broker {
    pub process: Process,
    app: TestApp,
    output: tempfile::NamedTempFile,
}

impl Deref for Broker {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

impl Broker {
    /// Starts a broker with these settings and waits until it is ready.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::run(program(&[]).envs(settings.iter().copied())).await
    }

    /// The same with a command that ends in the broker.
    pub async fn run(command: &mut Command) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let process = Process::spawn(command, output.path());
        let address = eventually("the broker listens", async || {
            let lines = std::fs::read_to_string(output.path()).unwrap();
            let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let listening = lines.into_iter().find(|line| line["message"] == "listening")?;
            listening["address"].as_str()?.parse::<SocketAddr>().ok()
        })
        .await;
        let app = TestApp::at(address, TRACK_TOKEN, ADMIN_TOKEN);
        app.is_ready().await;
        Self { process, app, output }
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    /// Starts a broker whose table is at this server.
    pub async fn on_server(server: &DynamoServer, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", server.url.as_str())];
        all.extend(settings);
        Self::start(&all).await
    }
}

/// A DynamoDB server with the broker's table, made by the program itself.
pub struct DynamoServer {
    pub url: String,
}

impl DynamoServer {
    pub async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                dynoxide::server::serve_on(listener, dynoxide::Database::memory().unwrap()).await;
            });
        });
        let mut create = program(&["table", "create"]);
        create.envs([("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", &url)]);
        let created = tokio::task::spawn_blocking(move || create.output().unwrap()).await.unwrap();
        assert!(created.status.success(), "{created:?}");
        Self { url }
    }

    /// A client of it with the SDK's own settings.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(&self.url)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }
}

/// A simulated CSP in a process of its own.
pub struct CspSim {
    pub process: Process,
    pub url: String,
    http: reqwest::Client,
}

impl CspSim {
    pub const TOKEN: &str = "csp-token";

    pub async fn start(sandboxes: u32) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let sandboxes = sandboxes.to_string();
        let arguments = ["csp-sim", "--port=0", "--sandboxes", &sandboxes, "--token", Self::TOKEN];
        let process = Process::spawn(&mut program(&arguments), output.path());
        let url = eventually("the simulator listens", async || {
            let lines = std::fs::read_to_string(output.path()).unwrap();
            lines.lines().find_map(|line| line.strip_prefix("simulated CSP on ").map(str::to_owned))
        })
        .await;
        Self { process, url, http: reqwest::Client::new() }
    }

    pub fn settings(&self) -> [(&str, &str); 3] {
        [("CSP_MODE", "http"), ("CSP_BASE_URL", &self.url), ("CSP_API_TOKEN", Self::TOKEN)]
    }

    pub async fn stats(&self) -> Value {
        self.http.get(format!("{}/sim/stats", self.url)).send().await.unwrap().json().await.unwrap()
    }

    pub async fn set_faults(&self, faults: Value) {
        let answer = self.http.put(format!("{}/sim/faults", self.url)).json(&faults).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}
