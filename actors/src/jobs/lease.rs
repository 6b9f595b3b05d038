//! One run under the job's lease: acquire it, extend it while the job runs, give it back with the record of the run.
//!
//! Clocks of replicas may be wrong, so no stored time decides who holds a lease. A holder extends its lease four times in
//! a lease's length and stops when three quarters of it pass without success, on its own monotonic clock. Another replica
//! takes a lease over that it has seen unchanged for as long, on its own monotonic clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Job, JobContext, JobError};
use crate::SPANS;
use crate::actor::RunRecord;
use crate::error::Chain;
use crate::ports::{DueCondition, JobLease, LeaseOutcome, LeaseRequest, StoreError};

/// Whose turn it is to run a job, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// A timer's run: only if the last one, on any replica, ended at least this long ago.
    IfDue(Duration),
    /// An operator's run.
    Now,
    /// An operator's run that takes the lease from its holder.
    Force,
}

/// The outcome of an attempt to run a job.
#[derive(Debug)]
pub(super) enum Attempt<R> {
    /// The job ran.
    Ran { record: RunRecord, result: Result<R, JobError> },
    /// Another replica is running it.
    LeaseHeldElsewhere(JobLease),
    /// It ran recently.
    NotDue(JobLease),
    /// The store failed before the run.
    StoreFailed(StoreError),
}

/// A lease that another replica holds, and since when it is unchanged.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    lease: JobLease,
    since: Instant,
}

impl Observed {
    /// What is known after the lease was seen like this now.
    pub(super) fn update(seen: Option<Self>, lease: JobLease, now: Instant) -> Self {
        match seen {
            Some(seen) if seen.is_unchanged(&lease) => seen,
            _ => Self { lease, since: now },
        }
    }

    fn is_unchanged(&self, lease: &JobLease) -> bool {
        (&self.lease.holder, self.lease.term, self.lease.expires_at) == (&lease.holder, lease.term, lease.expires_at)
    }

    /// The lease, if its holder must have stopped.
    fn stale(&self, lease_length: Duration, now: Instant) -> Option<JobLease> {
        (now.duration_since(self.since) >= hold(lease_length)).then(|| self.lease.clone())
    }
}

/// How long a holder goes on without an extension.
fn hold(lease: Duration) -> Duration {
    lease / 4 * 3
}

/// The time between two extensions, and between two looks at a lease that another replica holds.
pub(super) fn extension_interval(lease: Duration) -> Duration {
    lease / 4
}

/// Runs the job once, unless another replica is running it or it is not due.
pub(super) async fn run_under_lease<J: Job>(
    context: Arc<JobContext>,
    job: Arc<J>,
    activation: Activation,
    observed: Option<Observed>,
    stop: CancellationToken,
) -> Attempt<J::Report> {
    let sent = Instant::now();
    let mut held = match acquire::<J>(&context, activation, observed).await {
        Ok(LeaseOutcome::Acquired(held)) => held,
        Ok(LeaseOutcome::Refused(other)) if other.is_held() => return Attempt::LeaseHeldElsewhere(other),
        Ok(LeaseOutcome::Refused(other)) => return Attempt::NotDue(other),
        Err(error) => return Attempt::StoreFailed(error),
    };
    let (started_at, started) = (context.clock.now(), Instant::now());
    let result = run_and_extend(&context, job, &held, sent, stop).await;
    let record = RunRecord {
        replica: context.replica.clone(),
        started_at,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        report: result.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()),
        error: result.as_ref().err().map(|error| Chain(error).to_string()),
    };
    held.ran_at = Some(context.clock.now());
    held.last_run = serde_json::to_string(&record).ok();
    match context.store.release_lease(&held).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(event = "lease_lost", job = %J::NAME, "the lease was taken over before it was given back");
        }
        Err(error) => {
            let error = Chain(&error);
            tracing::warn!(event = "lease_release_failed", job = %J::NAME, %error, "the lease expires by itself");
        }
    }
    Attempt::Ran { record, result }
}

async fn acquire<J: Job>(
    context: &JobContext,
    activation: Activation,
    observed: Option<Observed>,
) -> Result<LeaseOutcome, StoreError> {
    let now = context.clock.now();
    let stale = match activation {
        Activation::Force => context.store.read_lease(J::NAME).await?,
        Activation::IfDue(_) | Activation::Now => {
            observed.and_then(|observed| observed.stale(context.lease, Instant::now()))
        }
    };
    let due = match activation {
        Activation::IfDue(interval) => {
            Some(DueCondition { ran_until: now.minus(interval), not_after: now.plus(interval) })
        }
        Activation::Now | Activation::Force => None,
    };
    let (job, holder, until) = (J::NAME, context.replica.clone(), now.plus(context.lease));
    let outcome = context.store.acquire_lease(&LeaseRequest { job, holder, until, stale, due }).await?;
    if let (LeaseOutcome::Acquired(lease), Some(due)) = (&outcome, due)
        && let Some(ran_at) = lease.ran_at.filter(|ran_at| *ran_at > due.not_after)
    {
        tracing::warn!(event = "clock_was_ahead", %job, ran_at = ran_at.0, "the last run is stamped in the future");
    }
    Ok(outcome)
}

async fn run_and_extend<J: Job>(
    context: &JobContext,
    job: Arc<J>,
    held: &JobLease,
    mut extended: Instant,
    stop: CancellationToken,
) -> Result<J::Report, JobError> {
    // In its own task, so that a panic ends the run and nothing else.
    let mut run = {
        let stop = stop.clone();
        let span = tracing::info_span!(target: SPANS, "job", otel.name = J::NAME.as_str());
        AbortOnDrop(tokio::spawn(async move { job.run(&stop).await }.instrument(span)))
    };
    let timeout = context.stop_timeout;
    let stop_timed_out = async {
        stop.cancelled().await;
        sleep(timeout).await;
    };
    tokio::pin!(stop_timed_out);
    loop {
        tokio::select! {
            biased;
            ended = &mut run.0 => return ended.unwrap_or_else(|error| Err(JobError::Panicked(panic_message(error)))),
            () = &mut stop_timed_out => return Err(JobError::CutOff { timeout }),
            () = sleep(extension_interval(context.lease)) => extended = extend(context, held, extended).await?,
        }
    }
}

/// Extends the lease. A store that does not answer is tolerated until another replica may take the lease over. Returns
/// when the last successful request was sent.
async fn extend(context: &JobContext, held: &JobLease, extended: Instant) -> Result<Instant, JobError> {
    let sent = Instant::now();
    let until = context.clock.now().plus(context.lease);
    // An answer that comes too late is no answer: the lease may have been taken over meanwhile.
    let deadline = extended + hold(context.lease);
    match tokio::time::timeout_at(deadline, context.store.extend_lease(held, until)).await {
        Ok(Ok(true)) => Ok(sent),
        Ok(Ok(false)) | Err(_) => Err(JobError::LeaseLost),
        Ok(Err(_)) if Instant::now() < deadline => Ok(extended),
        Ok(Err(_)) => Err(JobError::LeaseLost),
    }
}

/// Aborts the run when the future that waits for it is dropped: it must not go on without its lease.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panic_message(error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "the run was aborted".to_owned() };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
