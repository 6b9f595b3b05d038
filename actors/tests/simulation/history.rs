//! The answers of all requests, checked against the observations of the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use broker_actors::allocation::{AllocateError, Allocation};
use broker_actors::sandbox::{Claim, Sandbox, SandboxId, Status};
use broker_actors::testing::{ModelStore, PausedClock, Trace};
use tokio::time::Instant;

use crate::key::{Key, owner};

pub(crate) struct History {
    started: Instant,
    grace: Duration,
    trace: Trace,
    /// The first key that got each sandbox. A sandbox is allocated once in its life, so the owner never changes.
    owner_of: BTreeMap<SandboxId, Key>,
    /// The sandbox of the last success of each key.
    held: BTreeMap<Key, SandboxId>,
    /// The holdings that a track or an operator has asked to end.
    end_requested: BTreeSet<SandboxId>,
    /// The number of ended holdings that were checked.
    ends_checked: usize,
    /// The start of each allocation in flight, by replica and key. A duplicate may get the answer of an earlier request.
    in_flight: BTreeMap<(String, Key), Vec<Instant>>,
    /// Whether an operator has deleted sandboxes in the table without the CSP.
    pub(crate) has_bulk_deleted: bool,
    /// The first violation.
    pub(crate) violation: Option<String>,
}

impl History {
    pub(crate) fn new(grace: Duration, trace: Trace) -> Self {
        Self {
            started: Instant::now(),
            grace,
            trace,
            owner_of: BTreeMap::new(),
            held: BTreeMap::new(),
            end_requested: BTreeSet::new(),
            ends_checked: 0,
            in_flight: BTreeMap::new(),
            has_bulk_deleted: false,
            violation: None,
        }
    }

    pub(crate) fn report_violation(&mut self, violation: String) {
        if self.violation.is_none() {
            self.trace.record(|| violation.clone());
            self.violation = Some(violation);
        }
    }

    /// The sandbox that the key may hold.
    pub(crate) fn held_by(&self, key: &Key) -> Option<SandboxId> {
        self.held.get(key).cloned()
    }

    /// All sandboxes that were ever allocated.
    pub(crate) fn allocated(&self) -> Vec<SandboxId> {
        self.owner_of.keys().cloned().collect()
    }

    /// An allocation starts. Returns the earliest time at which its answer may be true.
    pub(crate) fn start_allocation(&mut self, replica: &str, key: &Key) -> Instant {
        let in_flight = self.in_flight.entry((replica.to_owned(), key.clone())).or_default();
        in_flight.push(Instant::now());
        in_flight[0]
    }

    /// An allocation has ended.
    pub(crate) fn end_allocation(&mut self, replica: &str, key: &Key) {
        let of_key = (replica.to_owned(), key.clone());
        let in_flight = self.in_flight.get_mut(&of_key).expect("the allocation has started");
        // The oldest stays until the last one ends, because the others may have joined it.
        in_flight.pop();
        if in_flight.is_empty() {
            self.in_flight.remove(&of_key);
        }
    }

    /// Checks the answer to an allocation.
    pub(crate) fn check_allocation(
        &mut self,
        store: &ModelStore,
        key: &Key,
        started: Instant,
        answer: &Result<Allocation, AllocateError>,
    ) {
        match answer {
            Ok(allocation) => self.check_success(store, key, started, &allocation.claim),
            Err(AllocateError::NoneAvailable) => {
                let last_empty = store.observed(|observer| observer.last_empty(key.prefix()));
                if last_empty.is_none_or(|at| at < started) {
                    self.report_violation(format!("I4: none available for {key:?}, but there was one all the time"));
                }
                self.check_refusal(store, key, started);
            }
            Err(AllocateError::Paused | AllocateError::Waiting(_)) => self.check_refusal(store, key, started),
            Err(AllocateError::Stopping) => {
                self.report_violation(format!("{key:?} reached a replica with a dead actor"))
            }
            Err(_) => {}
        }
    }

