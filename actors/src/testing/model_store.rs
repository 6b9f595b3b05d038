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
    ClaimOutcome, Coordination, Cursor, JobLease, LeaseOutcome, Listing, Page, SandboxStore, StoreError, WriteOutcome,
};
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, ReplicaId, Sandbox, SandboxId, Status, Timestamp};

/// The simplest store that keeps the contract, with injected faults.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    contents: Arc<Mutex<Contents>>,
    faults: Arc<Mutex<Faults>>,
    connection: Connection,
}

#[derive(Debug, Default)]
struct Contents {
    tables: Tables,
    leases: BTreeMap<ActorName, JobLease>,
    controls: BTreeMap<ActorName, Control>,
    replicas: BTreeMap<ReplicaId, Timestamp>,
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

    /// Panics if claims and sandboxes do not match.
    pub fn assert_consistent(&self) {
        assert_eq!(self.contents().tables.violation(), None);
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

    async fn read<T: Debug + Send>(
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

    async fn write<T: Debug + Send + 'static>(
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

fn throttled<T>() -> Result<T, StoreError> {
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

#[async_trait]
impl SandboxStore for ModelStore {
    async fn claim(&self, write: &ConditionalUpdate, claim: &Claim) -> Result<ClaimOutcome, StoreError> {
        let (write, claim) = (write.clone(), claim.clone());
        self.write("claim", Ok(ClaimOutcome::Conflict), move |contents| contents.tables.claim(&write, &claim)).await
    }

    async fn find_claim(&self, claim_key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.read("find_claim", |contents| Ok(contents.tables.find_claim(claim_key).cloned())).await
    }

    async fn end_claim(&self, write: &ConditionalUpdate, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError> {
        let (write, key) = (write.clone(), claim_key.clone());
        self.write("end_claim", Ok(WriteOutcome::Conflict), move |contents| contents.tables.end_claim(&write, &key))
            .await
    }

    async fn renew_claim(&self, write: &ConditionalUpdate, renewed: &Claim) -> Result<WriteOutcome, StoreError> {
        let (write, renewed) = (write.clone(), renewed.clone());
        self.write("renew_claim", Ok(WriteOutcome::Conflict), move |contents| {
            contents.tables.renew_claim(&write, &renewed)
        })
        .await
    }

    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.read("get", |contents| Ok(contents.tables.get(sandbox_id).cloned())).await
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let sandbox = sandbox.clone();
        self.write("create", throttled(), move |contents| contents.tables.create(&sandbox)).await
    }

    async fn update(&self, write: &ConditionalUpdate) -> Result<WriteOutcome, StoreError> {
        let write = write.clone();
        self.write("update", Ok(WriteOutcome::Conflict), move |contents| contents.tables.update(&write)).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let after = listing.after.as_ref().map(read_cursor).transpose()?;
        self.read("list", |contents| {
            let mut listed: Vec<_> = contents
                .index()
                .sandboxes()
                .filter(|sandbox| sandbox.status == listing.status)
                .filter(|sandbox| listing.allocated_until.is_none_or(|until| sandbox.allocated_at <= until))
                .map(|sandbox| ((sandbox.allocated_at, sandbox.sandbox_id.clone()), sandbox))
                .filter(|(place, _)| after.as_ref().is_none_or(|after| place > after))
                .collect();
            listed.sort_by(|(one, _), (other, _)| one.cmp(other));
            let is_cut = listed.len() > listing.limit as usize;
            listed.truncate(listing.limit as usize);
            let last = listed.last().map(|((at, sandbox_id), _)| Cursor(format!("{}#{sandbox_id}", at.0)));
            let sandboxes = listed.into_iter().map(|(_, sandbox)| sandbox.clone()).collect();
            Ok(Page { sandboxes, next: last.filter(|_| is_cut) })
        })
        .await
    }

    async fn count(&self, status: Status) -> Result<u64, StoreError> {
        self.read("count", |contents| {
            Ok(contents.index().sandboxes().filter(|sandbox| sandbox.status == status).count() as u64)
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read("ping", |_| Ok(())).await
    }
}

#[async_trait]
impl Coordination for ModelStore {
    async fn acquire_lease(
        &self,
        job: ActorName,
        holder: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
        due_since: Option<Timestamp>,
    ) -> Result<LeaseOutcome, StoreError> {
        let holder = holder.clone();
        self.write("acquire_lease", throttled(), move |contents| {
            let found = contents.leases.get(&job).cloned();
            if let Some(found) = &found {
                let is_due = due_since.is_none_or(|since| found.ran_at.is_none_or(|ran_at| ran_at <= since));
                if found.expires_at > now || !is_due {
                    return LeaseOutcome::Refused(found.clone());
                }
            }
            let (term, ran_at, last_run) =
                found.map_or((1, None, None), |found| (found.term + 1, found.ran_at, found.last_run));
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

    async fn put_control(&self, control: &Control) -> Result<(), StoreError> {
        let control = control.clone();
        self.write("put_control", throttled(), move |contents| {
            let is_newer =
                contents.controls.get(&control.actor).is_none_or(|found| found.updated_at <= control.updated_at);
            if is_newer {
                contents.controls.insert(control.actor, control);
            }
        })
        .await
    }

    async fn controls(&self, actors: &[ActorName]) -> Result<Vec<Control>, StoreError> {
        self.read("controls", |contents| {
            Ok(actors.iter().filter_map(|actor| contents.controls.get(actor).cloned()).collect())
        })
        .await
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

fn read_cursor(cursor: &Cursor) -> Result<(Timestamp, SandboxId), StoreError> {
    let (at, sandbox_id) = cursor.0.split_once('#').ok_or(StoreError::BadCursor)?;
    let at = at.parse().map_err(|_| StoreError::BadCursor)?;
    Ok((Timestamp(at), SandboxId::new(sandbox_id)))
}
