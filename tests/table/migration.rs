//! docs/migration.md: its commands lead from the Python broker to this one, and back.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::broker::{ADMIN_TOKEN, TRACK_TOKEN};
use crate::csp::Csp;
use crate::old_service::{assert_readable_by_old_service, fixture};
use crate::table::{Done, Server, program, run, text_of};

const GUIDE: &str = include_str!("../../docs/migration.md");

/// A stand-in for the AWS command line that keeps what it is asked.
const AWS: &str = "#!/usr/bin/env bash\necho \"$*\" >> aws.log\n";

/// The commands in the shell blocks of the guide up to a heading, or from it on.
fn commands(text: &str) -> String {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).map(|line| line.strip_prefix("   ").unwrap_or(line).to_owned() + "\n").collect()
}

/// Runs a script as an operator does, in a directory of its own.
async fn shell(script: &str, directory: &Path, settings: &[(&str, &str)]) -> Done {
    let program_directory = Path::new(env!("CARGO_BIN_EXE_sandbox-broker")).parent().unwrap();
    let path = format!("{}:{}:{}", directory.display(), program_directory.display(), std::env::var("PATH").unwrap());
    let mut command = program(&[], settings);
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = std::process::Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).env_clear().current_dir(directory).env("PATH", path);
    command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
    run(command).await
}

#[actix_web::test]
async fn the_commands_of_the_guide_move_to_this_broker_and_back() {
    let server = Server::with_items(fixture()).await;
    let before = server.dump().await;
    let csp = Csp::of(&before);
    let directory = TempDir::new().unwrap();
    let aws = directory.path().join("aws");
    std::fs::write(&aws, AWS).unwrap();
    std::fs::set_permissions(&aws, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A port that was free a moment before.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let (two_tokens, csp) = (format!("{TRACK_TOKEN},the-new-track-token-of-32-characters"), csp.settings());
    let settings = [
        ("DDB_TABLE_NAME", "sandbox-broker-pool"),
        ("DDB_ENDPOINT_URL", &server.url),
        ("LAB_DURATION_HOURS", "48"),
        ("BROKER_HOST", "127.0.0.1"),
        ("BROKER_PORT", &port),
        ("BROKER_URL", &url),
        ("BROKER_API_TOKEN", &two_tokens),
        ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
        csp[1],
        csp[2],
        ("LOG_FORMAT", "json"),
        ("CORS_ALLOWED_ORIGINS", "*"),
        ("OLD_CLUSTER", "old-cluster"),
        ("OLD_WORKER", "old-worker"),
        ("OLD_API", "old-api"),
        ("OLD_COUNT", "2"),
        ("SANDBOX", "2030006"),
        ("STUDENT", "legacy-student"),
    ];
    // A shell that fails leaves no broker behind.
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{}", commands(GUIDE));
    let done = shell(&script, directory.path(), &settings).await;
    let log = std::fs::read_to_string(directory.path().join("broker.log")).unwrap_or_default();
    assert_eq!(done.code, Some(0), "{done:?}\n{log}");
    for expected in [
        "Nothing was changed. Run the command again with --yes to adopt the table.",
        "All of them fit together.",
        "\"sandbox_id\":\"2030006\"",
        "StatusIndex",
        "Done. The old service can be started.",
    ] {
        assert!(done.out.contains(expected), "{expected} is not in {done:?}");
    }
    let asked = std::fs::read_to_string(directory.path().join("aws.log")).unwrap();
    for expected in ["old-worker --desired-count 0", "old-api --desired-count 0", "old-api --desired-count 2"] {
        assert!(asked.contains(expected), "{expected} is not in {asked}");
    }

    let after = server.dump().await;
    assert_readable_by_old_service(&after);
    for (key, old) in before.iter().filter(|(_, item)| text_of(item, "status") == "allocated") {
        // Its end was twelve hours ago, so the broker ends it at some time after its start.
        if text_of(old, "allocated_to_track") == "part-expired-60h" {
            continue;
        }
        let new = &after[key];
        for name in ["status", "allocated_at", "allocated_to_track", "idempotency_key", "external_id"] {
            assert_eq!(new.get(name), old.get(name), "{name} of {key:?}");
        }
    }
}

/// The table of names that changed names what exists.
#[test]
fn what_the_guide_calls_new_exists() {
    let metrics = include_str!("../../docs/reference/metrics.md");
    let settings = include_str!("../../docs/reference/settings.md");
    let in_quotes = GUIDE.split('`').skip(1).step_by(2);
    for name in in_quotes.filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) {
        if name.starts_with("broker_") {
            assert!(metrics.contains(&format!("`{name}`")), "{name}");
        }
        if name.starts_with("BROKER_") || name == "COMPAT_ERROR_DETAIL" {
            assert!(settings.contains(&format!("`{name}`")), "{name}");
        }
    }
}
