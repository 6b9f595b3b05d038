use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

use super::connection::{Connection, Trace};
use super::faults::{Fault, FaultPlan};
use super::tables::{Flaw, Tables};
use super::watch::Watch;
use crate::actor::{ActorName, Control};
use crate::error::cause;
use crate::ports::{
    ClaimOutcome, ClusterState, Coordination, Cursor, JobLease, LeaseOutcome, LeaseRequest, Lookup, Page, PageRequest,
    SandboxStore, Stats, StoreError, StoredStats, WriteOutcome,
};
use crate::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, ReplicaId, Sandbox, SandboxId, Shard, ShardCount, Status, Timestamp,
};

/// What the store should be, as simply as it can be said, with faults to inject.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    contents: Arc<Mutex<Contents>>,
    trouble: Arc<Mutex<Trouble>>,
    connection: Connection,
}

#[derive(Debug, Default)]
struct Contents {
    tables: Tables,
    leases: BTreeMap<ActorName, JobLease>,
    controls: BTreeMap<ActorName, Control>,
    stats: StoredStats,
    replicas: BTreeMap<ReplicaId, Timestamp>,
    /// What the status index shows while it lags.
    lagging_index: Option<Tables>,
    watch: Option<Watch>,
}

#[derive(Debug, Default)]
struct Trouble {
    plan: Option<FaultPlan>,
    next: BTreeMap<&'static str, VecDeque<Fault>>,
    is_down: bool,
    requests: BTreeMap<&'static str, u64>,
    trace: Option<Trace>,
}

impl ModelStore {
    /// A store with these sandboxes available: `lab-00001` to `lab-{n}`.
    pub fn with_sandboxes(n: u32) -> Self {
        let store = Self::default();
        store.contents().tables = Tables::with_sandboxes(n);
        store
    }

    /// The available sandbox with this number.
    pub fn sandbox(number: u32) -> Sandbox {
        Tables::sandbox(number)
    }

