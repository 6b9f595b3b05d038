//! The actor that drives one job.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{oneshot, watch};

use super::lease::{Attempt, DueAfter, run_under_lease};
use super::{Activity, ActorStatus, Job, JobError, RunRecord, StopSignal};
use crate::ports::{Clock, Control, Desired, SandboxStore};
use crate::sandbox::{ReplicaId, Timestamp};
use crate::supervision::Vital;

/// What every job's driver needs.
pub(crate) struct Surroundings {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replica: ReplicaId,
    /// How long a lease lasts without extension.
    pub(crate) lease: Duration,
    /// How long a run that was told to end is waited for.
    pub(crate) stop_patience: Duration,
}

/// The soonest that a replica looks again after it found a job not due.
const SOONEST_LOOK: Duration = Duration::from_secs(1);

type Reply<R> = oneshot::Sender<Result<R, JobError>>;

/// A job's driver, for those who command it.
pub struct JobHandle<J: Job> {
    name: &'static str,
    address: Addr<Driver<J>>,
}

impl<J: Job> JobHandle<J> {
    /// Starts the driver in `arbiter`. It rests until [`Self::obey`] has told it what operators want.
    pub(crate) fn start(
        arbiter: &ArbiterHandle,
        job: Arc<J>,
        interval: Duration,
        surroundings: Arc<Surroundings>,
        vital: Vital,
    ) -> Self {
        let name = job.name();
        let address = Driver::start_in_arbiter(arbiter, move |_| Driver {
            job,
            interval,
            surroundings,
            control: None,
            desired: Desired::Paused,
            phase: Phase::Idle { next_run: None },
            queued: Vec::new(),
            iteration: 0,
            last_run: None,
            leader: None,
            timer: None,
            stopped: None,
            _vital: vital,
        });
        Self { name, address }
    }

    /// The job's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the job now, or behind the run that is under way, and returns its report.
    pub async fn activate(&self) -> Result<J::Report, JobError> {
        let (reply, answer) = oneshot::channel();
        self.address.do_send(Activate { variant: None, reply });
        answer.await.unwrap_or(Err(JobError::Stopping))
    }

    /// Runs this variant of the job now; refused while another run is under way.
    pub async fn activate_as(&self, variant: J) -> Result<J::Report, JobError> {
        let (reply, answer) = oneshot::channel();
        self.address.do_send(Activate { variant: Some(Arc::new(variant)), reply });
        answer.await.unwrap_or(Err(JobError::Stopping))
    }

    /// Takes over what operators want.
    pub(crate) fn obey(&self, control: Option<Control>) {
        self.address.do_send(Obey(control));
    }

    /// What the job is doing; `None` if its actor is dead.
    pub async fn status(&self) -> Option<ActorStatus> {
        self.address.send(GetStatus).await.ok()
    }

    /// Ends the run under way, gives the lease back and ends the actor.
    pub(crate) async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        self.address.do_send(Stop(reply));
        // An actor that is gone already is as good as stopped.
        let _ = stopped.await;
    }
}

enum Phase {
    Idle { next_run: Option<Timestamp> },
    Running { since: Timestamp, stop: watch::Sender<bool> },
}

struct Driver<J: Job> {
    job: Arc<J>,
    /// From the end of a run to the next one.
    interval: Duration,
    surroundings: Arc<Surroundings>,
    control: Option<Control>,
    desired: Desired,
    phase: Phase,
    /// Those who asked for a run while one was under way; one more run serves them all.
    queued: Vec<Reply<J::Report>>,
    iteration: u64,
    last_run: Option<RunRecord>,
    leader: Option<ReplicaId>,
    /// The wait for the next run; replaced, never doubled.
    timer: Option<SpawnHandle>,
    /// Where to report the end, once the end was ordered.
    stopped: Option<oneshot::Sender<()>>,
    _vital: Vital,
}

impl<J: Job> Actor for Driver<J> {
    type Context = Context<Self>;
}

impl<J: Job> Driver<J> {
    fn begin(
        &mut self,
        variant: Option<Arc<J>>,
        due_after: DueAfter,
        replies: Vec<Reply<J::Report>>,
        context: &mut Context<Self>,
    ) {
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let (switch, stop) = StopSignal::new();
        self.phase = Phase::Running { since: self.surroundings.clock.now(), stop: switch };
        self.iteration += 1;
        let job = variant.unwrap_or_else(|| Arc::clone(&self.job));
        let surroundings = Arc::clone(&self.surroundings);
        let driver = context.address();
        tokio::spawn(async move {
            let attempt = run_under_lease(surroundings, job, due_after, stop).await;
            driver.do_send(Ended { attempt, replies });
        });
    }

    fn schedule(&mut self, wait: Duration, context: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        self.phase = Phase::Idle { next_run: Some(self.surroundings.clock.now().plus(wait)) };
        let interval = self.interval;
        self.timer = Some(context.run_later(wait, move |driver, context| {
            driver.timer = None;
            if matches!(driver.phase, Phase::Idle { .. }) && driver.desired == Desired::Running {
                driver.begin(None, Some(interval), Vec::new(), context);
            }
        }));
    }

