//! What everybody was told, judged by what the watch over the tables saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use broker_actors::allocation::{AllocateError, AllocateRequest, Allocation};
use broker_actors::sandbox::{Claim, IdempotencyKey, Sandbox, SandboxId, Status};
use broker_actors::testing::{ModelStore, PausedClock, Trace};
use tokio::time::Instant;

use crate::world::{PREFIXES, track_id};

/// The names of tracks that come after the trouble begin here.
const FIRST_LATECOMER: u64 = 1000;

/// One intent of a track. Its prefix goes with it: who repeats a request repeats it whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) track: u64,
    number: u64,
}

impl Key {
    pub(crate) fn new(track: u64, number: u64) -> Self {
        Self { track, number }
    }

    /// Someone who was not there during the trouble.
    pub(crate) fn of_latecomer(number: u64) -> Self {
        Self { track: FIRST_LATECOMER + number, number: 0 }
    }

    fn name(&self) -> IdempotencyKey {
        // The first is the default one, which release guesses.
        let track = self.track;
        IdempotencyKey::new(if self.number == 0 { format!("t{track}") } else { format!("t{track}-{}", self.number) })
    }

    fn prefix(&self) -> Option<&'static str> {
        if self.track >= FIRST_LATECOMER {
            return None;
        }
        PREFIXES[(self.track + self.number) as usize % PREFIXES.len()]
    }

    pub(crate) fn request(&self) -> AllocateRequest {
        AllocateRequest {
            track: track_id(self.track),
            track_name: None,
            key: self.name(),
            name_prefix: self.prefix().map(str::to_owned),
        }
    }

    fn holds(&self, sandbox: &Sandbox) -> bool {
        sandbox.belongs_to(&track_id(self.track)) && sandbox.idempotency_key == Some(self.name())
    }
}

pub(crate) struct History {
    began: Instant,
    grace: Duration,
    trace: Trace,
    /// A sandbox is allocated once in its life, so its owner is its owner for ever.
    owner_of: BTreeMap<SandboxId, Key>,
    /// What each key was told last.
    told: BTreeMap<Key, SandboxId>,
    /// Somebody has asked for the end of these holdings.
    end_asked: BTreeSet<SandboxId>,
    /// So many ends were judged already.
    ends_judged: usize,
    /// Requests under way by replica and key: a duplicate may get the answer of one that began before it.
    under_way: BTreeMap<(String, Key), Vec<Instant>>,
    /// Whether an operator has made sandboxes tombstones without a call to the CSP.
    pub(crate) has_discarded: bool,
    /// The first violation.
    pub(crate) violation: Option<String>,
}

impl History {
    pub(crate) fn new(grace: Duration, trace: Trace) -> Self {
        Self {
            began: Instant::now(),
            grace,
            trace,
            owner_of: BTreeMap::new(),
            told: BTreeMap::new(),
            end_asked: BTreeSet::new(),
            ends_judged: 0,
            under_way: BTreeMap::new(),
            has_discarded: false,
            violation: None,
        }
    }

    pub(crate) fn blame(&mut self, violation: String) {
        if self.violation.is_none() {
            self.trace.note(|| violation.clone());
            self.violation = Some(violation);
        }
    }

    /// What this key believes to hold.
    pub(crate) fn told(&self, key: &Key) -> Option<SandboxId> {
        self.told.get(key).cloned()
    }

    /// What anybody was ever told.
    pub(crate) fn all_told(&self) -> Vec<SandboxId> {
        self.owner_of.keys().cloned().collect()
    }

    /// An allocation is asked for. Returns since when its answer may hold.
    pub(crate) fn begin(&mut self, replica: &str, key: &Key) -> Instant {
        let under_way = self.under_way.entry((replica.to_owned(), key.clone())).or_default();
        under_way.push(Instant::now());
        under_way[0]
    }

    /// An allocation was answered.
    pub(crate) fn end(&mut self, replica: &str, key: &Key) {
        let of_key = (replica.to_owned(), key.clone());
        let under_way = self.under_way.get_mut(&of_key).expect("it has begun");
        // The oldest stays until the last is answered, for those who have joined it.
        under_way.pop();
        if under_way.is_empty() {
            self.under_way.remove(&of_key);
        }
    }

    pub(crate) fn judge_allocation(
        &mut self,
        store: &ModelStore,
        key: &Key,
        began: Instant,
        answer: &Result<Allocation, AllocateError>,
    ) {
        match answer {
            Ok(allocation) => self.judge_success(store, key, began, &allocation.claim),
            Err(AllocateError::NoneAvailable) => {
                let last_nothing = store.watched(|watch| watch.last_nothing_for(key.prefix()));
                if last_nothing.is_none_or(|at| at < began) {
                    self.blame(format!("I4: {key:?} was told none, but there was one all the time"));
                }
                self.judge_refusal(store, key, began);
            }
            Err(AllocateError::Paused) => self.judge_refusal(store, key, began),
            Err(AllocateError::Stopping) => self.blame(format!("a part of the replica that {key:?} asked is dead")),
            Err(_) => {}
        }
    }

