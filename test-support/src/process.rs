use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::eventually::eventually;

pub const TRACK_TOKEN: &str = "track-token-of-at-least-32-characters";
pub const ADMIN_TOKEN: &str = "admin-token-of-at-least-32-characters";

/// The broker's executable. Cargo builds it for the root package's tests and benches and names it in their environment.
pub fn program_path() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_sandbox-broker").expect("run this by cargo test or cargo bench").into()
}

/// A command that runs the broker with an empty environment, except for the settings that every test needs.
pub fn program(arguments: &[&str]) -> Command {
    executable(&program_path(), arguments)
}

/// A command that runs another executable in the same environment.
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
        ("LAB_DURATION_HOURS", "4"),
    ]);
    command
}

/// Runs the command to its end, off the test's thread.
pub async fn output_of(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A process that is killed when this is dropped.
pub struct Process(Child);

impl Process {
    /// Starts the process and appends its output to a file.
    pub fn spawn(command: &mut Command, output: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(output).unwrap();
        Self(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap())
    }

    /// Starts the process and waits until `address_in` finds in its output where it listens. The file receives all of
    /// the output.
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

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Sends SIGTERM and waits for the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        eventually("the process ends", async || self.exit_status()).await
    }

    /// Sends a signal by its name, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.id().to_string()]).status().unwrap().success());
    }

    /// The exit status, if the process has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Resident memory in KiB: now, and the peak so far.
    pub fn resident_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address in a broker's log, once the broker listens.
pub fn listening_address(log: &str) -> Option<SocketAddr> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let listening = lines.find(|line| line["message"] == "listening")?;
    listening["address"].as_str()?.parse().ok()
}
