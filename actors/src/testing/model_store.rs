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
    ClaimOutcome, Coordination, Cursor, JobLease, LeaseOutcome, Listing, Page, SandboxStore, StoreError, WriteOutcome,
};
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, ReplicaId, Sandbox, SandboxId, Status, Timestamp};

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