    fn check_success(&mut self, store: &ModelStore, key: &Key, started: Instant, claim: &Claim) {
        let sandbox_id = &claim.sandbox_id;
        let owner = self.owner_of.entry(sandbox_id.clone()).or_insert_with(|| key.clone());
        if owner != key {
            let owner = owner.clone();
            self.report_violation(format!("I1: {sandbox_id} was allocated to {owner:?} and to {key:?}"));
        }
        self.held.insert(key.clone(), sandbox_id.clone());
        let Some(sandbox) = sandbox(store, sandbox_id).filter(|sandbox| key.owns(sandbox)) else {
            return self.report_violation(format!("I3: {key:?} got {sandbox_id}, but not in the table"));
        };
        if key.prefix().is_some_and(|prefix| !sandbox.name.starts_with(prefix)) {
            self.report_violation(format!("{key:?} got {}", sandbox.name));
        }
        if claim.expires_at.plus(self.grace).0 <= self.time_at(started) {
            self.report_violation(format!("I3: {key:?} got {sandbox_id}, which had expired before"));
        }
        let ended_at = store.observed(|observer| observer.holding_ended_at(sandbox_id));
        if sandbox.status != Status::Allocated && ended_at < Some(started) {
            self.report_violation(format!("I3: {key:?} got {sandbox_id}, whose holding had ended before"));
        }
    }

    /// A key that holds a sandbox during the whole request is not refused, whatever keeps others from a new one.
    fn check_refusal(&mut self, store: &ModelStore, key: &Key, started: Instant) {
        let is_of_key = |claim: &&Claim| claim.claim_key.key == key.name();
        let Some(held) = store.read_tables(|tables| tables.claims().find(is_of_key).cloned()) else { return };
        // A late claim or renewal that takes effect during the request was not there when the request looked.
        let changed_at = store.observed(|observer| observer.changed_at(&held.sandbox_id));
        let is_held_at_start = changed_at.is_some_and(|changed_at| changed_at < started);
        let is_held_at_end = held.expires_at.plus(self.grace).0 > self.time_at(Instant::now());
        if is_held_at_start && is_held_at_end {
            self.report_violation(format!("I2: {key:?} was refused, but it holds {held:?}"));
        }
    }

    /// A track or an operator asks to end this holding.
    pub(crate) fn request_end(&mut self, sandbox_id: &SandboxId) {
        self.end_requested.insert(sandbox_id.clone());
    }

    /// Checks a successful release of this sandbox by this track.
    pub(crate) fn check_release(&mut self, store: &ModelStore, track: u64, sandbox_id: &SandboxId) {
        let sandbox = sandbox(store, sandbox_id);
        match &sandbox {
            Some(sandbox) if !sandbox.belongs_to(&owner(track)) => {
                self.report_violation(format!("I1: t{track} released {sandbox:?}"));
            }
            Some(sandbox) if sandbox.status != Status::Allocated => {}
            _ => self.report_violation(format!("I3: the release by t{track} is not in the table: {sandbox:?}")),
        }
        self.held.retain(|_, held| held != sandbox_id);
    }

    /// Checks a successful renewal.
    pub(crate) fn check_renewal(&mut self, store: &ModelStore, renewed: &Claim) {
        let sandbox = sandbox(store, &renewed.sandbox_id);
        let is_stored = sandbox.as_ref().is_some_and(|sandbox| sandbox.expires_at >= Some(renewed.expires_at));
        if !is_stored {
            self.report_violation(format!("I3: the renewal {renewed:?} is not in the table: {sandbox:?}"));
        }
    }

    /// Checks the answer that this sandbox does not belong to this track.
    pub(crate) fn check_denial(&mut self, track: u64, sandbox_id: &SandboxId) {
        if self.owner_of.get(sandbox_id).is_some_and(|owner| owner.track() == track) {
            self.report_violation(format!("I1: {sandbox_id} was taken from t{track}"));
        }
    }

    /// Checks that a holding without a request to end it has not ended before its expiry.
    pub(crate) fn check_ended_holdings(&mut self, store: &ModelStore) {
        for (sandbox_id, ended_at) in
            store.observed(|observer| observer.ended_holdings_after(self.ends_checked).to_vec())
        {
            self.ends_checked += 1;
            let Some(sandbox) = sandbox(store, &sandbox_id).filter(|_| !self.end_requested.contains(&sandbox_id))
            else {
                continue;
            };
            let due = sandbox.expires_at.map(|at| at.plus(self.grace).0);
            if due > Some(self.time_at(ended_at)) {
                self.report_violation(format!("I3: a holding ended before its expiry: {sandbox:?}"));
            }
        }
    }

    fn time_at(&self, at: Instant) -> u64 {
        PausedClock::BEGIN.0 + at.duration_since(self.started).as_secs()
    }
}

fn sandbox(store: &ModelStore, sandbox_id: &SandboxId) -> Option<Sandbox> {
    store.read_tables(|tables| tables.get(sandbox_id).cloned())
}
