//! One run under the job's lease: take it, keep it while the job runs, give it back with the record of the run.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::driver::Surroundings;
use super::{Job, JobError, RunRecord, StopSignal};
use crate::SPANS;
use crate::ports::{JobLease, LeaseOutcome, StoreError};
use crate::sandbox::Timestamp;

/// A run that is due by the timer only if the last one, on any replica, ended this long ago.
pub(super) type DueAfter = Option<Duration>;

/// What became of an attempt to run.
#[derive(Debug)]
pub(super) enum Attempt<R> {
    /// The job ran.
    Ran { record: RunRecord, result: Result<R, JobError> },
    /// Another replica runs it, or ran it recently.
    NotNow(JobLease),
    /// The lease could not be asked for.
    NoLease(StoreError),
}

/// Runs the job once, if nobody else does.
pub(super) async fn run_under_lease<J: Job>(
    surroundings: Arc<Surroundings>,
    job: Arc<J>,
    due_after: DueAfter,
    stop: StopSignal,
) -> Attempt<J::Report> {
    let Surroundings { store, clock, replica, lease, .. } = surroundings.as_ref();
    let now = clock.now();
    let due_since = due_after.map(|interval| now.minus(interval));
    let mut held = match store.acquire_lease(job.name(), replica, now, now.plus(*lease), due_since).await {
        Ok(LeaseOutcome::Acquired(held)) => held,
        Ok(LeaseOutcome::Refused(other)) => return Attempt::NotNow(other),
        Err(error) => return Attempt::NoLease(error),
    };
    let begun = Instant::now();
    let result = run_and_extend(&surroundings, &job, &held, stop).await;
    let record = RunRecord {
        replica: replica.clone(),
        started_at: now,
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        report: result.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()),
        error: result.as_ref().err().map(ToString::to_string),
    };
    held.ran_at = Some(clock.now());
    held.last_run = serde_json::to_string(&record).ok();
    match store.release_lease(&held).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!(job = job.name(), "the lease was taken over before it could be given back"),
        Err(error) => tracing::warn!(job = job.name(), %error, "the lease could not be given back and will expire"),
    }
    Attempt::Ran { record, result }
}

async fn run_and_extend<J: Job>(
    surroundings: &Surroundings,
    job: &Arc<J>,
    held: &JobLease,
    stop: StopSignal,
) -> Result<J::Report, JobError> {
    // A task of its own, so that a panic ends the run and nothing else.
    let mut run = {
        let (job, stop) = (Arc::clone(job), stop.clone());
        let span = tracing::info_span!(target: SPANS, "job", otel.name = job.name());
        AbortOnDrop(tokio::spawn(async move { job.run(&stop).await }.instrument(span)))
    };
    let mut expires_at = held.expires_at;
    let patience = surroundings.stop_patience;
    let overstay = async {
        let mut stop = stop;
        stop.requested().await;
        sleep(patience).await;
    };
    tokio::pin!(overstay);
    loop {
        tokio::select! {
            biased;
            ended = &mut run.0 => return ended.unwrap_or_else(|error| Err(JobError::Panicked(panic_message(error)))),
            () = &mut overstay => return Err(JobError::CutOff { patience }),
            () = sleep(surroundings.lease / 3) => expires_at = extend(surroundings, held, expires_at).await?,
        }
    }
}

/// Extends the lease; a store that does not answer is forgiven until the lease has run out.
async fn extend(surroundings: &Surroundings, held: &JobLease, expires_at: Timestamp) -> Result<Timestamp, JobError> {
    let now = surroundings.clock.now();
    let until = now.plus(surroundings.lease);
    match surroundings.store.extend_lease(held, until).await {
        Ok(true) => Ok(until),
        Ok(false) => Err(JobError::LeaseLost),
        Err(_) if surroundings.clock.now() < expires_at => Ok(expires_at),
        Err(_) => Err(JobError::LeaseLost),
    }
}

/// A run that nobody waits for any more must not go on without its lease.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

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
