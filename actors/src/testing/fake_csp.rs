use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use super::connection::Connection;
use super::trace::Trace;
use crate::ports::{CspClient, CspDeletion, CspError, CspListing};
use crate::sandbox::{CspAccount, SandboxId};

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
    deletion_errors: BTreeMap<String, CspError>,
    lists: u64,
    deletes: BTreeMap<String, u64>,
    trace: Option<Trace>,
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
            name: format!("lab-{number:05}"),
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
        let external_id = Self::account(number).external_id;
        let mut state = self.state();
        match error {
            Some(error) => state.deletion_errors.insert(external_id, error),
            None => state.deletion_errors.remove(&external_id),
        };
    }

    /// Records every call in this trace.
    pub fn set_trace(&self, trace: Trace) {
        self.state().trace = Some(trace);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        (state.delay, state.down) = (Duration::ZERO, None);
        state.deletion_errors.clear();
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
        if let Some(error) = state.deletion_errors.get(external_id) {
            return Err(error.clone());
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
        Ok(CspListing { accounts: self.state().accounts.values().cloned().collect(), skipped: 0 })
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
