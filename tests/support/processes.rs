//! The program as a process: its start, its end, a server of DynamoDB's protocol and a simulated CSP for it.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::eventually;

pub const TRACK_TOKEN: &str = "track-token-of-at-least-32-characters";
pub const ADMIN_TOKEN: &str = "admin-token-of-at-least-32-characters";

/// The program with an environment of its own.
pub fn program(arguments: &[&str]) -> Command {
    executable(env!("CARGO_BIN_EXE_sandbox-broker").as_ref(), arguments)
}

/// Another executable in the same environment.
pub fn executable(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
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
    /// Starts it with its output at the end of a file.
    pub fn spawn(command: &mut Command, output: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(output).unwrap();
        Self(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap())
    }

    /// Starts it, and waits until `address_in` finds in its output where it listens. The output goes on in the file.
    pub async fn listening<A>(
        command: &mut Command,
        address_in: impl Fn(&str) -> Option<A>,
    ) -> (Self, NamedTempFile, A) {
        let output = NamedTempFile::new().unwrap();
        let process = Self::spawn(command, output.path());
        let written = || std::fs::read_to_string(output.path()).unwrap();
        let address = eventually("the process listens", async || address_in(&written())).await;
        (process, output, address)
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
        self.signal("-TERM");
        eventually("the process ends", async || self.ended()).await
    }

    /// Sends a signal by its name, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.id().to_string()]).status().unwrap().success());
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

/// Where the broker listens whose log begins here, once it does.
pub fn listening_address(log: &str) -> Option<SocketAddr> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let listening = lines.find(|line| line["message"] == "listening")?;
    listening["address"].as_str()?.parse().ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A DynamoDB server with the broker's table, made by the program itself.
pub struct DynamoServer {
    pub url: String,
}

impl DynamoServer {
    pub async fn start() -> Self {
        Self::on(dynoxide::Database::memory().unwrap()).await
    }

    /// The server of this database.
    pub async fn on(database: dynoxide::Database) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                dynoxide::server::serve_on(listener, database).await;
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
        Self::start_with(sandboxes, &["--port=0"]).await
    }

    /// The same with these flags, among them the port.
    pub async fn start_with(sandboxes: u32, flags: &[&str]) -> Self {
        let sandboxes = sandboxes.to_string();
        let arguments = [&["csp-sim", "--sandboxes", &sandboxes, "--token", Self::TOKEN], flags].concat();
        let url_in =
            |output: &str| output.lines().find_map(|line| line.strip_prefix("simulated CSP on ").map(str::to_owned));
        let (process, _, url) = Process::listening(&mut program(&arguments), url_in).await;
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
