//! Cleanup: deletes pending_deletion sandboxes at the CSP.
//!
//! Each failure is stored with the time of the next attempt, so that one bad sandbox delays no other and a restart
//! forgets nothing. A crash between the CSP's deletion and the table's costs one more call, which the CSP answers with
//! 404. A 404 alone proves nothing, because a gateway or a wrong base URL answers the same: the CSP's listing must lack
//! the account too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::concurrency::{for_each, listed};
use super::pace::Pace;
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::error::{Chain, cause};
use crate::ports::{
    Clock, CspClient, CspDeletion, CspError, Listing, PreDelete, PreDeleteRecord, Prepared, Presence, SandboxStore,
    WriteOutcome,
};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Event, Sandbox, Status};

/// The waits between the attempts to delete one sandbox. Minutes, because what the CSP cannot delete now it rarely can a
/// second later.
const ATTEMPTS: RetryPolicy = RetryPolicy { base: Duration::from_secs(60), max: Duration::from_secs(3600) };

/// The wait between two attempts for a deletion_failed sandbox.
const RARE_ATTEMPT: Duration = Duration::from_secs(86_400);

/// A run starts no deletion after this time. The next run goes on at once.
const MAX_RUN: Duration = Duration::from_secs(300);

/// How long the record of a step before a deletion is kept.
const RECORD_RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// The longest error text that is stored with a sandbox, in characters.
const MAX_ERROR_CHARS: usize = 500;

/// The result of a cleanup run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupReport {
    /// Deleted at the CSP, or already gone there.
    pub deleted: u64,
    /// Accepted by the CSP and not finished.
    #[serde(default)]
    pub accepted: u64,
    /// Failed; another attempt follows.
    pub failed: u64,
    /// Given up; one attempt a day follows.
    pub gave_up: u64,
    /// Not yet due for the next attempt, or not reached.
    pub waiting: u64,
    /// Whether the run ended before it reached all that were due.
    #[serde(default)]
    pub unfinished: bool,
    /// What the answers say about the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The parameters of the job.
#[derive(Clone, Copy, Debug)]
pub struct CleanupSettings {
    /// Concurrent deletions.
    pub concurrency: usize,
    /// The gap between the starts of two deletions.
    pub delay: Duration,
    /// How long deletions of one sandbox may fail until it becomes deletion_failed.
    pub give_up: Duration,
    /// The number of failed attempts that makes a sandbox deletion_failed; 0 for any number.
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
    pub(crate) pre_delete: Option<Arc<dyn PreDelete>>,
    pub(crate) pace: Arc<Pace>,
    /// Called after a run that deleted something: the CSP replaces what is deleted.
    pub(crate) after_deletions: Arc<dyn Fn() + Send + Sync>,
}

/// The outcome for one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Deleted,
    Accepted,
    Failed(Failure),
    GaveUp(Failure),
    /// Not attempted.
    Skipped,
    /// Another writer changed the sandbox first. The next run sees the result.
    Superseded,
}

/// What a failure may say about the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// 403.
    Forbidden,
    /// 404, and the account is not gone.
    DoubtfulNotFound,
    Other,
}

/// The failures of a run by what they may say about the configuration.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    attempts: u64,
    forbidden: u64,
    doubtful: u64,
}

impl Failures {
    fn add(&mut self, outcome: Outcome) {
        self.attempts += u64::from(outcome != Outcome::Skipped);
        if let Outcome::Failed(failure) | Outcome::GaveUp(failure) = outcome {
            self.forbidden += u64::from(failure == Failure::Forbidden);
            self.doubtful += u64::from(failure == Failure::DoubtfulNotFound);
        }
    }

    fn problem(self) -> Option<String> {
        let Self { attempts, forbidden, doubtful } = self;
        if attempts > 0 && forbidden == attempts {
            return Some("the CSP forbids every deletion (HTTP 403); check the rights of CSP_API_TOKEN".to_owned());
        }
        if attempts > 1 && doubtful == attempts {
            return Some("every deletion is answered 404, and no account is gone; CSP_BASE_URL looks wrong".to_owned());
        }
        None
    }
}

#[async_trait]
impl Job for Cleanup {
    type Report = CleanupReport;

    const NAME: ActorName = ActorName::Cleanup;