    /// The same store, reached through this connection.
    #[must_use]
    pub fn through(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// Requests go wrong by this plan, until `None`.
    pub fn set_plan(&self, plan: Option<FaultPlan>) {
        self.trouble().plan = plan;
    }

    /// The next request of this operation goes wrong.
    pub fn fail_next(&self, operation: &'static str, fault: Fault) {
        self.trouble().next.entry(operation).or_default().push_back(fault);
    }

    /// While down, every request fails.
    pub fn set_down(&self, is_down: bool) {
        self.trouble().is_down = is_down;
    }

    /// From now on the writes are wrong in this way.
    pub fn set_flaw(&self, flaw: Flaw) {
        self.contents().tables.flaw = Some(flaw);
    }

    /// Every request is written down here.
    pub fn set_trace(&self, trace: Trace) {
        self.trouble().trace = Some(trace);
    }

    /// From now on the status index shows what the table holds now.
    pub fn freeze_index(&self) {
        self.change_index(|contents| contents.lagging_index = Some(contents.tables.clone()));
    }

    /// The status index catches up with the table.
    pub fn thaw_index(&self) {
        self.change_index(|contents| contents.lagging_index = None);
    }

    /// Looks at the tables as they are.
    pub fn look_at<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.contents().tables)
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.contents().tables.sandboxes().cloned().collect()
    }

    /// All claims.
    pub fn claims(&self) -> Vec<Claim> {
        self.contents().tables.claims.values().cloned().collect()
    }

    /// Panics, naming the invariant, if the tables contradict themselves.
    pub fn assert_consistent(&self) {
        assert_eq!(self.contents().tables.contradiction(), None);
    }

    /// From now on every write is watched: what it contradicts, which holdings it ends, and whether it leaves a
    /// sandbox for these prefixes. Costs a look at the whole table each time.
    pub fn watch(&self, prefixes: &[Option<&str>]) {
        let mut contents = self.contents();
        contents.watch = Some(Watch::new(prefixes));
        contents.look();
    }

    /// What the watch saw so far.
    pub fn watched<T>(&self, read: impl FnOnce(&Watch) -> T) -> T {
        read(self.contents().watch.as_ref().expect("a watch was set"))
    }

    /// How many requests of each operation were asked for.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.trouble().requests.clone()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock()
    }

    fn draw(&self, operation: &'static str) -> Result<Option<Fault>, StoreError> {
        let mut trouble = self.trouble();
        *trouble.requests.entry(operation).or_default() += 1;
        if trouble.is_down {
            return Err(StoreError::Unavailable(cause("the model store is down")));
        }
        let scripted = trouble.next.get_mut(operation).and_then(VecDeque::pop_front);
        Ok(scripted.or_else(|| trouble.plan.as_mut().and_then(FaultPlan::draw)))
    }

    /// The time that one way takes.
    async fn travel(&self) {
        let way = self.trouble().plan.as_mut().map_or(Duration::ZERO, FaultPlan::draw_way);
        if !way.is_zero() {
            sleep(way).await;
        }
    }

    fn note(&self, operation: &str, what: &impl Debug) {
        if let Some(trace) = &self.trouble().trace {
            trace.note(|| format!("{} {operation}: {what:?}", self.connection.name()));
        }
    }

    /// One request, as its sender sees it: nothing goes out of a dead replica, and no answer comes in.
    async fn request<T: Debug>(
        &self,
        operation: &'static str,
        carried_out: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.connection.pass().await;
        let answer = carried_out.await;
        self.connection.pass().await;
        self.note(operation, &answer);
        answer
    }

    async fn read<T: Debug + Send>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Contents) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let carried_out = async {
            match self.draw(operation)? {
                None => {}
                Some(Fault::Throttle | Fault::Conflict) => return Err(StoreError::Throttled(cause("injected"))),
                Some(Fault::Delay(delay)) => sleep(delay).await,
                Some(Fault::LostRequest | Fault::LostResponse | Fault::LateRequest(_)) => {
                    return Err(StoreError::Unavailable(cause("injected")));
                }
            }
            self.travel().await;
            let result = read(&self.contents());
            self.travel().await;
            result
        };
        self.request(operation, carried_out).await
    }

    async fn write<T: Debug + Send + 'static>(
        &self,
        operation: &'static str,
        on_conflict: Result<T, StoreError>,
        write: impl FnOnce(&mut Contents) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let unknown = || Err(StoreError::OutcomeUnknown(cause("injected")));
        let carried_out = async {
            match self.draw(operation)? {
                None => {}
                Some(Fault::Throttle) => return Err(StoreError::Throttled(cause("injected"))),
                Some(Fault::Conflict) => return on_conflict,
                Some(Fault::LostRequest) => return unknown(),
                Some(Fault::LateRequest(delay)) => {
                    let store = self.clone();
                    tokio::spawn(async move {
                        sleep(delay).await;
                        store.carry_out(operation, write);
                    });
                    return unknown();
                }
                Some(Fault::LostResponse) => {
                    self.travel().await;
                    self.carry_out(operation, write);
                    return unknown();
                }
                Some(Fault::Delay(delay)) => sleep(delay).await,
            }
            self.travel().await;
            let result = self.carry_out(operation, write);
            self.travel().await;
            Ok(result)
        };
        self.request(operation, carried_out).await
    }

    fn carry_out<T: Debug>(&self, operation: &str, write: impl FnOnce(&mut Contents) -> T) -> T {
        let result = {
            let mut contents = self.contents();
            let result = write(&mut contents);
            contents.look();
            result
        };
        self.note(operation, &("carried out", &result));
        result
    }

    fn change_index(&self, change: impl FnOnce(&mut Contents)) {
        let mut contents = self.contents();
        change(&mut contents);
        contents.look();
    }
}

fn throttled<T>() -> Result<T, StoreError> {
    Err(StoreError::Throttled(cause("injected")))
}

impl Contents {
    fn index(&self) -> &Tables {
        self.lagging_index.as_ref().unwrap_or(&self.tables)
    }

    fn look(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.look(&self.tables, self.lagging_index.as_ref());
        }
    }
}

/// The shards of the model: fewer than of a table, so that tests have several sandboxes in one.
fn shards() -> ShardCount {
    ShardCount::new(4).expect("4 is a number of shards")
}

/// The largest page, in sandboxes.
const PAGE: usize = 100;

/// One page of `listed`, which are sorted by their position.
fn page(mut listed: Vec<(Position, &Sandbox)>, limit: usize, after: Option<&Position>) -> Page {
    listed.retain(|(position, _)| after.is_none_or(|after| position > after));
    listed.sort_by(|(one, _), (other, _)| one.cmp(other));
    let is_cut = listed.len() > limit;
    listed.truncate(limit);
    let next = listed.last().filter(|_| is_cut).map(|(position, _)| write_cursor(position));
    Page { sandboxes: listed.into_iter().map(|(_, sandbox)| sandbox.clone()).collect(), next }
}

