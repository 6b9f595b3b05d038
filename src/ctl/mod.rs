//! `sandbox-broker ctl`: a command line for operators, over the admin API.

mod args;
mod bulk;
mod client;
mod error;
mod escape;
mod events;
mod output;
mod table;
mod views;
mod watch;

use std::process::ExitCode;

use broker_actors::error::Chain;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use self::args::Command;
pub use self::args::CtlArgs;
use self::client::{Client, actor_path, encode, sandbox_path};
use self::error::CtlError;
use self::escape::escape;
use self::output::{Format, Output};
use crate::config::SecretSettings;
use crate::config::secrets::Secret;

/// Runs the command. Its result goes to standard output, everything else to standard error.
pub async fn run(args: CtlArgs) -> ExitCode {
    let format = if args.json { Format::Json } else { args.output };
    let output = Output::new(format, !args.no_headers);
    match execute(args, &output).await {
        // The reader of a pipe, such as `head`, has read enough.
        Ok(()) | Err(CtlError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            let text = match &error {
                CtlError::Refused { body, .. } if output.is_json() => output::pretty(body),
                error => format!("sandbox-broker ctl: {}", escape(&Chain(error).to_string())),
            };
            output::print_error(&text);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn execute(args: CtlArgs, output: &Output) -> Result<(), CtlError> {
    let secrets = SecretSettings::from_environment(|name| std::env::var_os(name));
    let client = if matches!(args.command, Command::Preflight { .. }) {
        Client::of_tracks(args.url, &token_of(&secrets.api_token, "set BROKER_API_TOKEN to a track token")?)?
    } else {
        let token = token_of(&secrets.admin_token, "set BROKER_ADMIN_TOKEN to an admin token")?;
        Client::of_operators(args.url, &token, args.operator.as_deref())?
    };
    let client = &client;
    match args.command {
        Command::Stats { watch } => {
            watch.repeat(output, async || output.print(&client.get("stats").await?, &views::STATS)).await
        }
        Command::Sandboxes { filter, limit, watch } => {
            let query = filter.query();
            watch
                .repeat(output, async || {
                    let sandboxes = client.sandboxes(&query, limit).await?;
                    output.print(&json!({ "sandboxes": sandboxes }), &views::SANDBOXES)
                })
                .await
        }
        Command::Find { text } => {
            let sandboxes = client.sandboxes(&format!("&search={}", encode(&text)), None).await?;
            output.print(&json!({ "sandboxes": sandboxes }), &views::SANDBOXES)?;
            if sandboxes.is_empty() {
                return Err(CtlError::NotFound(format!("no sandbox has `{text}` in its id, names, owner, lab or key")));
            }
            Ok(())
        }
        Command::Show { ids } => {
            bulk::each(&ids, async |id| {
                let sandbox = client.get(&sandbox_path(id, "")).await?;
                output.print(&sandbox, &views::SANDBOX_FIELDS)
            })
            .await
        }
        Command::History { id } => output.print(&client.get(&sandbox_path(&id, "")).await?, &views::HISTORY),
        Command::Actors { name: None, watch } => {
            watch.repeat(output, async || output.print(&client.get("actors").await?, &views::ACTORS)).await
        }
        Command::Actors { name: Some(name), .. } => {
            output.print(&client.get(&actor_path(&name, "")).await?, &views::ACTOR_FIELDS)
        }
        Command::Queue { drop: None, watch, .. } => {
            watch.repeat(output, async || output.print(&client.get("queue").await?, &views::QUEUE)).await
        }
        Command::Queue { drop: Some(track), key, reason, .. } => {
            let mut path = format!("queue?track_id={}", encode(&track));
            for (name, value) in [("idempotency_key", key), ("reason", reason)] {
                path.extend(value.map(|value| format!("&{name}={}", encode(&value))));
            }
            output.print(&client.send(Method::DELETE, &path, None).await?, &views::FIELDS)
        }
        Command::Labs { watch } => {
            watch.repeat(output, async || output.print(&client.get("labs").await?, &views::LABS)).await
        }
        Command::Preflight { count, prefix, minutes } => {
            let mut path = format!("preflight?count={count}");
            path.extend(prefix.map(|prefix| format!("&prefix={}", encode(&prefix))));
            path.extend(minutes.map(|minutes| format!("&minutes={minutes}")));
            output.print(&client.get(&path).await?, &views::PREFLIGHT)
        }
        Command::Pause { actor, reason } => {
            let body = json!({ "reason": reason });
            let paused = client.send(Method::POST, &actor_path(&actor, "/pause"), Some(body)).await?;
            output.print(&paused, &views::ACTOR)
        }
        Command::Resume { actor } => {
            let before = client.get(&actor_path(&actor, "")).await?;
            if let Some(reason) = before["control"]["reason"].as_str().filter(|_| before["desired_state"] == "paused") {
                let by = before["control"]["by"].as_str().unwrap_or("?");
                output::print_error(&escape(&format!("{actor} was paused by {by}: {reason}")));
            }
            output.print(&client.post(&actor_path(&actor, "/resume")).await?, &views::ACTOR)
        }
        Command::Run { actor } => output.print(&client.post(&actor_path(&actor, "/run")).await?, &views::ACTOR),
        Command::Sync { dry_run, force } => {
            let report = client.post(&format!("sync?dry_run={dry_run}&force={force}")).await?;
            output.print(&report, &views::FIELDS)
        }
        Command::Release { ids } => orders(client, output, &ids, "release").await,
        Command::RetryDeletion { all: true, error, .. } => {
            let query = error.map_or(String::new(), |error| format!("?error={}", encode(&error)));
            output.print(&client.post(&format!("retry-deletion{query}")).await?, &views::FIELDS)
        }
        Command::RetryDeletion { ids, .. } => orders(client, output, &ids, "retry-deletion").await,
        Command::Quarantine { id, reason } => {
            let body = json!({ "reason": reason });
            let sandbox = client.send(Method::POST, &sandbox_path(&id, "/quarantine"), Some(body)).await?;
            output.print(&sandbox, &views::SANDBOX)
        }
        Command::Unquarantine { id } => {
            output.print(&client.post(&sandbox_path(&id, "/unquarantine")).await?, &views::SANDBOX)
        }
        Command::Freeze { id, duration } => {
            let path = sandbox_path(&id, &format!("/freeze?hours={duration}"));
            output.print(&client.post(&path).await?, &views::SANDBOX)
        }
        Command::Extend { ids, duration } => orders(client, output, &ids, &format!("extend?hours={duration}")).await,
        Command::Drain { status, yes } => output.print(&bulk::drain(client, status, yes).await?, &views::FIELDS),
        Command::Purge { status, yes } => output.print(&bulk::purge(client, status, yes).await?, &views::FIELDS),
        Command::Audit { by, action, target, limit } => {
            let entries = client.audit(by.as_deref(), action.as_deref(), target.as_deref(), limit).await?;
            output.print(&json!({ "entries": entries }), &views::AUDIT)
        }
        Command::Events { follow } => events::print(client, output, follow).await,
    }
}

/// The value of a secret that the command needs.
fn token_of(secret: &Secret, missing: &str) -> Result<SecretString, CtlError> {
    let token = secret.read().map_err(|problem| CtlError::Usage(problem.to_string()))?;
    let token = token.filter(|token| !token.expose_secret().is_empty());
    token.ok_or_else(|| CtlError::Usage(missing.to_owned()))
}

/// Gives the order for each sandbox and prints what became of each.
async fn orders(client: &Client, output: &Output, ids: &[String], order: &str) -> Result<(), CtlError> {
    let mut done: Vec<Value> = Vec::new();
    let outcome = bulk::each(ids, async |id| {
        done.push(client.post(&sandbox_path(id, &format!("/{order}"))).await?);
        Ok(())
    })
    .await;
    if let [sandbox] = &done[..]
        && ids.len() == 1
    {
        output.print(sandbox, &views::SANDBOX)?;
    } else if !done.is_empty() {
        output.print(&json!({ "sandboxes": done }), &views::SANDBOXES)?;
    }
    outcome
}
