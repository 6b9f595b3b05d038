//! The pool manager's bookkeeping: what it knows about each sandbox. Pure: no actor, no I/O, no clock.
//!
//! A sandbox in the cache is free, doubtful, in flight or of unknown outcome (see `Slot`); consumed epochs are remembered
//! for a while. A refresh adds what the index lists. The index lags behind the table and is not monotonic. So a free
//! sandbox that a full read does not list becomes doubtful, and is dropped only when the next one does not list it either;
//! and a refresh says nothing about a sandbox that was in flight or of unknown outcome at any time while it read. As long
//! as there are such sandboxes, "none available" is indeterminate (I4).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::rendezvous::{CandidateOrder, OrderKey};
use crate::sandbox::{Epoch, ReplicaId, Sandbox, SandboxId, Shard, ShardCount, Status};

/// The most sandboxes that are cached (I8). With more in the table, a replica caches those of its own shards first.
pub(crate) const MAX_CACHED: usize = 100_000;

/// How long a consumed epoch is remembered, longer than an index usually lags. After that the transaction decides.
const CONSUMED_MEMORY: Duration = Duration::from_secs(60);

/// Up to this many sandboxes of one prefix are compared directly. More are common enough to be found early in the
/// candidate order.
const FEW_OF_A_PREFIX: usize = 32;

/// What a refresh reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// What became available in this replica's shards since they were last read.
    New,
    /// This replica's shards, in full.
    Own,
    /// All shards, in full. Only this can show that there is none.
    All,
}

/// A refresh in progress.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    /// Counted by one pool manager.
    pub(super) number: u64,
    pub(crate) scope: Scope,
    /// The shards to read, those of this replica first.
    pub(crate) shards: Vec<Shard>,
}

/// What a refresh listed.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Whether the read stopped early, because the table holds more than the cache.
    pub(crate) is_truncated: bool,
}

#[derive(Debug)]
enum Slot {
    /// May be handed out.
    Free { key: OrderKey, epoch: Epoch },
    /// Was free, and the last full read did not list it.
    Doubtful,
    /// Handed out; its `Candidate` reports the outcome.
    InFlight,
    /// Its claim has an unknown outcome. The first full refresh that starts after `last_started` shows its state.
    Unknown { last_started: u64 },
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
    /// Every sandbox in the cache.
    slots: HashMap<SandboxId, Slot>,
    /// The free sandboxes, in candidate order.
    free: BTreeMap<(OrderKey, SandboxId), Arc<Sandbox>>,
    /// The free sandboxes by name, for prefixes.
    free_names: BTreeSet<(String, SandboxId)>,
    /// The sandboxes in flight or of unknown outcome.
    outstanding: HashMap<SandboxId, Arc<Sandbox>>,
    /// The doubtful sandboxes.
    doubtful: HashMap<SandboxId, Arc<Sandbox>>,
    /// Epochs at which sandboxes are known not to be available, whatever a lagging index lists, and since when they are
    /// known. The rate of claims bounds them.
    consumed: HashMap<SandboxId, (Epoch, Instant)>,
    /// The sandboxes about which the last refresh says nothing: those outstanding at any time while it read, and those
    /// that were handed out before it ended.
    indeterminate: Vec<Arc<Sandbox>>,
    is_refreshing: bool,
    last_started: u64,
}