    async fn run(&self, stop: &CancellationToken) -> Result<CleanupReport, JobError> {
        let now = self.clock.now();
        // Pending deletions are sorted by when their next attempt is due, failed ones by when they were given up.
        let due = Listing::of(Status::PendingDeletion).until(now);
        let rare = Listing::of(Status::DeletionFailed).until(now.minus(RARE_ATTEMPT));
        let due = listed(self.store.pages(due)).chain(listed(self.store.pages(rare)));
        let pending = self.store.count_of(Listing::of(Status::PendingDeletion)).await?;
        let run = Run {
            job: self,
            // Cancelled also by an error that concerns every sandbox, and by the end of the run's time.
            stop: stop.child_token(),
            ends_at: Instant::now() + MAX_RUN,
            is_unfinished: AtomicBool::new(false),
            presence: OnceCell::new(),
        };
        let mut report = CleanupReport { waiting: pending, ..CleanupReport::default() };
        let mut failures = Failures::default();
        let tally = |outcome| {
            failures.add(outcome);
            if outcome == Outcome::Skipped {
                return;
            }
            report.waiting = report.waiting.saturating_sub(1);
            match outcome {
                Outcome::Deleted => report.deleted += 1,
                Outcome::Accepted => report.accepted += 1,
                Outcome::Failed(_) => report.failed += 1,
                Outcome::GaveUp(_) => report.gave_up += 1,
                Outcome::Skipped | Outcome::Superseded => {}
            }
        };
        let delete = |sandbox| run.delete(sandbox);
        let result = for_each(due, self.settings.concurrency, &run.stop, delete, tally).await;
        report.unfinished = run.is_unfinished.load(Ordering::Relaxed);
        report.problem = failures.problem();
        if let Some(problem) = &report.problem {
            metrics::counter!("broker_cleanup_configuration_errors_total").increment(1);
            tracing::error!(event = "csp_configuration", problem, "the CSP's answers point to a wrong setting");
        }
        if report.deleted > 0 {
            (self.after_deletions)();
        }
        result.map(|()| report)
    }

    fn is_unfinished(report: &CleanupReport) -> bool {
        report.unfinished
    }

    fn measure(&self, outcome: &'static str, duration: Duration) {
        metrics::counter!("broker_cleanup_total", "outcome" => outcome).increment(1);
        metrics::histogram!("broker_cleanup_duration_seconds").record(duration.as_secs_f64());
    }
}

/// One run of the job.
struct Run<'a> {
    job: &'a Cleanup,
    /// Prevents further deletions from being started.
    stop: CancellationToken,
    ends_at: Instant,
    is_unfinished: AtomicBool,
    /// What the CSP's listing proves. Read when the first answer needs it; `None` if that failed.
    presence: OnceCell<Option<Presence>>,
}

impl Run<'_> {
    /// Deletes one sandbox.
    ///
    /// # Errors
    ///
    /// [`JobError::Csp`] if the error concerns every sandbox; the run then ends.
    async fn delete(&self, sandbox: Sandbox) -> Result<Outcome, JobError> {
        if sandbox.is_frozen(self.job.clock.now()) {
            return Ok(Outcome::Skipped);
        }
        let Some((sandbox, preparation)) = self.job.prepare(sandbox).await? else { return Ok(Outcome::Superseded) };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(Outcome::Skipped),
            () = sleep_until(self.ends_at) => {
                self.is_unfinished.store(true, Ordering::Relaxed);
                self.stop.cancel();
                return Ok(Outcome::Skipped);
            }
            () = self.job.pace.wait() => {}
        }
        let answer = self.delete_accounts(&sandbox).await;
        if let Err(error) = &answer
            && (error.blocked_for().is_some() || matches!(error, CspError::Unauthorized { .. }))
        {
            // It says nothing about this sandbox, so it does not count as an attempt.
            self.stop.cancel();
            return Err(error.clone().into());
        }
        let (event, outcome) = self.job.decide(&sandbox, answer);
        count(outcome);
        let Ok(update) = sandbox.update(event, self.job.clock.now()) else { return Ok(Outcome::Superseded) };
        match self.job.store.update(&update).await? {
            WriteOutcome::Done => {}
            _ => return Ok(Outcome::Superseded),
        }
        if let (Outcome::Deleted, Some(preparation)) = (outcome, preparation) {
            self.job.record(sandbox, preparation).await?;
        }
        Ok(outcome)
    }

    /// Deletes all accounts of a sandbox, and makes sure of what the answers leave open.
    async fn delete_accounts(&self, sandbox: &Sandbox) -> Result<CspDeletion, CspError> {
        let mut result = self.call(&sandbox.external_id).await?;
        if let Some(other) = &sandbox.replaced_by {
            self.job.pace.wait().await;
            let of_other = self.call(other).await?;
            // Two accounts share an id, so neither answer is believed before the listing lacks both.
            let is_accepted = [result, of_other].contains(&CspDeletion::Accepted);
            result = if is_accepted { CspDeletion::Accepted } else { CspDeletion::AlreadyGone };
        }
        if result == CspDeletion::AlreadyGone && !self.is_gone(sandbox).await {
            let problem = "the account is still in the CSP's listing, or no complete listing shows that it is not";
            return Err(CspError::ForeignNotFound(cause(problem)));
        }
        Ok(result)
    }

    async fn call(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        let answer = self.job.csp.delete(external_id).await;
        if answer.as_ref().is_err_and(CspError::is_overload) {
            self.job.pace.fail();
        }
        answer
    }

    /// Whether the CSP's listing shows that the sandbox is gone. An empty listing is more likely a fault than an empty
    /// tenant, so it shows nothing.
    async fn is_gone(&self, sandbox: &Sandbox) -> bool {
        let presence = self.presence.get_or_init(|| async {
            match self.job.csp.list().await {
                Ok(listing) => Some(listing.presence()),
                Err(error) => {
                    tracing::warn!(event = "deletions_unconfirmed", error = %Chain(&error), "no listing to confirm with");
                    None
                }
            }
        });
        presence.await.as_ref().is_some_and(|presence| !presence.is_empty() && presence.lacks(sandbox))
    }
}

