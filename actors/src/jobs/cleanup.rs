//! Cleanup: deletes pending_deletion sandboxes at the CSP.
//!
//! Each failure is stored with the time of the next attempt, so that one bad sandbox delays no other and a restart
//! forgets nothing. A crash between the CSP's deletion and the table's costs one more call, which the CSP answers with
//! 404.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::concurrency::{for_each, listed};
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::error::Chain;
use crate::ports::{Clock, CspClient, CspError, Listing, SandboxStore, WriteOutcome};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Event, Sandbox, Status, Timestamp};

/// The waits between the attempts to delete one sandbox. Minutes, because what the CSP cannot delete now it rarely can a
/// second later.
const ATTEMPTS: RetryPolicy = RetryPolicy { base: Duration::from_secs(60), max: Duration::from_secs(3600) };

/// The longest error text that is stored with a sandbox, in characters.
const MAX_ERROR_CHARS: usize = 500;

/// The result of a cleanup run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupReport {
    /// Deleted at the CSP, or already gone there.
    pub deleted: u64,
    /// Failed; another attempt follows.
    pub failed: u64,
    /// Failed for the last time.
    pub gave_up: u64,
    /// Not yet due for the next attempt.
    pub waiting: u64,
}

/// The parameters of the job.
#[derive(Clone, Copy, Debug)]
pub struct CleanupSettings {
    /// Concurrent deletions.
    pub concurrency: usize,
    /// The wait before each deletion.
    pub delay: Duration,
    /// The number of failed attempts that makes a sandbox deletion_failed.
    pub max_attempts: u32,
    /// How long a tombstone is kept.
    pub deleted_retention: Duration,
}

/// The job.
#[derive(Clone)]
pub struct Cleanup {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) csp: Arc<dyn CspClient>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: CleanupSettings,
    pub(crate) jitter: Jitter,
}

/// The outcome for one sandbox.
enum Outcome {
    Deleted,
    Failed,
    GaveUp,
    /// Another writer changed the sandbox first. The next run sees the result.
    Superseded,
}

#[async_trait]
impl Job for Cleanup {
    type Report = CleanupReport;

    const NAME: ActorName = ActorName::Cleanup;

    async fn run(&self, stop: &CancellationToken) -> Result<CleanupReport, JobError> {
        // Pending deletions are sorted by when their next attempt is due.
        let due = Listing::of(Status::PendingDeletion).until(self.clock.now());
        let pending = self.store.count_in(&[Status::PendingDeletion]).await?.pending_deletion;
        let mut report = CleanupReport { waiting: pending, ..CleanupReport::default() };
        // Cancelled also by an error that concerns every sandbox.
        let stop = &stop.child_token();
        let delete = |sandbox| async move {
            sleep(self.settings.delay).await;
            let deleted = self.delete(&sandbox).await;
            if matches!(deleted, Err(JobError::Csp(_))) {
                stop.cancel();
            }
            deleted
        };
        let tally = |outcome| {
            report.waiting = report.waiting.saturating_sub(1);
            match outcome {
                Outcome::Deleted => report.deleted += 1,
                Outcome::Failed => report.failed += 1,
                Outcome::GaveUp => report.gave_up += 1,
                Outcome::Superseded => {}
            }
        };
        for_each(listed(self.store.pages(due)), self.settings.concurrency, stop, delete, tally).await?;
        Ok(report)
    }

    fn measure(&self, outcome: &'static str, duration: Duration) {
        metrics::counter!("broker_cleanup_total", "outcome" => outcome).increment(1);
        metrics::histogram!("broker_cleanup_duration_seconds").record(duration.as_secs_f64());
    }
}

impl Cleanup {
    /// Deletes one sandbox.
    ///
    /// # Errors
    ///
    /// [`JobError::Csp`] if the error concerns every sandbox; the run then ends.
    async fn delete(&self, sandbox: &Sandbox) -> Result<Outcome, JobError> {
        let answer = self.csp.delete(&sandbox.external_id).await;
        let now = self.clock.now();
        let (event, outcome) = match answer {
            Ok(_) => (Event::DeletedAtCsp { keep_until: now.plus(self.settings.deleted_retention) }, Outcome::Deleted),
            // These say nothing about this sandbox, so they do not count as attempts.
            Err(error @ (CspError::BreakerOpen { .. } | CspError::Unauthorized { .. })) => {
                return Err(error.into());
            }
            Err(error @ CspError::Throttled { retry_after }) => {
                let wait = retry_after.unwrap_or(ATTEMPTS.base);
                (failure(&error, sandbox.deletion_retry_count, Some(now.plus(wait))), Outcome::Failed)
            }
            Err(error) => {
                let attempts = sandbox.deletion_retry_count.saturating_add(1);
                let wait = ATTEMPTS.wait_after(attempts, &self.jitter);
                let retry_at = (attempts < self.settings.max_attempts).then(|| now.plus(wait));
                let outcome = if retry_at.is_some() { Outcome::Failed } else { Outcome::GaveUp };
                let (sandbox_id, cause) = (&sandbox.sandbox_id, Chain(&error));
                tracing::warn!(event = "deletion_failed", %sandbox_id, attempts, error = %cause, "deletion failed");
                (failure(&error, attempts, retry_at), outcome)
            }
        };
        count(&outcome);
        let Ok(update) = sandbox.update(event, now) else { return Ok(Outcome::Superseded) };
        match self.store.update(&update).await? {
            WriteOutcome::Done => Ok(outcome),
            _ => Ok(Outcome::Superseded),
        }
    }
}

fn failure(error: &CspError, attempts: u32, retry_at: Option<Timestamp>) -> Event {
    let error = Chain(error).to_string().chars().take(MAX_ERROR_CHARS).collect();
    Event::DeletionAttemptFailed { attempts, retry_at, error }
}

fn count(outcome: &Outcome) {
    match outcome {
        Outcome::Deleted => metrics::counter!("broker_cleanup_deleted_total").increment(1),
        Outcome::Failed | Outcome::GaveUp => metrics::counter!("broker_cleanup_failed_total").increment(1),
        Outcome::Superseded => {}
    }
}
