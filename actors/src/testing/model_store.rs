use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

use super::connection::Connection;
use super::faults::{Fault, FaultPlan};
use super::observer::Observer;
use super::tables::{Flaw, Tables};
use super::trace::Trace;
use crate::actor::{ActorName, Control};
use crate::error::cause;
use crate::ports::{
    ClaimOutcome, Cursor, JobLease, Listing, Lookup, Page, PageRequest, PreDeleteRecord, SandboxStore, StoreError,
    StoredQueue, StoredStats, Ticket, WriteOutcome,
};
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, ReplicaId, Sandbox, SandboxId, Shard, ShardCount, Timestamp};

/// The simplest store that keeps the contract, with injected faults.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    contents: Arc<Mutex<Contents>>,
    faults: Arc<Mutex<Faults>>,
    connection: Connection,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tables: Tables,
    pub(super) leases: BTreeMap<ActorName, JobLease>,
    pub(super) controls: BTreeMap<ActorName, Control>,
    pub(super) stats: StoredStats,
    pub(super) queue: StoredQueue,
    pub(super) replicas: BTreeMap<ReplicaId, Timestamp>,
    pre_delete_records: BTreeMap<SandboxId, PreDeleteRecord>,
    /// The contents of the status index while it lags.
    lagging_index: Option<Tables>,
    observer: Option<Observer>,
}

#[derive(Debug, Default)]
struct Faults {
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

    /// The same store through this connection.
    #[must_use]
    pub fn through(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// Injects the faults of this plan, until `None`.
    pub fn set_plan(&self, plan: Option<FaultPlan>) {
        self.faults().plan = plan;
    }

    /// The next request of this operation has this fault.
    pub fn fail_next(&self, operation: &'static str, fault: Fault) {
        self.faults().next.entry(operation).or_default().push_back(fault);
    }

    /// While down, every request fails.
    pub fn set_down(&self, is_down: bool) {
        self.faults().is_down = is_down;
    }

    /// All following writes have this flaw.
    pub fn set_flaw(&self, flaw: Flaw) {
        self.contents().tables.flaw = Some(flaw);
    }

    /// Records every request in this trace.
    pub fn set_trace(&self, trace: Trace) {
        self.faults().trace = Some(trace);
    }

    /// The status index lags: it keeps its present contents.
    pub fn freeze_index(&self) {
        self.change_index(|contents| contents.lagging_index = Some(contents.tables.clone()));
    }

    /// The status index catches up with the table.
    pub fn thaw_index(&self) {
        self.change_index(|contents| contents.lagging_index = None);
    }

    /// Reads the tables.
    pub fn read_tables<T>(&self, read: impl FnOnce(&Tables) -> T) -> T {
        read(&self.contents().tables)
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.contents().tables.sandboxes().cloned().collect()
    }

    /// All claims.
    pub fn claims(&self) -> Vec<Claim> {
        self.contents().tables.claims.values().cloned().collect()
    }

    /// All tickets.
    pub fn tickets_left(&self) -> Vec<Ticket> {
        self.contents().tables.tickets.values().cloned().collect()
    }

    /// The records of steps before deletions.
    pub fn pre_delete_records(&self) -> Vec<PreDeleteRecord> {
        self.contents().pre_delete_records.values().cloned().collect()
    }

    /// Panics if claims and sandboxes do not match.
    pub fn assert_consistent(&self) {
        assert_eq!(self.contents().tables.violation(), None);
    }

    /// Removes the items whose TTL has passed, as DynamoDB does.
    pub fn expire(&self, now: Timestamp) {
        self.change_index(|contents| {
            contents.tables.expire(now);
            if let Some(index) = &mut contents.lagging_index {
                index.expire(now);
            }
        });
    }

    /// Observes the whole table after each following write; emptiness is observed for these name prefixes.
    pub fn observe(&self, prefixes: &[Option<&str>]) {
        let mut contents = self.contents();
        contents.observer = Some(Observer::new(prefixes));
        contents.update_observer();
    }

    /// Reads the observations so far.
    pub fn observed<T>(&self, read: impl FnOnce(&Observer) -> T) -> T {
        read(self.contents().observer.as_ref().expect("the store is observed"))
    }

    /// The number of requests of each operation.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.faults().requests.clone()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock()
    }

    fn draw(&self, operation: &'static str) -> Result<Option<Fault>, StoreError> {
        let mut faults = self.faults();
        *faults.requests.entry(operation).or_default() += 1;
        if faults.is_down {
            return Err(StoreError::Unavailable(cause("the model store is down")));
        }
        let scripted = faults.next.get_mut(operation).and_then(VecDeque::pop_front);
        Ok(scripted.or_else(|| faults.plan.as_mut().and_then(FaultPlan::draw)))
    }