impl Cache {
    pub(super) fn new(replica: ReplicaId, shards: ShardCount) -> Self {
        Self {
            order: CandidateOrder::alone(replica, shards),
            slots: HashMap::new(),
            free: BTreeMap::new(),
            free_names: BTreeSet::new(),
            outstanding: HashMap::new(),
            doubtful: HashMap::new(),
            consumed: HashMap::new(),
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

    pub(super) fn last_started(&self) -> u64 {
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

    /// The names of free sandboxes, each as often as it is free: for each prefix at most as many as its number.
    pub(super) fn free_names(&self, prefixes: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
        let mut taken = BTreeSet::new();
        for (prefix, wanted) in prefixes {
            let from = (prefix.clone(), SandboxId::new(""));
            let of_prefix = self.free_names.range(from..).take_while(|(name, _)| name.starts_with(prefix));
            taken.extend(of_prefix.take(*wanted));
        }
        let mut names = BTreeMap::new();
        for (name, _) in taken {
            *names.entry(name.clone()).or_default() += 1;
        }
        names
    }

    /// True if the refresh of all shards that just ended proves that no sandbox matches `prefix` (I4): it listed none,
    /// none that matches was outstanding while it read, and none is doubtful. Callers hand out what it listed before they ask.
    pub(super) fn shows_none(&self, prefix: Option<&str>) -> bool {
        let mut uncertain = self.indeterminate.iter().chain(self.doubtful.values());
        !uncertain.any(|sandbox| matches_prefix(sandbox, prefix))
    }

    /// The scope of a refresh that shows every unknown outcome; `None` if all outcomes are known.
    pub(super) fn scope_of_unknown(&self) -> Option<Scope> {
        let is_unknown = |id: &&SandboxId| matches!(self.slots.get(*id), Some(Slot::Unknown { .. }));
        let scope = |id: &SandboxId| if self.order.owns(self.order.shard_of(id)) { Scope::Own } else { Scope::All };
        self.outstanding.keys().filter(is_unknown).map(scope).max()
    }

    /// Records the outcome of a candidate.
    pub(super) fn complete(&mut self, candidate: &Arc<Sandbox>, outcome: CandidateOutcome, now: Instant) {
        let consumed = match outcome {
            CandidateOutcome::Untouched => return self.put_free(Arc::clone(candidate)),
            CandidateOutcome::Found(Some(current)) if current.status == Status::Available => {
                return self.put_free(Arc::new(*current));
            }
            CandidateOutcome::Unknown => {
                let unknown = Slot::Unknown { last_started: self.last_started };
                self.slots.insert(candidate.sandbox_id.clone(), unknown);
                return;
            }
            CandidateOutcome::Found(Some(current)) => current.epoch,
            CandidateOutcome::Found(None) | CandidateOutcome::Consumed => candidate.epoch,
        };
        self.outstanding.remove(&candidate.sandbox_id);
        self.slots.remove(&candidate.sandbox_id);
        self.consumed.insert(candidate.sandbox_id.clone(), (consumed, now));
    }

    /// A refresh starts to read the index.
    pub(super) fn start_refresh(&mut self, scope: Scope) -> Refresh {
        self.last_started += 1;
        self.indeterminate = self.outstanding.values().cloned().collect();
        self.is_refreshing = true;
        let (mut shards, own) = self.order.shards_own_first();
        if scope < Scope::All {
            shards.truncate(own);
        }
        Refresh { number: self.last_started, scope, shards }
    }

    /// The refresh ended, with a result or without.
    pub(super) fn end_refresh(&mut self) {
        self.is_refreshing = false;
    }

    /// Takes over what a refresh listed. Returns whether everything that it should show is in the cache.
    pub(super) fn refill(&mut self, refresh: &Refresh, listed: Listed, now: Instant) -> bool {
        self.consumed.retain(|_, (_, since)| now.duration_since(*since) < CONSUMED_MEMORY);
        let is_full = refresh.scope > Scope::New && !listed.is_truncated;
        let mut is_complete = is_full;
        let mut seen = HashSet::with_capacity(if is_full { listed.sandboxes.len() } else { 0 });
        for sandbox in listed.sandboxes {
            if is_full {
                seen.insert(sandbox.sandbox_id.clone());
            }
            if self.consumed.get(&sandbox.sandbox_id).is_some_and(|(epoch, _)| *epoch >= sandbox.epoch) {
                continue;
            }
            let is_cache_full = self.slots.len() >= MAX_CACHED;
            match self.slots.get_mut(&sandbox.sandbox_id) {
                Some(Slot::InFlight) => {}
                Some(Slot::Free { epoch, .. }) if *epoch >= sandbox.epoch => {}
                Some(Slot::Unknown { last_started }) if *last_started >= refresh.number => {}
                None if is_cache_full => is_complete = false,
                _ => self.put_free(Arc::new(sandbox)),
            }
        }
        if is_full {
            self.drop_unlisted(refresh, &seen);
        }
        is_complete
    }

    fn drop_unlisted(&mut self, refresh: &Refresh, seen: &HashSet<SandboxId>) {
        let shards: HashSet<Shard> = refresh.shards.iter().copied().collect();
        let is_unlisted =
            |sandbox_id: &&SandboxId| !seen.contains(*sandbox_id) && shards.contains(&self.order.shard_of(sandbox_id));
        let unlisted: Vec<SandboxId> = self.slots.keys().filter(is_unlisted).cloned().collect();
        for sandbox_id in unlisted {
            match self.slots.get(&sandbox_id) {
                Some(Slot::Free { .. }) => {
                    if let Some(sandbox) = self.remove_free(&sandbox_id) {
                        self.slots.insert(sandbox_id.clone(), Slot::Doubtful);
                        self.doubtful.insert(sandbox_id, sandbox);
                    }
                }
                Some(Slot::Unknown { last_started }) if *last_started >= refresh.number => {}
                Some(Slot::Doubtful | Slot::Unknown { .. }) => {
                    self.doubtful.remove(&sandbox_id);
                    self.outstanding.remove(&sandbox_id);
                    self.slots.remove(&sandbox_id);
                }
                Some(Slot::InFlight) | None => {}
            }
        }
    }

    /// Sets the live replicas, on which the shards of this replica and the candidate order depend. Returns whether they
    /// changed.
    pub(super) fn set_replicas(&mut self, live: Vec<ReplicaId>) -> bool {
        if !self.order.set_replicas(live) {
            return false;
        }
        for sandbox in std::mem::take(&mut self.free).into_values() {
            self.put_free(sandbox);
        }
        true
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
        self.doubtful.remove(&sandbox_id);
        self.outstanding.remove(&sandbox_id);
        let key = self.order.key(&sandbox_id);
        self.slots.insert(sandbox_id.clone(), Slot::Free { key, epoch: sandbox.epoch });
        self.free_names.insert((sandbox.name.clone(), sandbox_id.clone()));
        self.free.insert((key, sandbox_id), sandbox);
    }

    fn remove_free(&mut self, sandbox_id: &SandboxId) -> Option<Arc<Sandbox>> {
        let Some(Slot::Free { key, .. }) = self.slots.get(sandbox_id) else { return None };
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
