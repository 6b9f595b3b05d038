//! ExpiryReaper: ends holdings that are past their end plus grace.
//!
//! Two ways lead to the same conditional transaction. [`ExpiryTimers`] fire on time for what this replica allocated;
//! the sweep (the job) reads the status index up to the last `allocated_at` that can be overdue and catches the rest.
//! Whoever renews or releases meanwhile moves the epoch on, and the late writer changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::concurrency::for_each;
use crate::job::{Job, JobError, StopSignal};
use crate::ports::{Clock, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Claim, ClaimKey, Event, SandboxId, Status, Timestamp, Write};
use crate::supervision::Vital;

/// So many holdings are ended at a time.
const CONCURRENCY: usize = 16;

/// The most holdings that have a timer (I8); the sweep catches the others.
const MAX_TIMERS: usize = 100_000;

/// What an expiry sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExpiryReport {
    /// Holdings ended.
    pub expired: u64,
    /// Holdings that were renewed or released first.
    pub overtaken: u64,
}

/// Ends holdings. As a job, it sweeps.
#[derive(Clone)]
pub struct Reaper {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a holding goes on past its end.
    pub(crate) grace: Duration,
    /// How long a holding lasts; bounds what the sweep reads.
    pub(crate) lab_duration: Duration,
}

impl Reaper {
    fn due(&self, expires_at: Timestamp) -> Timestamp {
        expires_at.plus(self.grace)
    }

    /// Whether the holding should have ended by now.
    pub(crate) fn is_overdue(&self, claim: &Claim) -> bool {
        self.due(claim.expires_at) <= self.clock.now()
    }

    /// Ends an overdue holding, if it still is as the claim says; tells whether it was this call that ended it.
    pub(crate) async fn expire(&self, claim: &Claim) -> Result<bool, StoreError> {
        let due = self.due(claim.expires_at);
        let Ok(write) = Write::of_holding(claim, Event::Expire { due }, self.clock.now()) else {
            return Ok(false);
        };
        let ended = self.end_holding(&write, &claim.claim_key).await? == WriteOutcome::Done;
        if ended {
            metrics::counter!("broker_expiry_total", "outcome" => "expired").increment(1);
            metrics::counter!("broker_expiry_orphaned_total").increment(1);
            tracing::info!(sandbox_id = %claim.sandbox_id, track_id = %claim.claim_key.track, "holding expired");
        } else {
            metrics::counter!("broker_expiry_total", "outcome" => "overtaken").increment(1);
        }
        Ok(ended)
    }

    /// Changes the sandbox and deletes its claim. Where the claim has become another sandbox's (possible only once
    /// its item outlived its TTL), the sandbox is changed alone, so that it cannot get stuck.
    pub(crate) async fn end_holding(&self, write: &Write, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError> {
        match self.store.end_claim(write, claim_key).await? {
            WriteOutcome::ClaimMoved => self.store.update(write).await,
            outcome => Ok(outcome),
        }
    }

    /// Ends these holdings, several at a time.
    async fn expire_all(
        &self,
        claims: Vec<Claim>,
        report: &mut ExpiryReport,
        stop: &StopSignal,
    ) -> Result<(), StoreError> {
        let end = |claim| async move { self.expire(&claim).await };
        let tally = |ended| match ended {
            true => report.expired += 1,
            false => report.overtaken += 1,
        };
        let ended = for_each(claims, CONCURRENCY, stop, end, tally).await;
        if ended.is_err() {
            metrics::counter!("broker_expiry_total", "outcome" => "error").increment(1);
        }
        ended
    }
}

#[async_trait]
impl Job for Reaper {
    type Report = ExpiryReport;

    fn name(&self) -> &'static str {
        "expiry-reaper"
    }

    async fn run(&self, stop: &StopSignal) -> Result<ExpiryReport, JobError> {
        let now = self.clock.now();
        // A holding lasts at least one lab duration, so nothing allocated later can be overdue.
        let allocated_until = now.minus(self.lab_duration).minus(self.grace);
        let mut listing = Listing { allocated_until: Some(allocated_until), ..Listing::of(Status::Allocated) };
        let mut report = ExpiryReport::default();
        loop {
            let page = self.store.list(&listing).await?;
            let held = page.sandboxes.iter().filter_map(Claim::held);
            let overdue = held.filter(|claim| self.due(claim.expires_at) <= now).collect();
            self.expire_all(overdue, &mut report, stop).await?;
            if page.next.is_none() || stop.is_requested() {
                return Ok(report);
            }
            listing.after = page.next;
        }
    }
}

