//! `sandbox-broker ctl`: a command line for operators, over the admin API.

mod client;
mod drain;
mod tables;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use broker_actors::error::Chain;
use clap::{Args, Subcommand};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::Url;

use self::client::{AdminClient, CtlError};
use self::drain::DrainStatus;
use crate::config::SecretSettings;
use crate::config::values::http_url;

/// Control a running broker over its admin API
///
/// The admin token comes only from the environment variable BROKER_ADMIN_TOKEN (the first one, if it holds several), or
/// from the file that BROKER_ADMIN_TOKEN_FILE names, because other users of the machine can see flags.
///
/// Exit codes: 0 success; 1 the broker failed; 2 wrong usage; 3 the token is not accepted; 4 no such sandbox or actor;
/// 5 refused in the current state (paused, busy, guarded, wrong status); 6 the broker is not reachable or not ready.
#[derive(Args, Debug)]
pub struct CtlArgs {
    /// URL of the broker
    #[arg(long, env = "BROKER_URL", default_value = "http://127.0.0.1:8080", global = true, value_parser = http_url())]
    url: Url,
    /// Your name in the broker's records
    #[arg(long, env = "USER", global = true)]
    operator: Option<String>,
    /// Print the API's JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Count the sandboxes by status
    Stats,
    /// List sandboxes
    Sandboxes {
        /// Only sandboxes of this status
        #[arg(long)]
        status: Option<String>,
        /// Only sandboxes with this text in their id, name, external id, owner or lab
        #[arg(long)]
        search: Option<String>,
        /// Repeat until Ctrl-C
        #[arg(long)]
        watch: bool,
        /// Seconds between repetitions with --watch
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// Show all actors, or one in detail
    Actors {
        /// Name of the actor
        name: Option<String>,
    },
    /// Show who waits for a sandbox, or take a track out of the queue
    Queue {
        /// The track to take out
        #[arg(long, requires = "reason")]
        drop: Option<String>,
        /// Its key, if it is not the track's id
        #[arg(long, requires = "drop")]
        key: Option<String>,
        /// Reason, for the log
        #[arg(long, requires = "drop")]
        reason: Option<String>,
    },
    /// Pause an actor on every replica
    Pause {
        /// Name of the actor
        actor: String,
        /// Reason, shown to other operators
        #[arg(long)]
        reason: String,
    },
    /// Resume a paused actor on every replica
    Resume {
        /// Name of the actor
        actor: String,
    },
    /// Run an actor's job now
    Run {
        /// Name of the actor
        actor: String,
    },
    /// Sync the pool with the CSP now
    Sync {
        /// Report the differences without writing them
        #[arg(long)]
        dry_run: bool,
        /// Sync even if the mass-stale guard refuses
        #[arg(long)]
        force: bool,
    },
    /// Release a sandbox for its owner; cleanup then deletes it
    Release {
        /// Id of the sandbox
        id: String,
    },
    /// Retry the deletion of a deletion_failed sandbox, or of all of them
    RetryDeletion {
        /// Id of the sandbox
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<String>,
        /// All deletion_failed sandboxes
        #[arg(long)]
        all: bool,
        /// With --all, only sandboxes whose last error contains this text
        #[arg(long, requires = "all")]
        error: Option<String>,
    },
    /// Set a sandbox aside: it is neither allocated nor deleted
    Quarantine {
        /// Id of the sandbox
        id: String,
        /// Reason, shown to other operators
        #[arg(long)]
        reason: String,
    },
    /// End the quarantine of a sandbox
    Unquarantine {
        /// Id of the sandbox
        id: String,
    },
    /// Keep an allocated or released sandbox from being deleted for a while
    Freeze {
        /// Id of the sandbox
        id: String,
        /// How long, such as 90m, 24h or 3d; 0h ends a freeze
        #[arg(long = "for", value_name = "DURATION", value_parser = hours)]
        duration: f64,
    },
    /// Work through all sandboxes of a status: release allocated ones, retry the deletion of deletion_failed ones, turn
    /// stale ones into tombstones
    Drain {
        /// Status of the sandboxes
        #[arg(long, value_enum)]
        status: DrainStatus,
        /// Skip the confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command. Its result goes to standard output, everything else to standard error.
pub async fn run(args: CtlArgs) -> ExitCode {
    let json = args.json;
    match execute(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn execute(args: CtlArgs) -> Result<(), CtlError> {
    let token = SecretSettings::from_environment(|name| std::env::var_os(name)).admin_token.read();
    let token = token.map_err(|problem| CtlError::Usage(problem.to_string()))?;
    let token = token.filter(|token| !token.expose_secret().is_empty());
    let token = token.ok_or_else(|| CtlError::Usage("set BROKER_ADMIN_TOKEN to an admin token".to_owned()))?;
    let client = AdminClient::new(args.url, &token, args.operator.as_deref())?;
    let print = |value: &Value, table: fn(&Value) -> String| {
        print_out(&if args.json { pretty(value) } else { table(value) });
    };
    match args.command {
        Command::Stats => print(&client.get("stats").await?, tables::stats),
        Command::Sandboxes { status, search, watch, interval } => loop {
            let sandboxes = client.sandboxes(status.as_deref(), search.as_deref()).await?;
            if watch && !args.json && std::io::stdout().is_terminal() {
                // Clear the screen and go to its top left corner.
                print_out("\u{1b}[2J\u{1b}[H");
            }
            print(&json!({ "sandboxes": sandboxes }), tables::sandboxes);
            if !watch {
                break;
            }
            tokio::time::sleep(Duration::from_secs(interval)).await;
        },
        Command::Actors { name: None } => print(&client.get("actors").await?, tables::actors),
        Command::Actors { name: Some(name) } => print(&client.get(&actor_path(&name, "")).await?, tables::fields),
        Command::Queue { drop: None, .. } => print(&client.get("queue").await?, tables::queue),
        Command::Queue { drop: Some(track), key, reason } => {
            let mut path = format!("queue?track_id={}", client::encode(&track));
            for (name, value) in [("idempotency_key", key), ("reason", reason)] {
                path.extend(value.map(|value| format!("&{name}={}", client::encode(&value))));
            }
            print(&client.send(Method::DELETE, &path, None).await?, tables::fields);
        }
        Command::Pause { actor, reason } => {
            let body = json!({ "reason": reason });
            print(&client.send(Method::POST, &actor_path(&actor, "/pause"), Some(body)).await?, tables::actor);
        }
        Command::Resume { actor } => print(&client.post(&actor_path(&actor, "/resume")).await?, tables::actor),
        Command::Run { actor } => print(&client.post(&actor_path(&actor, "/run")).await?, tables::actor),
        Command::Sync { dry_run, force } => {
            print(&client.post(&format!("sync?dry_run={dry_run}&force={force}")).await?, tables::fields);
        }
        Command::Release { id } => print(&client.post(&sandbox_path(&id, "release")).await?, tables::sandbox),
        Command::RetryDeletion { id: Some(id), .. } => {
            print(&client.post(&sandbox_path(&id, "retry-deletion")).await?, tables::sandbox);
        }
        Command::RetryDeletion { id: None, error, .. } => {
            let query = error.map_or(String::new(), |error| format!("?error={}", client::encode(&error)));
            print(&client.post(&format!("retry-deletion{query}")).await?, tables::fields);
        }
        Command::Quarantine { id, reason } => {
            let body = json!({ "reason": reason });
            print(&client.send(Method::POST, &sandbox_path(&id, "quarantine"), Some(body)).await?, tables::sandbox);
        }
        Command::Unquarantine { id } => print(&client.post(&sandbox_path(&id, "unquarantine")).await?, tables::sandbox),
        Command::Freeze { id, duration } => {
            print(&client.post(&sandbox_path(&id, &format!("freeze?hours={duration}"))).await?, tables::sandbox);
        }
        Command::Drain { status, yes } => print(&drain::drain(&client, status, yes).await?, tables::fields),
    }
    Ok(())
}

fn actor_path(name: &str, action: &str) -> String {
    format!("actors/{}{action}", client::encode(name))
}

fn sandbox_path(id: &str, action: &str) -> String {
    format!("sandboxes/{}/{action}", client::encode(id))
}

/// A duration such as `90m`, `24h` or `3d`, in hours.
fn hours(text: &str) -> Result<f64, String> {
    let units = [('m', 1.0 / 60.0), ('h', 1.0), ('d', 24.0)];
    let hours = units.into_iter().find_map(|(unit, hours)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * hours));
    hours.filter(|hours| hours.is_finite()).ok_or_else(|| "it takes a number with m, h or d, such as 24h".to_owned())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Prints to standard output. A reader that closes the pipe, such as `head`, is not an error.
fn print_out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn report(error: &CtlError, json: bool) {
    let text = match error {
        CtlError::Refused { body, .. } if json => pretty(body),
        error => format!("sandbox-broker ctl: {}", tables::escaped(&Chain(error).to_string())),
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
