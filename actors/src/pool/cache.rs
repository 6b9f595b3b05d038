//! The pool manager's bookkeeping: what it knows about each sandbox. Pure: no actor, no I/O, no clock.
//!
//! A sandbox in the cache is free, in flight, of unknown outcome, or consumed (see `Slot`). A refresh adds what the
//! index lists and removes free sandboxes that it no longer lists. Because the index lags behind the table, a refresh
//! says nothing about a sandbox that was in flight or of unknown outcome at any time while it read; these make "none
//! available" indeterminate (I4).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::rendezvous::{CandidateOrder, OrderKey};
use crate::sandbox::{Epoch, ReplicaId, Sandbox, SandboxId, Status};

/// The most sandboxes that are cached (I8). Others in the table wait for a later refresh.
pub(crate) const MAX_CACHED: usize = 100_000;

/// How long a consumed epoch is remembered after the index last listed it. Longer than an index lags.
const CONSUMED_MEMORY: Duration = Duration::from_secs(60);

/// Up to this many sandboxes of one prefix are compared directly. More are common enough to be found early in the
/// candidate order.
const FEW_OF_A_PREFIX: usize = 32;

/// The number of a refresh, counted by one pool manager.
pub(crate) type RefreshNumber = u64;

#[derive(Debug)]
enum Slot {
    /// May be handed out.
    Free(OrderKey, Epoch),
    /// Handed out; its `Candidate` reports the outcome.
    InFlight,
    /// Its claim has an unknown outcome. The first refresh that starts after `last_started` shows its state.
    Unknown { last_started: RefreshNumber },
    /// Not available at this epoch or an earlier one, whatever a lagging index lists.
    Consumed { epoch: Epoch, last_listed: Instant },
}

/// The outcome of a candidate that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CandidateOutcome {
    /// Nothing was written.
    Untouched,
    /// The claim succeeded.
    Consumed,
    /// The sandbox was not as expected; this is the current record.
    Found(Option<Box<Sandbox>>),
    /// A request that may have changed the sandbox got no answer.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Cache {
    order: CandidateOrder,
    /// Every sandbox that this cache knows about.
    slots: HashMap<SandboxId, Slot>,
    /// The free sandboxes, in candidate order.
    free: BTreeMap<(OrderKey, SandboxId), Arc<Sandbox>>,
    /// The free sandboxes by name, for prefixes.
    free_names: BTreeSet<(String, SandboxId)>,
    /// The sandboxes in flight or of unknown outcome.
    outstanding: HashMap<SandboxId, Arc<Sandbox>>,
    /// The sandboxes about which the last refresh says nothing: those outstanding at any time while it read, and those
    /// that were handed out before it ended.
    indeterminate: Vec<Arc<Sandbox>>,
    is_refreshing: bool,
    last_started: RefreshNumber,
}

