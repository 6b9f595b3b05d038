//! The actor that drives one job.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::lease::{Activation, Attempt, Observed, extension_interval, run_under_lease};
use super::{Job, JobContext, JobError};
use crate::actor::{Activity, ActorName, ActorStatus, Control, DesiredState, RunRecord};
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::ports::{CspError, JobLease};
use crate::retry::{RetryPolicy, Waits};
use crate::sandbox::{ReplicaId, Timestamp};

/// The first wait after a failed run. It doubles with each further failure, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The shortest wait before a job that was not due is checked again.
const MIN_RECHECK: Duration = Duration::from_secs(1);

type Reply<R> = oneshot::Sender<Result<R, JobError>>;

/// The address of a job's driver.
pub struct JobHandle<J: Job> {
    address: Addr<Driver<J>>,
}

impl<J: Job> Clone for JobHandle<J> {
    fn clone(&self) -> Self {
        Self { address: self.address.clone() }
    }
}

impl<J: Job> JobHandle<J> {
    /// Starts the driver in `arbiter`. It does nothing until [`JobControl::apply_control`] passes it the operators'
    /// command.
    pub(crate) fn start(
        arbiter: &ArbiterHandle,
        job: J,
        interval: Duration,
        job_context: Arc<JobContext>,
        liveness: LivenessGuard,
    ) -> Self {
        metrics::gauge!("broker_job_interval_seconds", "actor" => J::NAME.as_str()).set(interval.as_secs_f64());
        let driver = move |_: &mut Context<Driver<J>>| Driver {
            job: Arc::new(job),
            interval,
            job_context,
            control: None,
            desired_state: DesiredState::Paused,
            phase: Phase::Idle { next_run: None },
            queued: Vec::new(),
            iteration: 0,
            last_run: None,
            leader: None,
            observed: None,
            failures: None,
            due_after: interval,
            timer: None,
            stopped: None,
            _liveness: liveness,
        };
        Self { address: Driver::start_in_arbiter(arbiter, driver) }
    }

    /// Runs the job now, or after the current run, and returns its report.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub async fn activate(&self) -> Result<J::Report, JobError> {
        self.send_activation(None, Activation::Now).await
    }

    /// Runs this variant of the job now.
    ///
    /// # Errors
    ///
    /// See [`JobError`]; [`JobError::Busy`] while another run is in progress.
    pub async fn activate_as(&self, variant: J) -> Result<J::Report, JobError> {
        self.send_activation(Some(Arc::new(variant)), Activation::Now).await
    }

    /// Runs the job soon, without waiting for it. Requests during a run are one run after it.
    pub(crate) fn request(&self) {
        let (reply, _) = oneshot::channel();
        self.address.do_send(Activate { variant: None, activation: Activation::Now, reply });
    }

    async fn send_activation(&self, variant: Option<Arc<J>>, activation: Activation) -> Result<J::Report, JobError> {
        let (reply, answer) = oneshot::channel();
        self.address.do_send(Activate { variant, activation, reply });
        answer.await.unwrap_or(Err(JobError::Stopping))
    }
}

/// A job's driver, whatever its job.
#[async_trait]
pub(crate) trait JobControl: Send + Sync {
    /// Passes the operators' command to the driver; `None` if there never was one.
    fn apply_control(&self, control: Option<Control>);

    /// The job's status; `None` if its actor is dead.
    async fn status(&self) -> Option<ActorStatus>;

    /// Runs the job now, or after the current run. With `force`, takes the lease from its holder.
    async fn run_now(&self, force: bool) -> Result<(), JobError>;

    /// Ends the current run, gives the lease back and ends the actor.
    async fn stop(&self);
}

#[async_trait]
impl<J: Job> JobControl for JobHandle<J> {
    fn apply_control(&self, control: Option<Control>) {
        self.address.do_send(ApplyControl(control));
    }

    async fn status(&self) -> Option<ActorStatus> {
        self.address.send(GetStatus).await.ok()
    }

