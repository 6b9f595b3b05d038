//! Orders for many sandboxes: for the ids of a command line, or for all of a status.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use broker_actors::error::Chain;
use clap::ValueEnum;
use futures_util::StreamExt as _;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::client::{Client, sandbox_path};
use super::error::CtlError;
use super::escape::escape;
use super::output;

/// Requests in flight.
const CONCURRENCY: usize = 8;

/// The statuses that can be drained. Each has one remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum DrainStatus {
    /// Release them for their owners; cleanup then deletes them
    Allocated,
    /// Retry their deletion
    DeletionFailed,
    /// The same as `purge --status stale`
    Stale,
}

/// The statuses whose records can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum PurgeStatus {
    /// Missing from the CSP's listing
    Stale,
    /// Not deleted after the last attempt
    DeletionFailed,
}

impl PurgeStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::DeletionFailed => "deletion_failed",
        }
    }
}

/// Gives an order for each id, one after the other. A single failure is returned as it is; of several, the first.
pub(super) async fn each(
    ids: &[String],
    mut order: impl AsyncFnMut(&str) -> Result<(), CtlError>,
) -> Result<(), CtlError> {
    let mut failures = Vec::new();
    for id in ids {
        match order(id).await {
            Ok(()) => {}
            Err(CtlError::OutputClosed) => return Err(CtlError::OutputClosed),
            Err(error) if ids.len() == 1 => return Err(error),
            Err(error) => {
                let failure = escape(&format!("{id}: {}", Chain(&error)));
                output::print_error(&failure);
                failures.push(failure);
            }
        }
    }
    failures_of(ids.len(), failures)
}

fn failures_of(total: usize, failures: Vec<String>) -> Result<(), CtlError> {
    let failed = failures.len();
    failures.into_iter().next().map_or(Ok(()), |first| Err(CtlError::Partial { failed, total, first }))
}

/// Works through all sandboxes of the status and returns their number. Fails if any of them failed.
pub(super) async fn drain(client: &Client, status: DrainStatus, yes: bool) -> Result<Value, CtlError> {
    let (name, order, consequence) = match status {
        DrainStatus::Stale => return purge(client, PurgeStatus::Stale, yes).await,
        DrainStatus::Allocated => ("allocated", "/release", "taken from their owners and deleted"),
        DrainStatus::DeletionFailed => ("deletion_failed", "/retry-deletion", "put back to pending_deletion"),
    };
    let sandboxes = client.sandboxes(&format!("&status={name}"), None).await?;
    let total = sandboxes.len();
    if total == 0 {
        return Ok(json!({ "status": "completed", "drained": 0 }));
    }
    if !yes {
        confirm(&format!("{total} {name} sandboxes will be {consequence}."))?;
    }
    // The bar draws itself only on a terminal.
    let progress = ProgressBar::new(total as u64);
    let mut outcomes = futures_util::stream::iter(sandboxes)
        .map(|sandbox| async move {
            let id = sandbox["sandbox_id"].as_str().unwrap_or_default();
            client.post(&sandbox_path(id, order)).await.map_err(|error| format!("{id}: {}", Chain(&error)))
        })
        .buffer_unordered(CONCURRENCY);
    let mut failures = Vec::new();
    while let Some(outcome) = outcomes.next().await {
        progress.inc(1);
        failures.extend(outcome.err());
    }
    progress.finish_and_clear();
    failures_of(total, failures)?;
    Ok(json!({ "status": "completed", "drained": total }))
}

/// Removes the records of all sandboxes of the status and returns their number.
pub(super) async fn purge(client: &Client, status: PurgeStatus, yes: bool) -> Result<Value, CtlError> {
    let name = status.name();
    let total = client.get("stats").await?[name].as_u64().unwrap_or_default();
    if total > 0 && !yes {
        confirm(&format!(
            "The records of {total} {name} sandboxes will be removed. Their accounts stay alive at the CSP, go on costing \
             money, and may come back."
        ))?;
    }
    let report = client.post(&format!("bulk-delete?status={name}")).await?;
    Ok(json!({ "status": "completed", "drained": report["deleted"] }))
}

fn confirm(question: &str) -> Result<(), CtlError> {
    if !std::io::stdin().is_terminal() {
        return Err(CtlError::Usage(format!("{question} Confirm with --yes")));
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{question} Continue? [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CtlError::Usage("nothing was done".to_owned()))
}