/// What the step before a deletion did.
struct Preparation {
    is_skipped: bool,
    failed_reason: Option<String>,
}

impl Cleanup {
    /// Does the step before the deletion, unless it was done or there is none. Its failure does not stop the deletion.
    /// `None` if another writer changed the sandbox.
    async fn prepare(&self, sandbox: Sandbox) -> Result<Option<(Sandbox, Option<Preparation>)>, JobError> {
        let Some(step) = &self.pre_delete else { return Ok(Some((sandbox, None))) };
        let mut preparation = Preparation { is_skipped: false, failed_reason: None };
        if sandbox.niosxaas_cleaned_at.is_some() {
            return Ok(Some((sandbox, Some(preparation))));
        }
        match step.prepare(&sandbox).await {
            Ok(Prepared::Reported) => preparation.is_skipped = true,
            Err(error) => preparation.failed_reason = Some(text_of(&error)),
            Ok(Prepared::Cleaned) => {
                let Ok(update) = sandbox.update(Event::Prepared, self.clock.now()) else { return Ok(None) };
                if self.store.update(&update).await? != WriteOutcome::Done {
                    return Ok(None);
                }
                return Ok(Some((sandbox.after(&update.mutation), Some(preparation))));
            }
        }
        Ok(Some((sandbox, Some(preparation))))
    }

    async fn record(&self, sandbox: Sandbox, preparation: Preparation) -> Result<(), JobError> {
        let Preparation { is_skipped, failed_reason } = preparation;
        let (cleaned_at, deleted_at) = (sandbox.niosxaas_cleaned_at, self.clock.now());
        let ttl = deleted_at.plus(RECORD_RETENTION);
        let record = PreDeleteRecord { sandbox, cleaned_at, is_skipped, failed_reason, deleted_at, ttl };
        Ok(self.store.record_pre_delete(&record).await?)
    }

    /// What the answer to a deletion makes of the sandbox.
    fn decide(&self, sandbox: &Sandbox, answer: Result<CspDeletion, CspError>) -> (Event, Outcome) {
        let now = self.clock.now();
        let error = match answer {
            Ok(CspDeletion::Deleted | CspDeletion::AlreadyGone) => {
                let keep_until = now.plus(self.settings.deleted_retention);
                return (Event::DeletedAtCsp { keep_until }, Outcome::Deleted);
            }
            Ok(CspDeletion::Accepted) => {
                // The longer it takes, the rarer the question.
                let since = now.since(sandbox.deletion_requested_at.unwrap_or(now));
                let wait = (since / 4).clamp(ATTEMPTS.base, ATTEMPTS.max);
                return (Event::DeletionAccepted { retry_at: now.plus(wait) }, Outcome::Accepted);
            }
            Err(error) => error,
        };
        let failure = match &error {
            CspError::Refused { status: 403, .. } => Failure::Forbidden,
            CspError::ForeignNotFound(_) => Failure::DoubtfulNotFound,
            _ => Failure::Other,
        };
        let failing_since = sandbox.deletion_failing_since.unwrap_or(now);
        // Throttling concerns no single sandbox, so it is no attempt.
        let (attempts, wait) = match &error {
            CspError::Throttled { retry_after } => (sandbox.deletion_retry_count, retry_after.unwrap_or(ATTEMPTS.base)),
            _ => {
                let attempts = sandbox.deletion_retry_count.saturating_add(1);
                (attempts, ATTEMPTS.wait_after(attempts, &self.jitter))
            }
        };
        let CleanupSettings { give_up, max_attempts, .. } = self.settings;
        let is_last = sandbox.status == Status::DeletionFailed
            || now.since(failing_since) >= give_up
            || (max_attempts > 0 && attempts >= max_attempts);
        let retry_at = (!is_last).then(|| now.plus(wait));
        let (sandbox_id, cause) = (&sandbox.sandbox_id, Chain(&error));
        tracing::warn!(event = "deletion_failed", %sandbox_id, attempts, error = %cause, "deletion failed");
        let event = Event::DeletionAttemptFailed { attempts, failing_since, retry_at, error: text_of(&error) };
        (event, if is_last { Outcome::GaveUp(failure) } else { Outcome::Failed(failure) })
    }
}

fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string().chars().take(MAX_ERROR_CHARS).collect()
}

fn count(outcome: Outcome) {
    match outcome {
        Outcome::Deleted => metrics::counter!("broker_cleanup_deleted_total").increment(1),
        Outcome::Failed(_) | Outcome::GaveUp(_) => metrics::counter!("broker_cleanup_failed_total").increment(1),
        Outcome::Accepted | Outcome::Skipped | Outcome::Superseded => {}
    }
}
