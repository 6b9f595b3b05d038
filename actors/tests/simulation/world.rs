//! One case: the replicas, what they stand on, and the course of events.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::allocation::AllocateError;
use broker_actors::broker::Broker;
use broker_actors::error::cause;
use broker_actors::ports::CspError;
use broker_actors::sandbox::{ReplicaId, Sandbox, Status, TrackId};
use broker_actors::start::{BrokerSettings, Ports};
use broker_actors::testing::{Connection, FakeCsp, Flaw, ModelStore, PausedClock, TestBroker, Trace};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::history::{History, Key};
use crate::{nemesis, operator, tracks};

/// How long the trouble lasts.
const TROUBLE: Duration = Duration::from_secs(30);

/// Long enough after the trouble for every holding to end and every deletion to be tried again.
const PEACE: Duration = Duration::from_secs(400);

/// How often it is looked whether everything has come to rest.
const LOOK: Duration = Duration::from_secs(10);

/// A request that is late or delayed has arrived after this.
const LATEST_ARRIVAL: Duration = Duration::from_secs(2);

/// How long a request may take: the budget of an allocation, and what comes on top.
const LONGEST_REQUEST: Duration = Duration::from_secs(20);

/// The prefixes that tracks ask for. Accounts with numbers from [`OTHER_KIND`] on have the last one.
pub(crate) const PREFIXES: [Option<&str>; 3] = [None, Some("lab-0"), Some("lab-1")];

/// The numbers of the second kind of accounts begin here.
pub(crate) const OTHER_KIND: u32 = 10_000;

pub(crate) struct World {
    pub(crate) store: ModelStore,
    pub(crate) csp: FakeCsp,
    pub(crate) history: RefCell<History>,
    pub(crate) trace: Trace,
    trouble_ends_at: Instant,
    /// How long a track thinks between two requests.
    pub(crate) longest_pause: Duration,
    clock: Arc<PausedClock>,
    settings: BrokerSettings,
    /// `None` where a replica is dead, or not yet up again.
    replicas: RefCell<Vec<Option<Replica>>>,
    /// How many processes were begun.
    begun: Cell<u64>,
    /// Whether a replica has the same name again after a restart.
    keeps_names: bool,
}

#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) broker: Broker,
    pub(crate) connection: Connection,
}

/// Runs one case; returns the first violation.
pub(crate) async fn live_through(seed: u64, flaw: Option<Flaw>, trace: Trace) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = Rc::new(World::new(&mut random, flaw, trace));
    for slot in 0..world.slots() {
        world.start(slot).await;
    }
    let tracks: Vec<_> = (0..random.u64(2..8)).map(|track| tracks::live(&world, track, random.fork())).collect();
    tokio::join!(join_all(tracks), operator::work(&world, random.fork()), nemesis::run(&world, random.fork()));
    world.make_peace().await;
    if world.history.borrow().violation.is_none() {
        world.wait_for_rest().await;
        world.judge_the_end().await;
        world.judge();
    }
    world.history.borrow_mut().violation.take()
}

impl World {
    fn new(random: &mut fastrand::Rng, flaw: Option<Flaw>, trace: Trace) -> Self {
        let sandboxes = random.u32(3..16);
        let (store, csp) = (ModelStore::with_sandboxes(sandboxes), FakeCsp::with_accounts(sandboxes));
        (0..random.u32(0..5)).for_each(|number| csp.add(OTHER_KIND + number));
        store.watch(&PREFIXES);
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
        settings.breaker.timeout = Duration::from_secs(10);
        settings.cleanup_interval = Duration::from_secs(random.u64(5..30));
        settings.cleanup.max_attempts = random.u32(1..4);
        settings.expiry_interval = Duration::from_secs(30);
        settings.stale_interval = Duration::from_secs(30);
        settings.stale_grace = Duration::from_secs(10);
        settings.job_lease = Duration::from_secs(random.u64(5..20));
        Self {
            store,
            csp,
            history: RefCell::new(History::new(settings.grace, trace.clone())),
            trace,
            trouble_ends_at: Instant::now() + TROUBLE,
            longest_pause: Duration::from_millis([200, 1000, 4000][random.usize(0..3)]),
            clock: Arc::new(PausedClock::new()),
            settings,
            replicas: RefCell::new(vec![None; random.usize(1..4)]),
            begun: Cell::new(0),
            keeps_names: random.bool(),
        }
    }

