//! The state of one case: the replicas, their store and CSP, and the checks of the whole.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::broker::Broker;
use broker_actors::ports::Clock as _;
use broker_actors::sandbox::{ReplicaId, Sandbox, Status};
use broker_actors::start::{BrokerSettings, Ports};
use broker_actors::testing::{Connection, FakeCsp, Flaw, ModelStore, PausedClock, TestBroker, Trace};
use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep, timeout};

use crate::history::History;
use crate::key::{PREFIXES, SECOND_KIND};

/// The length of the fault phase.
const FAULT_PHASE: Duration = Duration::from_secs(30);

/// Long enough for every holding to end and every deletion to be retried.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(400);

/// How long tombstones are kept: longer than syncs may fail in the fault phase.
const DELETED_RETENTION: Duration = Duration::from_secs(70);

/// The interval between checks whether everything has settled.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The longest delay of a request by faults.
const MAX_REQUEST_DELAY: Duration = Duration::from_secs(2);

/// The longest duration of a request: the budget of an allocation and some more.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) store: ModelStore,
    pub(crate) csp: FakeCsp,
    pub(crate) history: RefCell<History>,
    pub(crate) trace: Trace,
    faults_end_at: Instant,
    /// The longest pause of a track between two requests.
    pub(crate) longest_pause: Duration,
    clock: Arc<PausedClock>,
    settings: BrokerSettings,
    /// `None` where a replica does not run.
    replicas: RefCell<Vec<Option<Replica>>>,
    /// The number of processes that were started.
    starts: Cell<u64>,
    /// Whether a replica keeps its name over a restart.
    keeps_names: bool,
}

#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) broker: Broker,
    pub(crate) connection: Connection,
}

impl World {
    pub(crate) fn new(random: &mut fastrand::Rng, flaw: Option<Flaw>, trace: Trace) -> Self {
        let sandboxes = random.u32(3..16);
        let (store, csp) = (ModelStore::with_sandboxes(sandboxes), FakeCsp::with_accounts(sandboxes));
        (0..random.u32(0..5)).for_each(|number| csp.add(SECOND_KIND + number));
        store.observe(&PREFIXES);
        store.set_trace(trace.clone());
        csp.set_trace(trace.clone());
        if let Some(flaw) = flaw {
            store.set_flaw(flaw);
        }
        let mut settings = TestBroker::settings("");
        settings.jitter_seed = random.u64(..);
        settings.allocation.lab_duration = Duration::from_secs(random.u64(5..60));
        settings.grace = Duration::from_secs(random.u64(0..10));
        settings.low_water = random.usize(0..5);
        settings.sync_interval = Duration::from_secs(random.u64(2..15));
        settings.sync.deleted_retention = DELETED_RETENTION;
        settings.cleanup.deleted_retention = DELETED_RETENTION;
        settings.breaker.timeout = Duration::from_secs(10);
        settings.cleanup_interval = Duration::from_secs(random.u64(5..30));
        settings.cleanup.max_attempts = random.u32(0..4);
        settings.expiry_interval = Duration::from_secs(30);
        settings.stale_interval = Duration::from_secs(30);
        settings.stale_grace = Duration::from_secs(10);
        settings.job_lease = Duration::from_secs(random.u64(5..20));
        Self {
            store,
            csp,
            history: RefCell::new(History::new(settings.grace, trace.clone())),
            trace,
            faults_end_at: Instant::now() + FAULT_PHASE,
            longest_pause: Duration::from_millis([200, 1000, 4000][random.usize(0..3)]),
            clock: Arc::new(PausedClock::new()),
            settings,
            replicas: RefCell::new(vec![None; random.usize(1..4)]),
            starts: Cell::new(0),
            keeps_names: random.bool(),
        }
    }

    /// Whether faults and requests go on. A violation ends the phase early.
    pub(crate) fn is_fault_phase(&self) -> bool {
        Instant::now() < self.faults_end_at && self.history.borrow().violation.is_none()
    }