#[async_trait]
impl SandboxStore for ModelStore {
    fn shards(&self) -> ShardCount {
        shards()
    }

    async fn claim(&self, update: &ConditionalUpdate, claim: &Claim) -> Result<ClaimOutcome, StoreError> {
        let (update, claim) = (update.clone(), claim.clone());
        self.write("claim", Ok(ClaimOutcome::CandidateConflict), move |contents| contents.tables.claim(&update, &claim))
            .await
    }

    async fn find_claim(&self, claim_key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.read("find_claim", |contents| Ok(contents.tables.find_claim(claim_key).cloned())).await
    }

    async fn end_claim(&self, update: &ConditionalUpdate, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError> {
        let (update, key) = (update.clone(), claim_key.clone());
        self.write("end_claim", Ok(WriteOutcome::Conflict), move |contents| contents.tables.end_claim(&update, &key))
            .await
    }

    async fn renew_claim(&self, update: &ConditionalUpdate, renewed: &Claim) -> Result<WriteOutcome, StoreError> {
        let (update, renewed) = (update.clone(), renewed.clone());
        self.write("renew_claim", Ok(WriteOutcome::Conflict), move |contents| {
            contents.tables.renew_claim(&update, &renewed)
        })
        .await
    }

    async fn delete_claim(&self, claim: &Claim) -> Result<bool, StoreError> {
        let claim = claim.clone();
        self.write("delete_claim", throttled(), move |contents| contents.tables.delete_claim(&claim)).await
    }

    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.read("get", |contents| Ok(contents.tables.get(sandbox_id).cloned())).await
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let sandbox = sandbox.clone();
        self.write("create", throttled(), move |contents| contents.tables.create(&sandbox)).await
    }

    async fn update(&self, update: &ConditionalUpdate) -> Result<WriteOutcome, StoreError> {
        let update = update.clone();
        self.write("update", Ok(WriteOutcome::Conflict), move |contents| contents.tables.update(&update)).await
    }

    async fn list(&self, request: &PageRequest) -> Result<Page, StoreError> {
        let PageRequest { listing, shard, limit, after } = request;
        let after = after.as_ref().map(read_cursor).transpose()?;
        let limit = limit.map_or(PAGE, |limit| PAGE.min(limit as usize));
        self.read("list", |contents| {
            let listed = contents
                .index()
                .sandboxes()
                .filter(|sandbox| sandbox.status == listing.status)
                .filter(|sandbox| shards().shard_of(&sandbox.sandbox_id) == *shard)
                .filter(|sandbox| listing.from.is_none_or(|from| sandbox.shard_at >= from))
                .filter(|sandbox| listing.until.is_none_or(|until| sandbox.shard_at <= until))
                .map(|sandbox| ((sandbox.shard_at.0, sandbox.sandbox_id.clone()), sandbox))
                .collect();
            Ok(page(listed, limit, after.as_ref()))
        })
        .await
    }

    async fn count(&self, status: Status, shard: Shard) -> Result<u64, StoreError> {
        self.read("count", |contents| {
            let of_shard = |sandbox: &&Sandbox| shards().shard_of(&sandbox.sandbox_id) == shard;
            Ok(contents.index().sandboxes().filter(of_shard).filter(|sandbox| sandbox.status == status).count() as u64)
        })
        .await
    }

    async fn find(&self, lookup: &Lookup, limit: u32, after: Option<&Cursor>) -> Result<Page, StoreError> {
        let after = after.map(read_cursor).transpose()?;
        self.read("find", |contents| {
            let is_match = |sandbox: &&Sandbox| match lookup {
                Lookup::Track(track) => sandbox.allocated_to_track.as_ref() == Some(track),
                Lookup::Key(key) => sandbox.idempotency_key.as_ref() == Some(key),
            };
            // The latest allocation first.
            let position = |sandbox: &Sandbox| (u64::MAX - sandbox.allocated_at.0, sandbox.sandbox_id.clone());
            let found = contents.index().sandboxes().filter(is_match).map(|sandbox| (position(sandbox), sandbox));
            Ok(page(found.collect(), limit as usize, after.as_ref()))
        })
        .await
    }

