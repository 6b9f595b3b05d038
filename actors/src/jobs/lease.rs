//! One run under the job's lease: acquire it, extend it while the job runs, give it back with the record of the run.

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
use crate::ports::{JobLease, LeaseOutcome, StoreError};
use crate::sandbox::Timestamp;

/// A timer's run is due only if the last one, on any replica, ended at least this long ago.
pub(super) type DueAfter = Option<Duration>;

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

/// Runs the job once, unless another replica is running it or it is not due.
pub(super) async fn run_under_lease<J: Job>(
    context: Arc<JobContext>,
    job: Arc<J>,
    due_after: DueAfter,
    stop: CancellationToken,
) -> Attempt<J::Report> {
    let JobContext { store, clock, replica, lease, .. } = context.as_ref();
    let now = clock.now();
    let due_since = due_after.map(|interval| now.minus(interval));
    let mut held = match store.acquire_lease(J::NAME, replica, now, now.plus(*lease), due_since).await {
        Ok(LeaseOutcome::Acquired(held)) => held,
        Ok(LeaseOutcome::Refused(other)) if other.expires_at > now => return Attempt::LeaseHeldElsewhere(other),
        Ok(LeaseOutcome::Refused(other)) => return Attempt::NotDue(other),
        Err(error) => return Attempt::StoreFailed(error),
    };
    let started = Instant::now();
    let result = run_and_extend(&context, job, &held, stop).await;
    let record = RunRecord {
        replica: replica.clone(),
        started_at: now,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        report: result.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()),
        error: result.as_ref().err().map(|error| Chain(error).to_string()),
    };
    held.ran_at = Some(clock.now());
    held.last_run = serde_json::to_string(&record).ok();
    match store.release_lease(&held).await {
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

async fn run_and_extend<J: Job>(
    context: &JobContext,
    job: Arc<J>,
    held: &JobLease,
    stop: CancellationToken,
) -> Result<J::Report, JobError> {
    // In its own task, so that a panic ends the run and nothing else.
    let mut run = {
        let stop = stop.clone();
        let span = tracing::info_span!(target: SPANS, "job", otel.name = J::NAME.as_str());
        AbortOnDrop(tokio::spawn(async move { job.run(&stop).await }.instrument(span)))
    };
    let mut expires_at = held.expires_at;
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
            () = sleep(context.lease / 3) => expires_at = extend(context, held, expires_at).await?,
        }
    }
}

/// Extends the lease. A store that does not answer is tolerated until the lease has expired.
async fn extend(context: &JobContext, held: &JobLease, expires_at: Timestamp) -> Result<Timestamp, JobError> {
    let until = context.clock.now().plus(context.lease);
    match context.store.extend_lease(held, until).await {
        Ok(true) => Ok(until),
        Ok(false) => Err(JobError::LeaseLost),
        Err(_) if context.clock.now() < expires_at => Ok(expires_at),
        Err(_) => Err(JobError::LeaseLost),
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
