use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use super::connection::{Connection, Trace};
use crate::ports::{CspClient, CspDeletion, CspError, CspListing};
use crate::sandbox::{CspAccount, SandboxId};

/// A CSP in memory, with scripted trouble.
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
    bad_accounts: BTreeMap<String, CspError>,
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

    /// Takes an account away behind the broker's back.
    pub fn remove(&self, number: u32) {
        self.state().accounts.remove(&Self::account(number).external_id);
    }

    /// The `external_id` of each account that is there.
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

    /// The deletion of this account always fails with this error, until `None`.
    pub fn set_bad(&self, number: u32, error: Option<CspError>) {
        let external_id = Self::account(number).external_id;
        let mut state = self.state();
        match error {
            Some(error) => state.bad_accounts.insert(external_id, error),
            None => state.bad_accounts.remove(&external_id),
        };
    }

    /// Every call is written down here.
    pub fn set_trace(&self, trace: Trace) {
        self.state().trace = Some(trace);
    }

    /// All trouble that was set is over.
    pub fn heal_all(&self) {
        let mut state = self.state();
        (state.delay, state.down) = (Duration::ZERO, None);
        state.bad_accounts.clear();
        state.next_errors.clear();
    }

    /// How many listings were asked for.
    pub fn lists(&self) -> u64 {
        self.state().lists
    }

    /// Whether the deletion of this account was ever asked for.
    pub fn was_told_to_delete(&self, external_id: &str) -> bool {
        self.state().deletes.contains_key(external_id)
    }

    /// How many deletions were asked for, by `external_id`.
    pub fn deletes(&self) -> BTreeMap<String, u64> {
        self.state().deletes.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What stands between a call and its being carried out.
    async fn trouble(&self) -> Result<(), CspError> {
        let (delay, error) = {
            let mut state = self.state();
            (state.delay, state.next_errors.pop_front().or_else(|| state.down.clone()))
        };
        let panics = std::mem::take(&mut self.state().panics_next);
        assert!(!panics, "the fake CSP panics as the test asked");
        tokio::time::sleep(delay).await;
        error.map_or(Ok(()), Err)
    }

    fn note(&self, what: &str, outcome: &impl std::fmt::Debug) {
        if let Some(trace) = &self.state().trace {
            trace.note(|| format!("{} CSP {what}: {outcome:?}", self.connection.name()));
        }
    }

    fn carry_out_deletion(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        let mut state = self.state();
        if let Some(error) = state.bad_accounts.get(external_id) {
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
        let trouble = self.trouble().await;
        self.connection.pass().await;
        self.note("lists", &trouble);
        trouble?;
        Ok(CspListing { accounts: self.state().accounts.values().cloned().collect(), skipped: 0 })
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        self.connection.pass().await;
        *self.state().deletes.entry(external_id.to_owned()).or_default() += 1;
        let carried_out = self.trouble().await.and_then(|()| self.carry_out_deletion(external_id));
        self.note(external_id, &carried_out);
        self.connection.pass().await;
        carried_out
    }
}
