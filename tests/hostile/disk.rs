//! A disk that is full.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use test_support::{
    ADMIN_TOKEN, ApiClient, Process, TRACK_TOKEN, eventually, listening_address, program, program_path,
};

#[tokio::test]
async fn with_a_full_disk_a_replica_is_not_ready_and_its_log_stays_short() {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    // A limit for the size of files stands for the full disk: a write beyond it fails. The table needs more.
    command.args(["-c", "trap '' XFSZ && ulimit -f 2048 && exec \"$0\""]).arg(program_path()).env_clear();
    command.envs(program(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
        .envs([("BROKER_STORE", "embedded"), ("CSP_SIM_SANDBOXES", "10000")])
        .env("BROKER_DATA_DIR", directory.path());
    let (mut process, output, address) = Process::listening(&mut command, listening_address).await;
    let client = ApiClient::new(address, TRACK_TOKEN, ADMIN_TOKEN);
    let readiness = eventually("readiness shows it", async || {
        let readiness = client.get("/readyz").await;
        (readiness.status == 503 && readiness.body["checks"]["dynamodb"] != "ok").then_some(readiness)
    })
    .await;
    assert_eq!(readiness.body["status"], "not_ready", "{readiness:?}");
    assert_eq!(client.get("/healthz").await.status, 200);
    // Ten more checks, each of which fails.
    for _ in 0..10 {
        assert_eq!(client.get("/readyz").await.status, 503);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(process.terminate().await.code().is_some());
    let log = std::fs::read_to_string(output.path()).unwrap();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_libraries: Vec<_> = lines.iter().filter(|line| line["event"].is_null()).collect();
    assert!(of_libraries.is_empty(), "{} lines such as {}", of_libraries.len(), of_libraries[0]);
    // The checks above have a line each.
    let others = lines.iter().filter(|line| line["event"] != "request").count();
    assert!(others < 60, "{others} lines: {log}");
}