    pub(crate) fn is_troubled(&self) -> bool {
        Instant::now() < self.trouble_ends_at && self.history.borrow().violation.is_none()
    }

    pub(crate) fn slots(&self) -> usize {
        self.replicas.borrow().len()
    }

    /// The replica in this slot, if it lives.
    pub(crate) fn replica(&self, slot: usize) -> Option<Replica> {
        self.replicas.borrow()[slot].clone()
    }

    /// Starts a process in this slot, and again until it comes up, as whatever runs it would.
    pub(crate) async fn start(&self, slot: usize) {
        let begun = self.begun.replace(self.begun.get() + 1);
        let name = if self.keeps_names { format!("r{slot}") } else { format!("r{slot}.{begun}") };
        loop {
            let connection = Connection::of(&name);
            let ports = Ports {
                store: Arc::new(self.store.through(connection.clone())),
                csp: Arc::new(self.csp.through(connection.clone())),
                clock: self.clock.clone(),
            };
            let mut settings = self.settings.clone();
            settings.replica = ReplicaId::new(&name);
            settings.jitter_seed ^= begun;
            let here = actix::Arbiter::current();
            if let Ok(broker) = Broker::start(ports, settings, &here, &here).await {
                self.trace.note(|| format!("{name} is up"));
                self.replicas.borrow_mut()[slot] = Some(Replica { broker, connection });
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// The replica in this slot dies on the spot.
    pub(crate) fn crash(&self, slot: usize) {
        if let Some(replica) = self.replicas.borrow_mut()[slot].take() {
            self.trace.note(|| format!("{} crashes", replica.broker.replica()));
            self.judge_health(&replica);
            replica.connection.cut();
        }
    }

    /// The replica in this slot ends in order: no new requests, those under way to their end, then the actors.
    pub(crate) async fn stop(&self, slot: usize) {
        let Some(replica) = self.replicas.borrow_mut()[slot].take() else { return };
        self.trace.note(|| format!("{} stops", replica.broker.replica()));
        let drained = async {
            while replica.broker.allocator().in_flight() > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = timeout(LONGEST_REQUEST, drained).await;
        if timeout(LONGEST_REQUEST, replica.broker.stop()).await.is_err() {
            self.blame(format!("I8: {} does not stop", replica.broker.replica()));
        }
        self.judge_health(&replica);
        replica.connection.cut();
    }

    fn judge_health(&self, replica: &Replica) {
        if let Some(part) = replica.broker.first_failure().now_or_never() {
            self.blame(format!("{} has lost its {part}", replica.broker.replica()));
        }
    }

    /// A request to this replica: its answer, or `None` if the replica died meanwhile.
    pub(crate) async fn ask<T>(&self, replica: &Replica, what: &str, request: impl Future<Output = T>) -> Option<T> {
        let answer = tokio::select! {
            biased;
            () = replica.connection.closed() => return None,
            answer = timeout(LONGEST_REQUEST, request) => answer,
        };
        if answer.is_err() {
            self.blame(format!("I8: {} never answers to {what}", replica.broker.replica()));
        }
        answer.ok()
    }

    /// What was seen of the table and the CSP by now, whoever was told what.
    pub(crate) fn judge(&self) {
        if let Some(contradiction) = self.store.watched(|watch| watch.contradiction().map(str::to_owned)) {
            self.blame(contradiction);
        }
        self.history.borrow_mut().judge_ends(&self.store);
        let is_in_use = |status| matches!(status, Status::Available | Status::Allocated);
        let too_soon = self.store.look_at(|tables| {
            let mut in_use = tables.sandboxes().filter(|sandbox| is_in_use(sandbox.status));
            in_use.find(|sandbox| self.csp.was_told_to_delete(&sandbox.external_id)).cloned()
        });
        if let Some(sandbox) = too_soon {
            self.blame(format!("I3: deleted at the CSP, but not given back: {sandbox:?}"));
        }
    }

    pub(crate) fn blame(&self, violation: String) {
        self.history.borrow_mut().blame(violation);
    }

    /// All that was troubled is whole again, and one replica is left to bring everything to its end.
    async fn make_peace(&self) {
        self.trace.note(|| "peace".to_owned());
        self.store.set_plan(None);
        self.store.thaw_index();
        self.csp.heal_all();
        // An order of the operator's may be under way still; it must not come after those that follow.
        sleep(LATEST_ARRIVAL).await;
        for slot in 1..self.slots() {
            self.stop(slot).await;
        }
        if self.replica(0).is_none() {
            self.start(0).await;
        }
        let Some(replica) = self.replica(0) else { return };
        for actor in ActorName::ALL {
            if let Err(error) = replica.broker.resume(*actor, "simulation").await {
                self.blame(format!("{actor} cannot be resumed: {error}"));
            }
        }
    }

    async fn wait_for_rest(&self) {
        let longest = Instant::now() + PEACE;
        while self.restless().is_some() && Instant::now() < longest {
            sleep(LOOK).await;
        }
        // The pool takes a refresh to know it.
        sleep(LOOK * 2).await;
    }

    /// A sandbox on its way, if there is one.
    fn restless(&self) -> Option<Sandbox> {
        let is_restless = |status| matches!(status, Status::Allocated | Status::PendingDeletion);
        self.store.look_at(|tables| tables.sandboxes().find(|sandbox| is_restless(sandbox.status)).cloned())
    }

    /// I3: once the trouble is over, nothing is stuck.
    async fn judge_the_end(&self) {
        let Some(replica) = self.replica(0) else { return };
        if let Some(sandbox) = self.restless() {
            self.blame(format!("I3: it stays {} for ever: {sandbox:?}", sandbox.status));
        }
        let accounts = self.csp.accounts();
        let deleted = self.store.sandboxes().into_iter().find(|sandbox| {
            let was_held = sandbox.deletion_requested_at.is_some();
            sandbox.status == Status::Deleted && was_held && accounts.contains(&sandbox.external_id)
        });
        let has_discarded = self.history.borrow().has_discarded;
        if let (Some(sandbox), false) = (deleted, has_discarded) {
            self.blame(format!("I3: deleted in the table, but not at the CSP: {sandbox:?}"));
        }
        let snapshot = replica.broker.pool_snapshot().await;
        if snapshot.is_none_or(|pool| pool.waiting + pool.in_flight > 0) {
            self.blame(format!("I3: the pool does not come to rest: {snapshot:?}"));
        }
        for (check, outcome) in replica.broker.checks().await {
            if let Err(reason) = outcome {
                self.blame(format!("not ready: {check}: {reason}"));
            }
        }
        self.judge_health(&replica);
        // More latecomers than there are sandboxes: each is told at once what is true.
        let is_available = |sandbox: &&Sandbox| sandbox.status == Status::Available;
        let available = self.store.look_at(|tables| tables.sandboxes().filter(is_available).count());
        let latecomers = (0..available as u64 + 3).map(Key::of_latecomer);
        let answers = join_all(latecomers.map(|key| {
            let replica = &replica;
            async move { tracks::allocate(self, replica, &key).await }
        }));
        let (mut served, mut told_none) = (0, 0);
        for answer in answers.await {
            served += usize::from(matches!(answer, Some(Ok(_))));
            told_none += usize::from(matches!(answer, Some(Err(AllocateError::NoneAvailable))));
        }
        if (served, told_none) != (available, 3) {
            self.blame(format!("I4: of {available} available ones {served} were given, {told_none} were told none"));
        }
    }
}

/// What a CSP in trouble answers.
pub(crate) fn csp_trouble(random: &mut fastrand::Rng) -> CspError {
    match random.u8(0..4) {
        0 => CspError::Unavailable(cause("injected")),
        1 => CspError::Throttled { retry_after: Some(Duration::from_secs(random.u64(1..20))) },
        2 => CspError::Unauthorized { status: 401 },
        _ => CspError::BadAnswer(cause("injected")),
    }
}

/// The name of a track in the requests.
pub(crate) fn track_id(track: u64) -> TrackId {
    TrackId::new(format!("t{track}"))
}