/// Timers for the holdings that this replica began.
#[derive(Clone, Debug)]
pub struct ExpiryTimers(Addr<TimerActor>);

impl ExpiryTimers {
    /// Starts the timers in the pool manager's arbiter: each claim has news for both, and so wakes one thread, not two.
    /// What comes due is ended in `background`.
    pub(crate) fn start(pool_arbiter: &ArbiterHandle, background: ArbiterHandle, reaper: Reaper, vital: Vital) -> Self {
        Self(TimerActor::start_in_arbiter(pool_arbiter, |_| TimerActor {
            reaper,
            background,
            claims: HashMap::new(),
            queue: BTreeSet::new(),
            paused: false,
            timer: None,
            _vital: vital,
        }))
    }

    /// Ends this holding when its time comes.
    pub(crate) fn watch(&self, claim: Claim) {
        self.0.do_send(Watch(claim));
    }

    /// The holding ended otherwise.
    pub(crate) fn forget(&self, sandbox_id: &SandboxId) {
        self.0.do_send(Forget(sandbox_id.clone()));
    }

    /// While paused, what comes due is left to the sweep after the resume.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.0.do_send(SetPaused(paused));
    }
}

struct TimerActor {
    reaper: Reaper,
    background: ArbiterHandle,
    claims: HashMap<SandboxId, Claim>,
    /// When each is due, soonest first.
    queue: BTreeSet<(Timestamp, SandboxId)>,
    paused: bool,
    /// The wait for the soonest.
    timer: Option<(Timestamp, SpawnHandle)>,
    _vital: Vital,
}

impl Actor for TimerActor {
    type Context = Context<Self>;
}

impl TimerActor {
    fn remove(&mut self, sandbox_id: &SandboxId) {
        if let Some(claim) = self.claims.remove(sandbox_id) {
            self.queue.remove(&(self.reaper.due(claim.expires_at), sandbox_id.clone()));
        }
    }

    /// Waits for the soonest, if that is not what is waited for already.
    fn schedule(&mut self, context: &mut Context<Self>) {
        let soonest = self.queue.first().map(|(due, _)| *due);
        if self.timer.map(|(due, _)| due) == soonest {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            context.cancel_future(timer);
        }
        if let Some(due) = soonest {
            let wait = due.since(self.reaper.clock.now());
            self.timer = Some((due, context.run_later(wait, Self::fire)));
        }
    }

    fn fire(&mut self, context: &mut Context<Self>) {
        self.timer = None;
        let now = self.reaper.clock.now();
        let mut due_now = Vec::new();
        while let Some((due, sandbox_id)) = self.queue.pop_first() {
            if due > now {
                self.queue.insert((due, sandbox_id));
                break;
            }
            due_now.extend(self.claims.remove(&sandbox_id));
        }
        if !self.paused && !due_now.is_empty() {
            let reaper = self.reaper.clone();
            // An error means that the broker is ending; the sweep of another replica, or after the next start, ends them.
            let _ = self.background.spawn(async move {
                let (_switch, never) = StopSignal::new();
                if let Err(error) = reaper.expire_all(due_now, &mut ExpiryReport::default(), &never).await {
                    tracing::warn!(%error, "holdings could not be ended on time; the next sweep will end them");
                }
            });
        }
        self.schedule(context);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Watch(Claim);

impl Handler<Watch> for TimerActor {
    type Result = ();

    fn handle(&mut self, Watch(claim): Watch, context: &mut Context<Self>) {
        self.remove(&claim.sandbox_id);
        if self.claims.len() >= MAX_TIMERS {
            metrics::counter!("broker_expiry_timers_left_out_total").increment(1);
            return;
        }
        self.queue.insert((self.reaper.due(claim.expires_at), claim.sandbox_id.clone()));
        self.claims.insert(claim.sandbox_id.clone(), claim);
        self.schedule(context);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Forget(SandboxId);

impl Handler<Forget> for TimerActor {
    type Result = ();

    fn handle(&mut self, Forget(sandbox_id): Forget, context: &mut Context<Self>) {
        self.remove(&sandbox_id);
        self.schedule(context);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct SetPaused(bool);

impl Handler<SetPaused> for TimerActor {
    type Result = ();

    fn handle(&mut self, SetPaused(paused): SetPaused, _: &mut Context<Self>) {
        self.paused = paused;
    }
}
