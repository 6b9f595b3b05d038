use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use super::connection::Connection;
use super::trace::Trace;
use crate::ports::{CspClient, CspDeletion, CspError, CspListing, UnreadableRecord};
use crate::sandbox::{CspAccount, SandboxId};

/// How the deletion of an account goes wrong. The account stays.
#[derive(Clone, Debug)]
pub enum DeletionFault {
    /// This error.
    Fails(CspError),
    /// This answer.
    Answers(CspDeletion),
}

/// A CSP in memory with injected faults.
#[derive(Clone, Debug, Default)]
pub struct FakeCsp {
    state: Arc<Mutex<State>>,
    connection: Connection,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<String, CspAccount>,
    delay: Duration,
    down: Option<CspError>,
    panics_next: bool,
    next_errors: VecDeque<CspError>,
    deletion_faults: BTreeMap<String, DeletionFault>,
    /// The fault of every other deletion.
    deletion_fault: Option<DeletionFault>,
    /// The accounts whose records cannot be read, and whether their ids can.
    unreadable: BTreeMap<String, bool>,
    is_incomplete: bool,
    /// The accounts that an answer called deleted or gone while they existed.
    falsely_deleted: BTreeSet<String>,
    lists: u64,
    deletes: BTreeMap<String, u64>,
    trace: Option<Trace>,
}

impl State {
    fn listing(&self) -> CspListing {
        let listed = if self.is_incomplete { self.accounts.len() / 2 } else { self.accounts.len() };
        let mut listing = CspListing { is_complete: !self.is_incomplete, ..CspListing::default() };
        for account in self.accounts.values().take(listed) {
            match self.unreadable.get(&account.external_id) {
                None => listing.accounts.push(account.clone()),
                Some(has_id) => listing.unreadable.push(UnreadableRecord {
                    sandbox_id: None,
                    external_id: has_id.then(|| account.external_id.clone()),
                }),
            }
        }
        listing
    }
}

impl FakeCsp {
    /// A CSP with the accounts `lab-00001` to `lab-{n}`.
    pub fn with_accounts(n: u32) -> Self {
        let csp = Self::default();
        (1..=n).for_each(|number| csp.add(number));
        csp
    }

    /// The same CSP, reached through this connection.
    #[must_use]
    pub fn through(&self, connection: Connection) -> Self {
        Self { connection, ..self.clone() }
    }

    /// The account with this number.
    pub fn account(number: u32) -> CspAccount {
        CspAccount {
            sandbox_id: SandboxId::new((2_000_000 + number).to_string()),
            name: Some(format!("lab-{number:05}")),
            external_id: format!("identity/accounts/{number:08}"),
            sfdc_account_id: None,
            created_at: None,
        }
    }

    /// Adds an account.
    pub fn add(&self, number: u32) {
        let account = Self::account(number);
        self.state().accounts.insert(account.external_id.clone(), account);
    }

    /// Removes an account without the broker.
    pub fn remove(&self, number: u32) {
        self.state().accounts.remove(&Self::account(number).external_id);
    }

    /// The `external_id` of each account.
    pub fn accounts(&self) -> BTreeSet<String> {
        self.state().accounts.keys().cloned().collect()
    }

    /// Whether this account exists.
    pub fn has(&self, external_id: &str) -> bool {
        self.state().accounts.contains_key(external_id)
    }

    /// Every call takes this long.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Every call fails with this error, until `None`.
    pub fn set_down(&self, error: Option<CspError>) {
        self.state().down = error;
    }

    /// The next call fails with this error.
    pub fn fail_next(&self, error: CspError) {
        self.state().next_errors.push_back(error);
    }

    /// The next call panics.
    pub fn panic_next(&self) {
        self.state().panics_next = true;
    }

    /// Every deletion of this account fails with this error, until `None`.
    pub fn set_deletion_error(&self, number: u32, error: Option<CspError>) {
        self.set_deletion_fault(number, error.map(DeletionFault::Fails));
    }

    /// Every deletion of this account has this fault, until `None`.
    pub fn set_deletion_fault(&self, number: u32, fault: Option<DeletionFault>) {
        let external_id = Self::account(number).external_id;
        let mut state = self.state();
        match fault {
            Some(fault) => state.deletion_faults.insert(external_id, fault),
            None => state.deletion_faults.remove(&external_id),
        };
    }