    async fn check(&self, _: &ReplicaId) -> Result<(), StoreError> {
        self.read("check", |_| Ok(())).await
    }
}

#[async_trait]
impl Coordination for ModelStore {
    async fn acquire_lease(&self, request: &LeaseRequest) -> Result<LeaseOutcome, StoreError> {
        let LeaseRequest { job, holder, until, stale, due } = request.clone();
        self.write("acquire_lease", throttled(), move |contents| {
            let current = contents.leases.get(&job).cloned();
            if let Some(current) = &current {
                let is_stale =
                    stale.is_some_and(|stale| is_same_term(current, &stale) && current.expires_at == stale.expires_at);
                let is_due = due.is_none_or(|due| {
                    current.ran_at.is_none_or(|ran_at| ran_at <= due.ran_until || ran_at > due.not_after)
                });
                if (current.is_held() && !is_stale) || !is_due {
                    return LeaseOutcome::Refused(current.clone());
                }
            }
            let (term, ran_at, last_run) =
                current.map_or((1, None, None), |current| (current.term + 1, current.ran_at, current.last_run));
            let lease = JobLease { job, holder, expires_at: until, term, ran_at, last_run };
            contents.leases.insert(job, lease.clone());
            LeaseOutcome::Acquired(lease)
        })
        .await
    }

    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write("extend_lease", throttled(), move |contents| {
            let held = contents.leases.get_mut(&lease.job).filter(|found| is_same_term(found, &lease));
            held.map(|held| held.expires_at = until).is_some()
        })
        .await
    }

    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write("release_lease", throttled(), move |contents| {
            let Some(held) = contents.leases.get_mut(&lease.job).filter(|found| is_same_term(found, &lease)) else {
                return false;
            };
            held.expires_at = Timestamp(0);
            held.ran_at = lease.ran_at.or(held.ran_at);
            held.last_run = lease.last_run.or(held.last_run.take());
            true
        })
        .await
    }

    async fn read_lease(&self, job: ActorName) -> Result<Option<JobLease>, StoreError> {
        self.read("read_lease", |contents| Ok(contents.leases.get(&job).cloned())).await
    }

    async fn put_control(&self, control: &Control) -> Result<Option<Timestamp>, StoreError> {
        let control = control.clone();
        self.write("put_control", throttled(), move |contents| {
            let current = contents.controls.get(&control.actor).map(|current| current.updated_at);
            if let Some(newer) = current.filter(|current| *current > control.updated_at) {
                return Some(newer);
            }
            contents.controls.insert(control.actor, control);
            None
        })
        .await
    }

    async fn cluster_state(&self) -> Result<ClusterState, StoreError> {
        self.read("cluster_state", |contents| {
            Ok(ClusterState { controls: contents.controls.values().cloned().collect(), stats: contents.stats })
        })
        .await
    }

    async fn put_stats(&self, counted_at: Timestamp, stats: &Stats) -> Result<(), StoreError> {
        let stats = *stats;
        self.write("put_stats", throttled(), move |contents| {
            contents.stats = StoredStats { counted_at: Some(counted_at), stats, ..contents.stats };
        })
        .await
    }

    async fn add_supply(&self, added: u64) -> Result<(), StoreError> {
        self.write("add_supply", throttled(), move |contents| contents.stats.supply += added).await
    }

    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError> {
        let replica = replica.clone();
        self.write("heartbeat", throttled(), move |contents| {
            contents.replicas.insert(replica, until);
            contents.replicas.iter().filter(|(_, until)| **until > now).map(|(replica, _)| replica.clone()).collect()
        })
        .await
    }

    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        let replica = replica.clone();
        self.write("leave", throttled(), move |contents| {
            contents.replicas.remove(&replica);
        })
        .await
    }
}

fn is_same_term(found: &JobLease, lease: &JobLease) -> bool {
    found.holder == lease.holder && found.term == lease.term
}

/// A position in a listing.
type Position = (u64, SandboxId);

fn write_cursor((at, sandbox_id): &Position) -> Cursor {
    Cursor(format!("{at}#{sandbox_id}"))
}

fn read_cursor(cursor: &Cursor) -> Result<Position, StoreError> {
    let (at, sandbox_id) = cursor.0.split_once('#').ok_or(StoreError::BadCursor)?;
    let at = at.parse().map_err(|_| StoreError::BadCursor)?;
    Ok((at, SandboxId::new(sandbox_id)))
}