    fn judge_success(&mut self, store: &ModelStore, key: &Key, began: Instant, claim: &Claim) {
        let sandbox_id = &claim.sandbox_id;
        let owner = self.owner_of.entry(sandbox_id.clone()).or_insert_with(|| key.clone());
        if owner != key {
            let owner = owner.clone();
            self.blame(format!("I1: {sandbox_id} was given to {owner:?} and to {key:?}"));
        }
        self.told.insert(key.clone(), sandbox_id.clone());
        let Some(sandbox) = sandbox(store, sandbox_id).filter(|sandbox| key.holds(sandbox)) else {
            return self.blame(format!("I3: the success of {key:?} with {sandbox_id} is not in the table"));
        };
        if key.prefix().is_some_and(|prefix| !sandbox.name.starts_with(prefix)) {
            self.blame(format!("{key:?} got {}", sandbox.name));
        }
        if claim.expires_at.plus(self.grace).0 <= self.time_at(began) {
            self.blame(format!("I3: {key:?} was told {sandbox_id}, whose time was over before"));
        }
        let ended_at = store.watched(|watch| watch.holding_ended_at(sandbox_id));
        if sandbox.status != Status::Allocated && ended_at < Some(began) {
            self.blame(format!("I3: {key:?} was told {sandbox_id}, whose holding had ended before"));
        }
    }

    /// A key that holds a sandbox all the time gets it, whatever keeps new ones from others.
    fn judge_refusal(&mut self, store: &ModelStore, key: &Key, began: Instant) {
        let holds = |claim: &&Claim| {
            let is_held_since = self.time_at(began) > claim.allocated_at.0;
            let ends_later = claim.expires_at.plus(self.grace).0 > self.time_at(Instant::now());
            claim.claim_key.key == key.name() && is_held_since && ends_later
        };
        if let Some(held) = store.look_at(|tables| tables.claims().find(holds).cloned()) {
            self.blame(format!("I2: {key:?} was told that it holds nothing, but it holds {held:?}"));
        }
    }

    /// Somebody asks now for the end of this holding.
    pub(crate) fn ask_end(&mut self, sandbox_id: &SandboxId) {
        self.end_asked.insert(sandbox_id.clone());
    }

    /// A release of this sandbox by this track was answered with success.
    pub(crate) fn judge_release(&mut self, store: &ModelStore, track: u64, sandbox_id: &SandboxId) {
        let sandbox = sandbox(store, sandbox_id);
        match &sandbox {
            Some(sandbox) if !sandbox.belongs_to(&track_id(track)) => {
                self.blame(format!("I1: t{track} released {sandbox:?}"));
            }
            Some(sandbox) if sandbox.status != Status::Allocated => {}
            _ => self.blame(format!("I3: the release by t{track} is not in the table: {sandbox:?}")),
        }
        self.told.retain(|_, told| told != sandbox_id);
    }

    /// A renewal was answered with success.
    pub(crate) fn judge_renewal(&mut self, store: &ModelStore, renewed: &Claim) {
        let sandbox = sandbox(store, &renewed.sandbox_id);
        let is_kept = sandbox.as_ref().is_some_and(|sandbox| sandbox.expires_at >= Some(renewed.expires_at));
        if !is_kept {
            self.blame(format!("I3: the renewal {renewed:?} is not in the table: {sandbox:?}"));
        }
    }

    /// A track was told that a sandbox is not its own.
    pub(crate) fn judge_denial(&mut self, track: u64, sandbox_id: &SandboxId) {
        if self.owner_of.get(sandbox_id).is_some_and(|owner| owner.track == track) {
            self.blame(format!("I1: {sandbox_id} was taken from t{track}"));
        }
    }

    /// A holding that nobody asked to end has ended at its time, not before.
    pub(crate) fn judge_ends(&mut self, store: &ModelStore) {
        for (sandbox_id, ended_at) in store.watched(|watch| watch.ends_since(self.ends_judged).to_vec()) {
            self.ends_judged += 1;
            let Some(sandbox) = sandbox(store, &sandbox_id).filter(|_| !self.end_asked.contains(&sandbox_id)) else {
                continue;
            };
            let due = sandbox.expires_at.map(|at| at.plus(self.grace).0);
            if due > Some(self.time_at(ended_at)) {
                self.blame(format!("I3: a holding ended before its time: {sandbox:?}"));
            }
        }
    }

    fn time_at(&self, at: Instant) -> u64 {
        PausedClock::BEGIN.0 + at.duration_since(self.began).as_secs()
    }
}

fn sandbox(store: &ModelStore, sandbox_id: &SandboxId) -> Option<Sandbox> {
    store.look_at(|tables| tables.get(sandbox_id).cloned())
}