    /// How long to wait after an attempt.
    fn wait_after(&self, attempt: &Attempt<J::Report>) -> Duration {
        let interval = self.interval;
        match attempt {
            Attempt::Ran { .. } => interval,
            Attempt::NoLease(_) => interval.min(self.surroundings.lease),
            Attempt::NotNow(other) => {
                let due_at = other.ran_at.map_or(Timestamp(0), |ran_at| ran_at.plus(interval));
                let look_at = due_at.max(other.expires_at);
                look_at.since(self.surroundings.clock.now()).clamp(SOONEST_LOOK, interval.max(SOONEST_LOOK))
            }
        }
    }

    fn is_leader(&self, is_leader: bool) {
        metrics::gauge!("broker_job_leader", "job" => self.job.name()).set(f64::from(u8::from(is_leader)));
    }

    fn tell_run_to_end(&self) {
        if let Phase::Running { stop, .. } = &self.phase {
            stop.send_replace(true);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Activate<J: Job> {
    variant: Option<Arc<J>>,
    reply: Reply<J::Report>,
}

impl<J: Job> Handler<Activate<J>> for Driver<J> {
    type Result = ();

    fn handle(&mut self, activation: Activate<J>, context: &mut Context<Self>) {
        let Activate { variant, reply } = activation;
        if self.stopped.is_some() {
            let _ = reply.send(Err(JobError::Stopping));
        } else if self.desired == Desired::Paused {
            let _ = reply.send(Err(JobError::Paused));
        } else if matches!(self.phase, Phase::Idle { .. }) {
            self.begin(variant, None, vec![reply], context);
        } else if variant.is_none() {
            self.queued.push(reply);
        } else {
            let _ = reply.send(Err(JobError::Busy { holder: self.surroundings.replica.clone() }));
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Ended<J: Job> {
    attempt: Attempt<J::Report>,
    replies: Vec<Reply<J::Report>>,
}

impl<J: Job> Handler<Ended<J>> for Driver<J> {
    type Result = ();

    fn handle(&mut self, ended: Ended<J>, context: &mut Context<Self>) {
        let wait = self.wait_after(&ended.attempt);
        let result = match ended.attempt {
            Attempt::Ran { record, result } => {
                log_run(self.job.as_ref(), &record, &result);
                self.is_leader(true);
                self.leader = Some(record.replica.clone());
                self.last_run = Some(record);
                result
            }
            Attempt::NotNow(other) => {
                self.is_leader(other.holder == self.surroundings.replica);
                self.leader = Some(other.holder.clone());
                Err(JobError::Busy { holder: other.holder })
            }
            Attempt::NoLease(error) => {
                tracing::warn!(job = self.job.name(), %error, "the job's lease could not be asked for");
                Err(error.into())
            }
        };
        for reply in ended.replies {
            let _ = reply.send(result.clone());
        }
        if let Some(stopped) = self.stopped.take() {
            let _ = stopped.send(());
            context.stop();
            return;
        }
        let queued = std::mem::take(&mut self.queued);
        if self.desired == Desired::Paused {
            self.phase = Phase::Idle { next_run: None };
            for reply in queued {
                let _ = reply.send(Err(JobError::Paused));
            }
        } else if queued.is_empty() {
            self.schedule(wait, context);
        } else {
            self.begin(None, None, queued, context);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Obey(Option<Control>);

impl<J: Job> Handler<Obey> for Driver<J> {
    type Result = ();

    fn handle(&mut self, message: Obey, context: &mut Context<Self>) {
        let desired = message.0.as_ref().map_or(Desired::Running, |control| control.desired);
        self.control = message.0;
        let changed = desired != self.desired;
        self.desired = desired;
        match (changed, desired) {
            (true, Desired::Paused) => {
                tracing::info!(job = self.job.name(), "paused");
                self.tell_run_to_end();
                if let Some(timer) = self.timer.take() {
                    context.cancel_future(timer);
                    self.phase = Phase::Idle { next_run: None };
                }
            }
            (true, Desired::Running) if matches!(self.phase, Phase::Idle { .. }) && self.stopped.is_none() => {
                self.schedule(Duration::ZERO, context);
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
            Phase::Idle { .. } if self.desired == Desired::Paused => (Activity::Paused, None, None),
            Phase::Idle { next_run } => (Activity::Idle, None, *next_run),
        };
        MessageResult(ActorStatus {
            name: self.job.name(),
            status,
            desired_state: self.desired,
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

    fn handle(&mut self, stop: Stop, context: &mut Context<Self>) {
        for reply in std::mem::take(&mut self.queued) {
            let _ = reply.send(Err(JobError::Stopping));
        }
        if matches!(self.phase, Phase::Idle { .. }) {
            let _ = stop.0.send(());
            context.stop();
            return;
        }
        self.tell_run_to_end();
        self.stopped = Some(stop.0);
    }
}

fn log_run<J: Job>(job: &J, record: &RunRecord, result: &Result<J::Report, JobError>) {
    let outcome = result.as_ref().map_or_else(JobError::outcome, |_| "completed");
    let RunRecord { duration_ms, report, error, .. } = record;
    job.measure(outcome, Duration::from_millis(*duration_ms));
    let job = job.name();
    metrics::counter!("broker_job_runs_total", "job" => job, "outcome" => outcome).increment(1);
    match (report, error) {
        (_, Some(error)) => tracing::warn!(job, outcome, duration_ms, error, "job run failed"),
        (report, None) => {
            metrics::gauge!("broker_job_last_success_timestamp_seconds", "job" => job)
                .set(record.started_at.0 as f64 + *duration_ms as f64 / 1000.0);
            let report = report.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(job, outcome, duration_ms, report, "job run completed");
        }
    }
}