    /// The number of replicas, whether they run or not.
    pub(crate) fn slots(&self) -> usize {
        self.replicas.borrow().len()
    }

    /// The replica in this slot, if it runs.
    pub(crate) fn replica(&self, slot: usize) -> Option<Replica> {
        self.replicas.borrow()[slot].clone()
    }

    /// Starts a process in this slot, again if it fails, as a supervisor would.
    pub(crate) async fn start(&self, slot: usize) {
        let start = self.starts.replace(self.starts.get() + 1);
        let name = if self.keeps_names { format!("r{slot}") } else { format!("r{slot}.{start}") };
        loop {
            let connection = Connection::of(&name);
            let ports = Ports {
                store: Arc::new(self.store.through(connection.clone())),
                csp: Arc::new(self.csp.through(connection.clone())),
                pre_delete: None,
                clock: self.clock.clone(),
            };
            let mut settings = self.settings.clone();
            settings.replica = ReplicaId::new(&name);
            settings.jitter_seed ^= start;
            let here = actix::Arbiter::current();
            if let Ok(broker) = Broker::start(ports, settings, &here, &here).await {
                self.trace.record(|| format!("{name} has started"));
                self.replicas.borrow_mut()[slot] = Some(Replica { broker, connection });
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Crashes the replica in this slot.
    pub(crate) fn crash(&self, slot: usize) {
        if let Some(replica) = self.replicas.borrow_mut()[slot].take() {
            self.trace.record(|| format!("{} crashes", replica.broker.replica()));
            self.check_actors(&replica);
            replica.connection.cut();
        }
    }

    /// Stops the replica in this slot in order: no new requests, then the end of requests in flight, then the actors.
    pub(crate) async fn stop(&self, slot: usize) {
        let Some(replica) = self.replicas.borrow_mut()[slot].take() else { return };
        self.trace.record(|| format!("{} stops", replica.broker.replica()));
        let drained = async {
            while replica.broker.allocator().in_flight() > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = timeout(REQUEST_TIMEOUT, drained).await;
        if timeout(REQUEST_TIMEOUT, replica.broker.stop()).await.is_err() {
            self.report_violation(format!("I8: {} does not stop", replica.broker.replica()));
        }
        self.check_actors(&replica);
        replica.connection.cut();
    }

    fn check_actors(&self, replica: &Replica) {
        if let Some(actor) = replica.broker.first_failure().now_or_never() {
            self.report_violation(format!("{} of {} is dead", actor, replica.broker.replica()));
        }
    }

    /// Sends a request to this replica. Returns `None` if the replica crashes before it answers.
    pub(crate) async fn request<T>(
        &self,
        replica: &Replica,
        what: &str,
        request: impl Future<Output = T>,
    ) -> Option<T> {
        let answer = tokio::select! {
            biased;
            () = replica.connection.closed() => return None,
            answer = timeout(REQUEST_TIMEOUT, request) => answer,
        };
        if answer.is_err() {
            self.report_violation(format!("I8: {} does not answer {what}", replica.broker.replica()));
        }
        answer.ok()
    }

    /// Checks the table and the calls to the CSP so far.
    pub(crate) fn check(&self) {
        if let Some(violation) = self.store.observed(|observer| observer.violation().map(str::to_owned)) {
            self.report_violation(violation);
        }
        self.history.borrow_mut().check_ended_holdings(&self.store);
        let is_in_use = |status| matches!(status, Status::Available | Status::Allocated);
        let deleted_in_use = self.store.read_tables(|tables| {
            let mut in_use = tables.sandboxes().filter(|sandbox| is_in_use(sandbox.status));
            in_use.find(|sandbox| self.csp.was_deletion_requested(&sandbox.external_id)).cloned()
        });
        if let Some(sandbox) = deleted_in_use {
            self.report_violation(format!("I3: deleted at the CSP while in use: {sandbox:?}"));
        }
        let is_there = |sandbox: &&Sandbox| sandbox.status == Status::Stale && self.csp.has(&sandbox.external_id);
        if let Some(sandbox) = self.store.read_tables(|tables| tables.sandboxes().find(is_there).cloned()) {
            self.report_violation(format!("I9: stale while its account exists: {sandbox:?}"));
        }
    }

    /// The store removes tombstones whose TTL has passed.
    pub(crate) fn expire_tombstones(&self) {
        self.store.expire(self.clock.now());
    }

    /// Whether the CSP has an account that it called deleted, or that the operator removed without it.
    fn has_undead(&self) -> bool {
        let is_undead = |sandbox: &Sandbox| sandbox.status == Status::Deleted && self.csp.has(&sandbox.external_id);
        self.store.read_tables(|tables| tables.sandboxes().any(is_undead))
    }

    pub(crate) fn report_violation(&self, violation: String) {
        self.history.borrow_mut().report_violation(violation);
    }

    /// Removes all faults, leaves one replica and resumes its actors.
    pub(crate) async fn heal(&self) {
        self.trace.record(|| "heal".to_owned());
        self.store.set_plan(None);
        self.store.thaw_index();
        self.csp.clear_faults();
        // A command of the operator may still be in flight; it must not overtake those below.
        sleep(MAX_REQUEST_DELAY).await;
        for slot in 1..self.slots() {
            self.stop(slot).await;
        }
        if self.replica(0).is_none() {
            self.start(0).await;
        }
        let Some(replica) = self.replica(0) else { return };
        for actor in ActorName::ALL {
            if let Err(error) = replica.broker.resume(*actor, "simulation").await {
                self.report_violation(format!("{actor} cannot be resumed: {error}"));
            }
        }
    }

    pub(crate) async fn wait_until_settled(&self) {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while self.unsettled().is_some() && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
            self.expire_tombstones();
        }
        // Accounts whose tombstones were not kept would come back now.
        let kept_until = Instant::now() + DELETED_RETENTION;
        while self.has_undead() && Instant::now() < kept_until {
            sleep(POLL_INTERVAL).await;
            self.expire_tombstones();
        }
        // The pool needs a refresh to see the table.
        sleep(POLL_INTERVAL * 2).await;
    }

    /// A sandbox that is held or waits for its deletion.
    fn unsettled(&self) -> Option<Sandbox> {
        let is_unsettled = |status| matches!(status, Status::Allocated | Status::PendingDeletion);
        self.store.read_tables(|tables| tables.sandboxes().find(|sandbox| is_unsettled(sandbox.status)).cloned())
    }

    /// I3 after the last fault: every holding has ended, every released sandbox is deleted, and the broker is idle.
    pub(crate) async fn check_settled(&self) {
        let Some(replica) = self.replica(0) else { return };
        if let Some(sandbox) = self.unsettled() {
            self.report_violation(format!("I3: it stays {}: {sandbox:?}", sandbox.status));
        }
        let alive = self.store.sandboxes().into_iter().find(|sandbox| {
            let was_held = sandbox.deletion_requested_at.is_some();
            sandbox.status == Status::Deleted
                && was_held
                && self.csp.has(&sandbox.external_id)
                && !self.csp.was_falsely_deleted(&sandbox.external_id)
        });
        let has_bulk_deleted = self.history.borrow().has_bulk_deleted;
        if let (Some(sandbox), false) = (alive, has_bulk_deleted) {
            self.report_violation(format!("I3: deleted in the table and alive at the CSP: {sandbox:?}"));
        }
        let snapshot = replica.broker.pool_snapshot().await;
        if snapshot.is_none_or(|pool| pool.waiting + pool.in_flight > 0) {
            self.report_violation(format!("I3: the pool is not idle: {snapshot:?}"));
        }
        for (check, outcome) in replica.broker.checks().await {
            if let Err(reason) = outcome {
                self.report_violation(format!("not ready: {check}: {reason}"));
            }
        }
        self.check_actors(&replica);
    }
}