impl Cache {
    pub(super) fn new(replica: ReplicaId) -> Self {
        Self {
            order: CandidateOrder::alone(replica),
            slots: HashMap::new(),
            free: BTreeMap::new(),
            free_names: BTreeSet::new(),
            outstanding: HashMap::new(),
            indeterminate: Vec::new(),
            is_refreshing: false,
            last_started: 0,
        }
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(super) fn outstanding_count(&self) -> usize {
        self.outstanding.len()
    }

    pub(super) fn last_started(&self) -> RefreshNumber {
        self.last_started
    }

    /// Hands out the first free sandbox whose name starts with `prefix`.
    pub(super) fn take(&mut self, prefix: Option<&str>) -> Option<Arc<Sandbox>> {
        let (_, sandbox_id) = match prefix {
            None => self.free.keys().next()?.clone(),
            Some(prefix) => self.first_with_prefix(prefix)?,
        };
        let sandbox = self.remove_free(&sandbox_id)?;
        self.slots.insert(sandbox_id.clone(), Slot::InFlight);
        if self.is_refreshing {
            self.indeterminate.push(Arc::clone(&sandbox));
        }
        self.outstanding.insert(sandbox_id, Arc::clone(&sandbox));
        Some(sandbox)
    }

    /// True if the refresh that just ended proves that no sandbox matches `prefix` (I4): it listed none, and none that
    /// matches was outstanding while it read. Callers hand out what it listed before they ask.
    pub(super) fn shows_none(&self, prefix: Option<&str>) -> bool {
        !self.indeterminate.iter().any(|sandbox| matches_prefix(sandbox, prefix))
    }

    /// Whether an outcome is still unknown after the refresh `number`.
    pub(super) fn has_unknown_after(&self, number: RefreshNumber) -> bool {
        let is_unknown =
            |id| matches!(self.slots.get(id), Some(Slot::Unknown { last_started }) if *last_started >= number);
        self.outstanding.keys().any(is_unknown)
    }

    /// Records the outcome of a candidate.
    pub(super) fn complete(&mut self, candidate: &Arc<Sandbox>, outcome: CandidateOutcome, now: Instant) {
        let consumed = |epoch| Slot::Consumed { epoch, last_listed: now };
        let slot = match outcome {
            CandidateOutcome::Untouched => return self.put_free(Arc::clone(candidate)),
            CandidateOutcome::Found(Some(current)) if current.status == Status::Available => {
                return self.put_free(Arc::new(*current));
            }
            CandidateOutcome::Found(Some(current)) => consumed(current.epoch),
            CandidateOutcome::Found(None) | CandidateOutcome::Consumed => consumed(candidate.epoch),
            CandidateOutcome::Unknown => Slot::Unknown { last_started: self.last_started },
        };
        if !matches!(slot, Slot::Unknown { .. }) {
            self.outstanding.remove(&candidate.sandbox_id);
        }
        self.slots.insert(candidate.sandbox_id.clone(), slot);
    }

    /// A refresh starts to read the index. Returns its number.
    pub(super) fn start_refresh(&mut self) -> RefreshNumber {
        self.last_started += 1;
        self.indeterminate = self.outstanding.values().cloned().collect();
        self.is_refreshing = true;
        self.last_started
    }

    /// The refresh ended, with a result or without.
    pub(super) fn end_refresh(&mut self) {
        self.is_refreshing = false;
    }

    /// Takes over what the refresh `number` listed. Returns how many sandboxes did not fit into the cache.
    pub(super) fn refill(&mut self, number: RefreshNumber, listed: Vec<Sandbox>, now: Instant) -> usize {
        let mut left_out = 0;
        let mut seen = HashSet::with_capacity(listed.len());
        for sandbox in listed {
            seen.insert(sandbox.sandbox_id.clone());
            let is_full = self.slots.len() >= MAX_CACHED;
            match self.slots.get_mut(&sandbox.sandbox_id) {
                Some(Slot::InFlight) => {}
                Some(Slot::Free(_, known)) if *known >= sandbox.epoch => {}
                Some(Slot::Unknown { last_started }) if *last_started >= number => {}
                Some(Slot::Consumed { epoch, last_listed }) if *epoch >= sandbox.epoch => *last_listed = now,
                None if is_full => left_out += 1,
                _ => self.put_free(Arc::new(sandbox)),
            }
        }
        let gone: Vec<SandboxId> = self
            .slots
            .iter()
            .filter(|(sandbox_id, _)| !seen.contains(*sandbox_id))
            .filter(|(_, slot)| match slot {
                Slot::Free(..) => true,
                Slot::InFlight => false,
                Slot::Unknown { last_started } => *last_started < number,
                Slot::Consumed { last_listed, .. } => now.duration_since(*last_listed) >= CONSUMED_MEMORY,
            })
            .map(|(sandbox_id, _)| sandbox_id.clone())
            .collect();
        for sandbox_id in gone {
            self.remove_free(&sandbox_id);
            self.outstanding.remove(&sandbox_id);
            self.slots.remove(&sandbox_id);
        }
        left_out
    }

    /// Sets the live replicas, on which the candidate order depends.
    pub(super) fn set_replicas(&mut self, live: Vec<ReplicaId>) {
        if !self.order.set_replicas(live) {
            return;
        }
        for sandbox in std::mem::take(&mut self.free).into_values() {
            self.put_free(sandbox);
        }
    }

    fn first_with_prefix(&self, prefix: &str) -> Option<(OrderKey, SandboxId)> {
        let from = (prefix.to_owned(), SandboxId::new(""));
        let few: Vec<_> = self
            .free_names
            .range(from..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(FEW_OF_A_PREFIX + 1)
            .collect();
        if few.len() > FEW_OF_A_PREFIX {
            return self.free.iter().find(|(_, sandbox)| sandbox.name.starts_with(prefix)).map(|(key, _)| key.clone());
        }
        few.into_iter().map(|(_, sandbox_id)| (self.order.key(sandbox_id), sandbox_id.clone())).min()
    }

    fn put_free(&mut self, sandbox: Arc<Sandbox>) {
        let sandbox_id = sandbox.sandbox_id.clone();
        self.remove_free(&sandbox_id);
        self.outstanding.remove(&sandbox_id);
        let key = self.order.key(&sandbox_id);
        self.slots.insert(sandbox_id.clone(), Slot::Free(key, sandbox.epoch));
        self.free_names.insert((sandbox.name.clone(), sandbox_id.clone()));
        self.free.insert((key, sandbox_id), sandbox);
    }

    fn remove_free(&mut self, sandbox_id: &SandboxId) -> Option<Arc<Sandbox>> {
        let Some(Slot::Free(key, _)) = self.slots.get(sandbox_id) else { return None };
        let sandbox = self.free.remove(&(*key, sandbox_id.clone()))?;
        self.free_names.remove(&(sandbox.name.clone(), sandbox_id.clone()));
        Some(sandbox)
    }
}

pub(super) fn matches_prefix(sandbox: &Sandbox, prefix: Option<&str>) -> bool {
    prefix.is_none_or(|prefix| sandbox.name.starts_with(prefix))
}

#[cfg(test)]
mod tests;
