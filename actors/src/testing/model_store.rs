use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use super::faults::{Fault, FaultPlan};
use crate::ports::{
    ClaimOutcome, Control, Coordination, CspAccount, Cursor, JobLease, LeaseOutcome, Listing, Page, SandboxStore,
    StoreError, WriteOutcome,
};
use crate::sandbox::{Claim, ClaimKey, Epoch, ReplicaId, Sandbox, SandboxId, Status, Timestamp, Write};

/// What the store should be, as simply as it can be said, with faults to inject.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    tables: Arc<Mutex<Tables>>,
    trouble: Arc<Mutex<Trouble>>,
}

#[derive(Debug, Default)]
struct Tables {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    claims: BTreeMap<ClaimKey, Claim>,
    leases: BTreeMap<String, JobLease>,
    controls: BTreeMap<String, Control>,
    replicas: BTreeMap<ReplicaId, Timestamp>,
    /// When the table last had no available sandbox.
    last_empty_at: Option<Instant>,
    /// What the status index shows while it lags.
    lagging_index: Option<BTreeMap<SandboxId, Sandbox>>,
}

#[derive(Debug, Default)]
struct Trouble {
    plan: Option<FaultPlan>,
    next: BTreeMap<&'static str, VecDeque<Fault>>,
    is_down: bool,
    requests: BTreeMap<&'static str, u64>,
}

impl ModelStore {
    /// A store with these sandboxes available: `lab-00001` to `lab-{n}`.
    pub fn with_sandboxes(n: u32) -> Self {
        let store = Self::default();
        for number in 1..=n {
            let sandbox = Self::sandbox(number);
            store.tables().sandboxes.insert(sandbox.sandbox_id.clone(), sandbox);
        }
        store
    }

    /// The available sandbox with this number.
    pub fn sandbox(number: u32) -> Sandbox {
        let account: CspAccount = super::FakeCsp::account(number);
        Sandbox::discovered(&account, super::PausedClock::BEGIN)
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

    /// From now on the status index shows what the table holds now.
    pub fn freeze_index(&self) {
        let mut tables = self.tables();
        tables.lagging_index = Some(tables.sandboxes.clone());
    }

    /// The status index catches up with the table.
    pub fn thaw_index(&self) {
        self.tables().lagging_index = None;
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.tables().sandboxes.values().cloned().collect()
    }

    /// All claims.
    pub fn claims(&self) -> Vec<Claim> {
        self.tables().claims.values().cloned().collect()
    }

    /// When the table last had no available sandbox; now, if it has none.
    pub fn last_empty_at(&self) -> Option<Instant> {
        let mut tables = self.tables();
        tables.note_if_empty();
        tables.last_empty_at
    }

    /// How many requests of each operation were asked for.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.trouble().requests.clone()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, operation: &'static str) -> Result<Option<Fault>, StoreError> {
        let mut trouble = self.trouble();
        *trouble.requests.entry(operation).or_default() += 1;
        if trouble.is_down {
            return Err(StoreError::Unavailable("the model store is down".to_owned()));
        }
        let scripted = trouble.next.get_mut(operation).and_then(VecDeque::pop_front);
        Ok(scripted.or_else(|| trouble.plan.as_mut().and_then(FaultPlan::draw)))
    }

    async fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Tables) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        match self.draw(operation)? {
            None => {}
            Some(Fault::Throttle | Fault::Conflict) => return Err(StoreError::Throttled("injected".to_owned())),
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::LostRequest | Fault::LostResponse | Fault::LateRequest(_)) => {
                return Err(StoreError::Unavailable("injected".to_owned()));
            }
        }
        read(&self.tables())
    }

    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        on_conflict: Result<T, StoreError>,
        write: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let unknown = || Err(StoreError::OutcomeUnknown("injected".to_owned()));
        match self.draw(operation)? {
            None => {}
            Some(Fault::Throttle) => return Err(StoreError::Throttled("injected".to_owned())),
            Some(Fault::Conflict) => return on_conflict,
            Some(Fault::LostRequest) => return unknown(),
            Some(Fault::LateRequest(delay)) => {
                let store = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    store.carry_out(write);
                });
                return unknown();
            }
            Some(Fault::LostResponse) => {
                self.carry_out(write);
                return unknown();
            }
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        }
        Ok(self.carry_out(write))
    }

    fn carry_out<T>(&self, write: impl FnOnce(&mut Tables) -> T) -> T {
        let mut tables = self.tables();
        tables.note_if_empty();
        let result = write(&mut tables);
        tables.note_if_empty();
        result
    }
}