    async fn run_now(&self, force: bool) -> Result<(), JobError> {
        let activation = if force { Activation::Force } else { Activation::Now };
        self.send_activation(None, activation).await.map(|_| ())
    }

    async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        self.address.do_send(Stop(reply));
        // An actor that is already gone counts as stopped.
        let _ = stopped.await;
    }
}

enum Phase {
    Idle { next_run: Option<Timestamp> },
    Running { since: Timestamp, stop: CancellationToken },
}

struct Driver<J: Job> {
    job: Arc<J>,
    /// The time from the end of a run to the next one.
    interval: Duration,
    job_context: Arc<JobContext>,
    control: Option<Control>,
    desired_state: DesiredState,
    phase: Phase,
    /// Activations that arrived during a run. One more run serves them all.
    queued: Vec<Reply<J::Report>>,
    iteration: u64,
    last_run: Option<RunRecord>,
    leader: Option<ReplicaId>,
    /// The lease while another replica holds it.
    observed: Option<Observed>,
    /// The waits after failed runs; `None` after a successful one.
    failures: Option<Waits>,
    /// How long ago the last run must have ended for the next one: the interval, or less after a failed run.
    due_after: Duration,
    /// The wait for the next run. At most one exists.
    timer: Option<SpawnHandle>,
    /// Set once a stop was requested; answered when the current run has ended.
    stopped: Option<oneshot::Sender<()>>,
    _liveness: LivenessGuard,
}

impl<J: Job> Actor for Driver<J> {
    type Context = Context<Self>;
}

impl<J: Job> Driver<J> {
    fn start_run(
        &mut self,
        variant: Option<Arc<J>>,
        activation: Activation,
        replies: Vec<Reply<J::Report>>,
        context: &mut Context<Self>,
    ) {
        self.cancel_timer(context);
        let stop = CancellationToken::new();
        self.phase = Phase::Running { since: self.job_context.clock.now(), stop: stop.clone() };
        self.iteration += 1;
        let job = variant.unwrap_or_else(|| Arc::clone(&self.job));
        let (job_context, observed) = (Arc::clone(&self.job_context), self.observed.clone());
        let driver = context.address();
        tokio::spawn(async move {
            let attempt = run_under_lease(job_context, job, activation, observed, stop).await;
            driver.do_send(RunEnded { attempt, replies });
        });
    }

    /// Starts a run after `wait`, if then the last one, on any replica, ended at least `due_after` ago.
    fn schedule(&mut self, wait: Duration, due_after: Duration, context: &mut Context<Self>) {
        self.cancel_timer(context);
        self.due_after = due_after;
        self.phase = Phase::Idle { next_run: Some(self.job_context.clock.now().plus(wait)) };
        self.timer = Some(context.run_later(wait, move |driver, context| {
            driver.timer = None;
            if matches!(driver.phase, Phase::Idle { .. }) && driver.desired_state == DesiredState::Running {
                driver.start_run(None, Activation::IfDue(due_after), Vec::new(), context);
            }
        }));
    }

    /// Returns whether a timer was set.
    fn cancel_timer(&mut self, context: &mut Context<Self>) -> bool {
        let Some(timer) = self.timer.take() else { return false };
        context.cancel_future(timer);
        true
    }

