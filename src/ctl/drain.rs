//! `ctl drain`: works through all sandboxes of a status, several at a time, with a progress bar.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use broker_actors::error::Chain;
use clap::ValueEnum;
use futures_util::StreamExt as _;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::client::{AdminClient, CtlError};
use super::sandbox_path;

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
    /// Turn them into tombstones without a call to the CSP
    Stale,
}

impl DrainStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::DeletionFailed => "deletion_failed",
            Self::Stale => "stale",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Allocated => "taken from their owners and deleted",
            Self::DeletionFailed => "put back to pending_deletion",
            Self::Stale => "turned into tombstones without a call to the CSP",
        }
    }
}

/// Works through all sandboxes of the status and returns their number. Fails if any of them failed.
pub(super) async fn drain(client: &AdminClient, status: DrainStatus, yes: bool) -> Result<Value, CtlError> {
    let sandboxes = client.sandboxes(Some(status.name()), None).await?;
    let total = sandboxes.len();
    if total == 0 {
        return Ok(json!({ "status": "completed", "drained": 0 }));
    }
    if !yes {
        confirm(total, status)?;
    }
    let action = match status {
        DrainStatus::Allocated => "release",
        DrainStatus::DeletionFailed => "retry-deletion",
        DrainStatus::Stale => {
            let report = client.post("bulk-delete?status=stale").await?;
            return Ok(json!({ "status": "completed", "drained": report["deleted"] }));
        }
    };
    // The bar draws itself only on a terminal.
    let progress = ProgressBar::new(total as u64);
    let mut outcomes = futures_util::stream::iter(sandboxes)
        .map(|sandbox| async move {
            let id = sandbox["sandbox_id"].as_str().unwrap_or_default();
            client.post(&sandbox_path(id, action)).await.map_err(|error| format!("{id}: {}", Chain(&error)))
        })
        .buffer_unordered(CONCURRENCY);
    let mut failures = Vec::new();
    while let Some(outcome) = outcomes.next().await {
        progress.inc(1);
        failures.extend(outcome.err());
    }
    progress.finish_and_clear();
    match failures.first() {
        None => Ok(json!({ "status": "completed", "drained": total })),
        Some(first) => Err(CtlError::Partial { failed: failures.len(), total, first: first.clone() }),
    }
}

fn confirm(total: usize, status: DrainStatus) -> Result<(), CtlError> {
    let consequence = status.consequence();
    if !std::io::stdin().is_terminal() {
        let text = format!("{total} {} sandboxes would be {consequence}; confirm with --yes", status.name());
        return Err(CtlError::Usage(text));
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{total} {} sandboxes will be {consequence}. Continue? [y/N] ", status.name());
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CtlError::Usage("nothing was done".to_owned()))
}