fn throttled<T>() -> Result<T, StoreError> {
    Err(StoreError::Throttled("injected".to_owned()))
}

impl Tables {
    /// Carries the write out if its condition holds.
    fn change(&mut self, write: &Write) -> WriteOutcome {
        let Some(found) = self.sandboxes.get_mut(&write.sandbox_id) else {
            return WriteOutcome::Moved { found: None };
        };
        if !write.expects(found) {
            return WriteOutcome::Moved { found: Some(found.clone()) };
        }
        *found = found.changed(&write.change);
        WriteOutcome::Done
    }

    fn change_with_claim(&mut self, write: &Write, key: &ClaimKey, may_be_gone: bool) -> WriteOutcome {
        let claim_is_ours = match self.claims.get(key) {
            Some(claim) => claim.sandbox_id == write.sandbox_id,
            None => may_be_gone,
        };
        let expected = self.sandboxes.get(&write.sandbox_id).is_some_and(|found| write.expects(found));
        if expected && !claim_is_ours {
            return WriteOutcome::ClaimMoved;
        }
        self.change(write)
    }

    fn note_if_empty(&mut self) {
        if self.sandboxes.values().all(|sandbox| sandbox.status != Status::Available) {
            self.last_empty_at = Some(Instant::now());
        }
    }

    fn index(&self) -> &BTreeMap<SandboxId, Sandbox> {
        self.lagging_index.as_ref().unwrap_or(&self.sandboxes)
    }
}

#[async_trait]
impl SandboxStore for ModelStore {
    async fn claim(&self, write: &Write, claim: &Claim) -> Result<ClaimOutcome, StoreError> {
        let (write, claim) = (write.clone(), claim.clone());
        self.write("claim", Ok(ClaimOutcome::Conflict), move |tables| {
            if let Some(held) = tables.claims.get(&claim.claim_key) {
                return ClaimOutcome::AlreadyHeld(held.clone());
            }
            if let WriteOutcome::Moved { found } = tables.change(&write) {
                return ClaimOutcome::CandidateMoved { found };
            }
            tables.claims.insert(claim.claim_key.clone(), claim);
            ClaimOutcome::Claimed
        })
        .await
    }

    async fn find_claim(&self, claim_key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.read("find_claim", |tables| Ok(tables.claims.get(claim_key).cloned())).await
    }

    async fn end_claim(&self, write: &Write, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError> {
        let (write, key) = (write.clone(), claim_key.clone());
        self.write("end_claim", Ok(WriteOutcome::Conflict), move |tables| {
            let outcome = tables.change_with_claim(&write, &key, true);
            if outcome == WriteOutcome::Done {
                tables.claims.remove(&key);
            }
            outcome
        })
        .await
    }

    async fn renew_claim(&self, write: &Write, renewed: &Claim) -> Result<WriteOutcome, StoreError> {
        let (write, renewed) = (write.clone(), renewed.clone());
        self.write("renew_claim", Ok(WriteOutcome::Conflict), move |tables| {
            let outcome = tables.change_with_claim(&write, &renewed.claim_key, false);
            if outcome == WriteOutcome::Done {
                tables.claims.insert(renewed.claim_key.clone(), renewed);
            }
            outcome
        })
        .await
    }

    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.read("get", |tables| Ok(tables.sandboxes.get(sandbox_id).cloned())).await
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let sandbox = sandbox.clone();
        self.write("create", throttled(), move |tables| {
            let is_new = !tables.sandboxes.contains_key(&sandbox.sandbox_id);
            tables.sandboxes.entry(sandbox.sandbox_id.clone()).or_insert(sandbox);
            is_new
        })
        .await
    }