    /// The latency of one request or response.
    async fn delay(&self) {
        let latency = self.faults().plan.as_mut().map_or(Duration::ZERO, FaultPlan::draw_latency);
        if !latency.is_zero() {
            sleep(latency).await;
        }
    }

    fn record(&self, operation: &str, what: &impl Debug) {
        if let Some(trace) = &self.faults().trace {
            trace.record(|| format!("{} {operation}: {what:?}", self.connection.name()));
        }
    }

    /// One request of a replica: with a cut connection nothing is sent and no response arrives.
    async fn request<T: Debug>(
        &self,
        operation: &'static str,
        execution: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.connection.pass().await;
        let answer = execution.await;
        self.connection.pass().await;
        self.record(operation, &answer);
        answer
    }

    pub(super) async fn read<T: Debug + Send>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Contents) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let execution = async {
            match self.draw(operation)? {
                None => {}
                Some(Fault::Throttle | Fault::Conflict) => return Err(StoreError::Throttled(cause("injected"))),
                Some(Fault::Delay(delay)) => sleep(delay).await,
                Some(Fault::LostRequest | Fault::LostResponse | Fault::LateRequest(_)) => {
                    return Err(StoreError::Unavailable(cause("injected")));
                }
            }
            self.delay().await;
            let result = read(&self.contents());
            self.delay().await;
            result
        };
        self.request(operation, execution).await
    }

    pub(super) async fn write<T: Debug + Send + 'static>(
        &self,
        operation: &'static str,
        on_conflict: Result<T, StoreError>,
        write: impl FnOnce(&mut Contents) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let unknown = || Err(StoreError::OutcomeUnknown(cause("injected")));
        let execution = async {
            match self.draw(operation)? {
                None => {}
                Some(Fault::Throttle) => return Err(StoreError::Throttled(cause("injected"))),
                Some(Fault::Conflict) => return on_conflict,
                Some(Fault::LostRequest) => return unknown(),
                Some(Fault::LateRequest(delay)) => {
                    let store = self.clone();
                    tokio::spawn(async move {
                        sleep(delay).await;
                        store.execute(operation, write);
                    });
                    return unknown();
                }
                Some(Fault::LostResponse) => {
                    self.delay().await;
                    self.execute(operation, write);
                    return unknown();
                }
                Some(Fault::Delay(delay)) => sleep(delay).await,
            }
            self.delay().await;
            let result = self.execute(operation, write);
            self.delay().await;
            Ok(result)
        };
        self.request(operation, execution).await
    }

    fn execute<T: Debug>(&self, operation: &str, write: impl FnOnce(&mut Contents) -> T) -> T {
        let result = {
            let mut contents = self.contents();
            let result = write(&mut contents);
            contents.update_observer();
            result
        };
        self.record(operation, &("executed", &result));
        result
    }

    fn change_index(&self, change: impl FnOnce(&mut Contents)) {
        let mut contents = self.contents();
        change(&mut contents);
        contents.update_observer();
    }
}

pub(super) fn throttled<T>() -> Result<T, StoreError> {
    Err(StoreError::Throttled(cause("injected")))
}

impl Contents {
    fn index(&self) -> &Tables {
        self.lagging_index.as_ref().unwrap_or(&self.tables)
    }

    fn update_observer(&mut self) {
        if let Some(observer) = &mut self.observer {
            observer.update(&self.tables, self.lagging_index.as_ref());
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
                .filter(|sandbox| shards().shard_of(&sandbox.sandbox_id) == *shard && listing.has(sandbox))
                .map(|sandbox| ((sandbox.shard_at.0, sandbox.sandbox_id.clone()), sandbox))
                .collect();
            Ok(page(listed, limit, after.as_ref()))
        })
        .await
    }

    async fn count(&self, listing: Listing, shard: Shard) -> Result<u64, StoreError> {
        self.read("count", |contents| {
            let is_listed =
                |sandbox: &&Sandbox| shards().shard_of(&sandbox.sandbox_id) == shard && listing.has(sandbox);
            Ok(contents.index().sandboxes().filter(is_listed).count() as u64)
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

    async fn record_pre_delete(&self, record: &PreDeleteRecord) -> Result<(), StoreError> {
        let record = record.clone();
        self.write("record_pre_delete", throttled(), move |contents| {
            contents.pre_delete_records.insert(record.sandbox.sandbox_id.clone(), record);
        })
        .await
    }

    async fn check(&self, _: &ReplicaId) -> Result<(), StoreError> {
        self.read("check", |_| Ok(())).await
    }
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