    /// Every deletion without a fault of its own has this one, until `None`.
    pub fn set_every_deletion_fault(&self, fault: Option<DeletionFault>) {
        self.state().deletion_fault = fault;
    }

    /// The record of this account cannot be read, but perhaps its `id`.
    pub fn set_unreadable(&self, number: u32, has_id: bool) {
        self.state().unreadable.insert(Self::account(number).external_id, has_id);
    }

    /// Listings lack the second half of the accounts and are known to.
    pub fn set_incomplete(&self, is_incomplete: bool) {
        self.state().is_incomplete = is_incomplete;
    }

    /// Changes the record of this account, in place.
    pub fn change(&self, number: u32, change: impl FnOnce(&mut CspAccount)) {
        self.change_account(&Self::account(number).external_id, change);
    }

    /// Changes the record of the account with this `external_id`, in place.
    pub fn change_account(&self, external_id: &str, change: impl FnOnce(&mut CspAccount)) {
        let mut state = self.state();
        let mut account = state.accounts.remove(external_id).expect("the account exists");
        change(&mut account);
        state.accounts.insert(account.external_id.clone(), account);
    }

    /// Adds this account.
    pub fn add_account(&self, account: CspAccount) {
        self.state().accounts.insert(account.external_id.clone(), account);
    }

    /// Records every call in this trace.
    pub fn set_trace(&self, trace: Trace) {
        self.state().trace = Some(trace);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        (state.delay, state.down) = (Duration::ZERO, None);
        (state.deletion_fault, state.is_incomplete) = (None, false);
        state.deletion_faults.clear();
        state.unreadable.clear();
        state.next_errors.clear();
    }

    /// The number of requests for a listing.
    pub fn lists(&self) -> u64 {
        self.state().lists
    }

    /// Whether a deletion of this account was requested.
    pub fn was_deletion_requested(&self, external_id: &str) -> bool {
        self.state().deletes.contains_key(external_id)
    }

    /// Whether an answer called this account deleted or gone while it existed.
    pub fn was_falsely_deleted(&self, external_id: &str) -> bool {
        self.state().falsely_deleted.contains(external_id)
    }

    /// The number of requests for a deletion, by `external_id`.
    pub fn deletes(&self) -> BTreeMap<String, u64> {
        self.state().deletes.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Delays or fails a call as the faults say.
    async fn inject_faults(&self) -> Result<(), CspError> {
        let (delay, error) = {
            let mut state = self.state();
            (state.delay, state.next_errors.pop_front().or_else(|| state.down.clone()))
        };
        let panics = std::mem::take(&mut self.state().panics_next);
        assert!(!panics, "the fake CSP panics as the test asked");
        tokio::time::sleep(delay).await;
        error.map_or(Ok(()), Err)
    }

    fn record(&self, call: &str, outcome: &impl std::fmt::Debug) {
        if let Some(trace) = &self.state().trace {
            trace.record(|| format!("{} CSP {call}: {outcome:?}", self.connection.name()));
        }
    }

    fn delete_account(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        let mut state = self.state();
        match state.deletion_faults.get(external_id).or(state.deletion_fault.as_ref()) {
            Some(DeletionFault::Fails(error)) => return Err(error.clone()),
            Some(DeletionFault::Answers(answer)) => {
                let answer = *answer;
                if answer != CspDeletion::Accepted && state.accounts.contains_key(external_id) {
                    state.falsely_deleted.insert(external_id.to_owned());
                }
                return Ok(answer);
            }
            None => {}
        }
        Ok(match state.accounts.remove(external_id) {
            Some(_) => CspDeletion::Deleted,
            None => CspDeletion::AlreadyGone,
        })
    }
}

#[async_trait]
impl CspClient for FakeCsp {
    async fn list(&self) -> Result<CspListing, CspError> {
        self.connection.pass().await;
        self.state().lists += 1;
        let faults = self.inject_faults().await;
        self.connection.pass().await;
        self.record("list", &faults);
        faults?;
        Ok(self.state().listing())
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        self.connection.pass().await;
        *self.state().deletes.entry(external_id.to_owned()).or_default() += 1;
        let deletion = self.inject_faults().await.and_then(|()| self.delete_account(external_id));
        self.record(external_id, &deletion);
        self.connection.pass().await;
        deletion
    }
}