    async fn update(&self, write: &Write) -> Result<WriteOutcome, StoreError> {
        let write = write.clone();
        self.write("update", Ok(WriteOutcome::Conflict), move |tables| tables.change(&write)).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let after = listing.after.as_ref().map(read_cursor).transpose()?;
        self.read("list", |tables| {
            let mut listed: Vec<_> = tables
                .index()
                .values()
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
        self.read("count", |tables| {
            Ok(tables.index().values().filter(|sandbox| sandbox.status == status).count() as u64)
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
        job: &str,
        holder: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
        due_since: Option<Timestamp>,
    ) -> Result<LeaseOutcome, StoreError> {
        let (job, holder) = (job.to_owned(), holder.clone());
        self.write("acquire_lease", throttled(), move |tables| {
            let found = tables.leases.get(&job).cloned();
            if let Some(found) = &found {
                let is_due = due_since.is_none_or(|since| found.ran_at.is_none_or(|ran_at| ran_at <= since));
                if found.expires_at > now || !is_due {
                    return LeaseOutcome::Refused(found.clone());
                }
            }
            let (term, ran_at, last_run) =
                found.map_or((1, None, None), |found| (found.term + 1, found.ran_at, found.last_run));
            let lease = JobLease { job: job.clone(), holder, expires_at: until, term, ran_at, last_run };
            tables.leases.insert(job, lease.clone());
            LeaseOutcome::Acquired(lease)
        })
        .await
    }

    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write("extend_lease", throttled(), move |tables| {
            let held = tables.leases.get_mut(&lease.job).filter(|found| is_same_term(found, &lease));
            held.map(|held| held.expires_at = until).is_some()
        })
        .await
    }

    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError> {
        let lease = lease.clone();
        self.write("release_lease", throttled(), move |tables| {
            let Some(held) = tables.leases.get_mut(&lease.job).filter(|found| is_same_term(found, &lease)) else {
                return false;
            };
            held.expires_at = Timestamp(0);
            held.ran_at = lease.ran_at.or(held.ran_at);
            held.last_run = lease.last_run.or(held.last_run.take());
            true
        })
        .await
    }

    async fn read_lease(&self, job: &str) -> Result<Option<JobLease>, StoreError> {
        self.read("read_lease", |tables| Ok(tables.leases.get(job).cloned())).await
    }

    async fn put_control(&self, control: &Control) -> Result<(), StoreError> {
        let control = control.clone();
        self.write("put_control", throttled(), move |tables| {
            let is_newer = tables.controls.get(&control.actor).is_none_or(|found| found.at <= control.at);
            if is_newer {
                tables.controls.insert(control.actor.clone(), control);
            }
        })
        .await
    }

    async fn controls(&self, actors: &[&str]) -> Result<Vec<Control>, StoreError> {
        self.read("controls", |tables| {
            Ok(actors.iter().filter_map(|actor| tables.controls.get(*actor).cloned()).collect())
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
        self.write("heartbeat", throttled(), move |tables| {
            tables.replicas.insert(replica, until);
            tables.replicas.iter().filter(|(_, until)| **until > now).map(|(replica, _)| replica.clone()).collect()
        })
        .await
    }

    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        let replica = replica.clone();
        self.write("leave", throttled(), move |tables| {
            tables.replicas.remove(&replica);
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

/// What must hold of any state of the store (I1, I2, I3): claims and allocated sandboxes match one to one.
impl ModelStore {
    /// Panics, naming the invariant, if the tables contradict themselves.
    pub fn assert_consistent(&self) {
        let tables = self.tables();
        for claim in tables.claims.values() {
            let sandbox = &tables.sandboxes[&claim.sandbox_id];
            assert_eq!(Claim::held(sandbox).as_ref(), Some(claim), "I1/I3: a claim without its sandbox: {sandbox:?}");
        }
        let allocated = tables.sandboxes.values().filter(|sandbox| sandbox.status == Status::Allocated);
        assert_eq!(allocated.count(), tables.claims.len(), "I2/I3: an allocated sandbox without its claim");
        assert!(tables.sandboxes.values().all(|sandbox| sandbox.epoch >= Epoch::FIRST), "I5: an epoch went back");
    }
}