    /// Records the outcome of an attempt. Returns its result, and the wait and the due time of the next one.
    fn record(&mut self, attempt: Attempt<J::Report>) -> (Result<J::Report, JobError>, Duration, Duration) {
        let interval = self.interval;
        let now = tokio::time::Instant::now();
        match attempt {
            Attempt::Ran { record, result } => {
                report_run(self.job.as_ref(), &record, &result);
                self.set_leader(record.replica.clone());
                self.last_run = Some(record);
                self.observed = None;
                let wait = match &result {
                    Ok(report) if J::is_unfinished(report) => MIN_RECHECK,
                    result => self.wait_after_run(result.as_ref().err()),
                };
                (result, wait, wait)
            }
            Attempt::LeaseHeldElsewhere(lease) => {
                self.see_lease(&lease);
                self.observed = Some(Observed::update(self.observed.take(), lease.clone(), now));
                let recheck = extension_interval(self.job_context.lease).min(interval);
                (Err(JobError::Busy { holder: lease.holder }), recheck, interval)
            }
            Attempt::NotDue(lease) => {
                self.see_lease(&lease);
                self.observed = None;
                let due_at = lease.ran_at.map_or(Timestamp(0), |at| at.plus(self.due_after));
                let wait = due_at.since(self.job_context.clock.now());
                let wait = wait.clamp(MIN_RECHECK, interval.max(MIN_RECHECK));
                (Err(JobError::Busy { holder: lease.holder }), wait, self.due_after)
            }
            Attempt::StoreFailed(error) => {
                let cause = Chain(&error);
                tracing::warn!(event = "lease_request_failed", job = %J::NAME, error = %cause, "no lease for the job");
                let wait = self.wait_after_run(Some(&JobError::Store(error.clone())));
                (Err(error.into()), wait, interval)
            }
        }
    }

    /// A failed run is repeated soon, unless only an operator or time can help.
    fn wait_after_run(&mut self, error: Option<&JobError>) -> Duration {
        match error {
            None => {
                self.failures = None;
                self.interval
            }
            Some(JobError::GuardRefused(_) | JobError::Paused | JobError::Stopping) => self.interval,
            Some(JobError::Csp(CspError::BreakerOpen { retry_in } | CspError::Silenced { retry_in })) => {
                (*retry_in).max(MIN_RECHECK).min(self.interval.max(MIN_RECHECK))
            }
            Some(_) => {
                let policy = RetryPolicy { base: FIRST_RETRY.min(self.interval), max: self.interval };
                let waits = self.failures.get_or_insert_with(|| policy.waits(&self.job_context.jitter));
                waits.next_wait().min(self.interval)
            }
        }
    }

    /// Learns from a refused lease what another replica did.
    fn see_lease(&mut self, lease: &JobLease) {
        self.set_leader(lease.holder.clone());
        let Some(record) = lease.record() else { return };
        if record.error.is_none() {
            set_last_success(J::NAME, &record);
        }
        self.last_run = Some(record);
    }

    fn set_leader(&mut self, leader: ReplicaId) {
        let is_leader = leader == self.job_context.replica;
        metrics::gauge!("broker_job_leader", "actor" => J::NAME.as_str()).set(f64::from(u8::from(is_leader)));
        self.leader = Some(leader);
    }

    fn stop_run(&self) {
        if let Phase::Running { stop, .. } = &self.phase {
            stop.cancel();
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Activate<J: Job> {
    variant: Option<Arc<J>>,
    activation: Activation,
    reply: Reply<J::Report>,
}

impl<J: Job> Handler<Activate<J>> for Driver<J> {
    type Result = ();

    fn handle(&mut self, message: Activate<J>, context: &mut Context<Self>) {
        let Activate { variant, activation, reply } = message;
        if self.stopped.is_some() {
            let _ = reply.send(Err(JobError::Stopping));
        } else if self.desired_state == DesiredState::Paused {
            let _ = reply.send(Err(JobError::Paused));
        } else if matches!(self.phase, Phase::Idle { .. }) {
            self.start_run(variant, activation, vec![reply], context);
        } else if variant.is_none() {
            self.queued.push(reply);
        } else {
            let _ = reply.send(Err(JobError::Busy { holder: self.job_context.replica.clone() }));
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct RunEnded<J: Job> {
    attempt: Attempt<J::Report>,
    replies: Vec<Reply<J::Report>>,
}

impl<J: Job> Handler<RunEnded<J>> for Driver<J> {
    type Result = ();

    fn handle(&mut self, ended: RunEnded<J>, context: &mut Context<Self>) {
        let (result, wait, due_after) = self.record(ended.attempt);
        for reply in ended.replies {
            let _ = reply.send(result.clone());
        }
        if let Some(stopped) = self.stopped.take() {
            let _ = stopped.send(());
            context.stop();
            return;
        }
        let queued = std::mem::take(&mut self.queued);
        if self.desired_state == DesiredState::Paused {
            self.phase = Phase::Idle { next_run: None };
            for reply in queued {
                let _ = reply.send(Err(JobError::Paused));
            }
        } else if queued.is_empty() {
            self.schedule(wait, due_after, context);
        } else {
            self.start_run(None, Activation::Now, queued, context);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ApplyControl(Option<Control>);

impl<J: Job> Handler<ApplyControl> for Driver<J> {
    type Result = ();

    fn handle(&mut self, ApplyControl(control): ApplyControl, context: &mut Context<Self>) {
        let desired_state = control.as_ref().map_or(DesiredState::Running, |control| control.desired_state);
        self.control = control;
        let has_changed = desired_state != self.desired_state;
        self.desired_state = desired_state;
        match (has_changed, desired_state) {
            (true, DesiredState::Paused) => {
                tracing::info!(event = "actor_paused", job = %J::NAME, "the actor is paused");
                self.stop_run();
                if self.cancel_timer(context) {
                    self.phase = Phase::Idle { next_run: None };
                }
            }
            (true, DesiredState::Running) if matches!(self.phase, Phase::Idle { .. }) && self.stopped.is_none() => {
                self.schedule(Duration::ZERO, self.interval, context);
            }
            _ => {}
        }
    }
}

#[derive(Message)]
#[rtype(result = "ActorStatus")]
struct GetStatus;

impl<J: Job> Handler<GetStatus> for Driver<J> {
    type Result = MessageResult<GetStatus>;

    fn handle(&mut self, _: GetStatus, _: &mut Context<Self>) -> Self::Result {
        let (status, running_since, next_run) = match &self.phase {
            Phase::Running { since, .. } => (Activity::Running, Some(*since), None),
            Phase::Idle { .. } if self.desired_state == DesiredState::Paused => (Activity::Paused, None, None),
            Phase::Idle { next_run } => (Activity::Idle, None, *next_run),
        };
        MessageResult(ActorStatus {
            name: J::NAME,
            status,
            desired_state: self.desired_state,
            control: self.control.clone(),
            leader: self.leader.clone(),
            running_since,
            iteration: self.iteration,
            last_run: self.last_run.clone(),
            next_run,
            details: None,
        })
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Stop(oneshot::Sender<()>);

impl<J: Job> Handler<Stop> for Driver<J> {
    type Result = ();

    fn handle(&mut self, Stop(stopped): Stop, context: &mut Context<Self>) {
        for reply in std::mem::take(&mut self.queued) {
            let _ = reply.send(Err(JobError::Stopping));
        }
        if matches!(self.phase, Phase::Idle { .. }) {
            let _ = stopped.send(());
            context.stop();
            return;
        }
        self.stop_run();
        self.stopped = Some(stopped);
    }
}

/// One log line and the metrics for an ended run.
fn report_run<J: Job>(job: &J, record: &RunRecord, result: &Result<J::Report, JobError>) {
    let outcome = result.as_ref().map_or_else(JobError::outcome, |_| "completed");
    let RunRecord { duration_ms, report, error, .. } = record;
    job.measure(outcome, Duration::from_millis(*duration_ms));
    let name = J::NAME.as_str();
    metrics::counter!("broker_job_runs_total", "actor" => name, "outcome" => outcome).increment(1);
    if let Some(error) = error {
        tracing::warn!(event = "job_run", job = name, outcome, duration_ms, error, "job run failed");
        return;
    }
    set_last_success(J::NAME, record);
    let report = report.as_ref().map(ToString::to_string).unwrap_or_default();
    tracing::info!(event = "job_run", job = name, outcome, duration_ms, report, "job run completed");
}

fn set_last_success(job: ActorName, run: &RunRecord) {
    metrics::gauge!("broker_job_last_success_timestamp_seconds", "actor" => job.as_str())
        .set(run.started_at.0 as f64 + run.duration_ms as f64 / 1000.0);
}
