//! What the pool manager knows of each sandbox. Pure bookkeeping: no actor, no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::walk::{Place, Walk};
use crate::sandbox::{Epoch, ReplicaId, Sandbox, SandboxId, Status};

/// The most sandboxes that are cached (I8). More in the table are left for a later refresh.
pub(crate) const MAX_CACHED: usize = 100_000;

/// How long a used-up epoch is remembered after the index stopped listing it. Longer than an index lags.
const CONSUMED_MEMORY: Duration = Duration::from_secs(60);

/// So many sandboxes of one prefix are compared directly; more are common enough to be met early on the walk.
const FEW_OF_A_PREFIX: usize = 32;

/// Numbers the refreshes of one pool manager.
pub(crate) type RefreshNumber = u64;

#[derive(Debug)]
enum Slot {
    /// May be handed out.
    Free(Place, Epoch),
    /// Handed out; its taker will say what became of it.
    InFlight,
    /// Its taker does not know what became of it. The first refresh that begins after `last_begun` shows.
    Unknown { last_begun: RefreshNumber },
    /// Not available at this epoch or any before it, whatever a lagging index says.
    Consumed { epoch: Epoch, last_listed: Instant },
}

/// What became of a candidate that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing was written: it is as it was.
    Untouched,
    /// It is claimed.
    Consumed,
    /// It was not as expected; this is what is there.
    Found(Option<Box<Sandbox>>),
    /// A request that may have changed it gave no answer.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Cache {
    walk: Walk,
    /// Every sandbox this cache has an opinion on.
    slots: HashMap<SandboxId, Slot>,
    /// The free ones, in the order of the walk.
    free: BTreeMap<(Place, SandboxId), Arc<Sandbox>>,
    /// The free ones by name, for prefixes.
    free_names: BTreeSet<(String, SandboxId)>,
    /// Those in flight or of unknown fate.
    unsettled: HashMap<SandboxId, Arc<Sandbox>>,
    /// Those that were unsettled at some moment of the last refresh, and those of its finds that were handed out before
    /// it ended: what it read of them says nothing.
    clouds: Vec<Arc<Sandbox>>,
    is_refreshing: bool,
    last_begun: RefreshNumber,
}

impl Cache {
    pub(super) fn new(replica: ReplicaId) -> Self {
        Self {
            walk: Walk::alone(replica),
            slots: HashMap::new(),
            free: BTreeMap::new(),
            free_names: BTreeSet::new(),
            unsettled: HashMap::new(),
            clouds: Vec::new(),
            is_refreshing: false,
            last_begun: 0,
        }
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(super) fn unsettled_count(&self) -> usize {
        self.unsettled.len()
    }

    pub(super) fn last_begun(&self) -> RefreshNumber {
        self.last_begun
    }

    /// Hands out the first free sandbox of the walk that fits.
    pub(super) fn take(&mut self, prefix: Option<&str>) -> Option<Arc<Sandbox>> {
        let (_, sandbox_id) = match prefix {
            None => self.free.keys().next()?.clone(),
            Some(prefix) => self.first_with_prefix(prefix)?,
        };
        let sandbox = self.remove_free(&sandbox_id)?;
        self.slots.insert(sandbox_id.clone(), Slot::InFlight);
        if self.is_refreshing {
            self.clouds.push(Arc::clone(&sandbox));
        }
        self.unsettled.insert(sandbox_id, Arc::clone(&sandbox));
        Some(sandbox)
    }

    /// Whether the refresh that is about to end proves that there is none that fits (I4): no sandbox that fits was in
    /// anybody's hands or in doubt while it read the index, and it found none. What it found was handed out to whoever
    /// waited longest before this is asked, and may yet come back.
    pub(super) fn shows_none(&self, prefix: Option<&str>) -> bool {
        !self.clouds.iter().any(|sandbox| fits(sandbox, prefix))
    }

    /// Whether the fate of some is unknown in spite of the refresh `number`.
    pub(super) fn has_unknown_after(&self, number: RefreshNumber) -> bool {
        let is_unknown = |id| matches!(self.slots.get(id), Some(Slot::Unknown { last_begun }) if *last_begun >= number);
        self.unsettled.keys().any(is_unknown)
    }

    /// Takes back a candidate.
    pub(super) fn settle(&mut self, candidate: &Arc<Sandbox>, fate: Fate, now: Instant) {
        let consumed = |epoch| Slot::Consumed { epoch, last_listed: now };
        let slot = match fate {
            Fate::Untouched => return self.put_free(Arc::clone(candidate)),
            Fate::Found(Some(found)) if found.status == Status::Available => return self.put_free(Arc::new(*found)),
            Fate::Found(Some(found)) => consumed(found.epoch),
            Fate::Found(None) | Fate::Consumed => consumed(candidate.epoch),
            Fate::Unknown => Slot::Unknown { last_begun: self.last_begun },
        };
        if !matches!(slot, Slot::Unknown { .. }) {
            self.unsettled.remove(&candidate.sandbox_id);
        }
        self.slots.insert(candidate.sandbox_id.clone(), slot);
    }

    /// A refresh begins to read the index.
    pub(super) fn begin_refresh(&mut self) -> RefreshNumber {
        self.last_begun += 1;
        self.clouds = self.unsettled.values().cloned().collect();
        self.is_refreshing = true;
        self.last_begun
    }

    /// The refresh is over, with a result or without: what is handed out from now on is not in its way.
    pub(super) fn end_refresh(&mut self) {
        self.is_refreshing = false;
    }

    /// Takes over what the refresh `number` read. Returns how many sandboxes did not fit in.
    pub(super) fn refill(&mut self, number: RefreshNumber, listed: Vec<Sandbox>, now: Instant) -> usize {
        let mut left_out = 0;
        let mut seen = HashSet::with_capacity(listed.len());
        for sandbox in listed {
            seen.insert(sandbox.sandbox_id.clone());
            let is_full = self.slots.len() >= MAX_CACHED;
            match self.slots.get_mut(&sandbox.sandbox_id) {
                Some(Slot::InFlight) => {}
                Some(Slot::Free(_, known)) if *known >= sandbox.epoch => {}
                Some(Slot::Unknown { last_begun }) if *last_begun >= number => {}
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
                Slot::Unknown { last_begun } => *last_begun < number,
                Slot::Consumed { last_listed, .. } => now.duration_since(*last_listed) >= CONSUMED_MEMORY,
            })
            .map(|(sandbox_id, _)| sandbox_id.clone())
            .collect();
        for sandbox_id in gone {
            self.remove_free(&sandbox_id);
            self.unsettled.remove(&sandbox_id);
            self.slots.remove(&sandbox_id);
        }
        left_out
    }

    /// Walks the pool in the order that suits these live replicas.
    pub(super) fn set_replicas(&mut self, live: Vec<ReplicaId>) {
        if !self.walk.set_replicas(live) {
            return;
        }
        for sandbox in std::mem::take(&mut self.free).into_values() {
            self.put_free(sandbox);
        }
    }

    fn first_with_prefix(&self, prefix: &str) -> Option<(Place, SandboxId)> {
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
        few.into_iter().map(|(_, sandbox_id)| (self.walk.place(sandbox_id), sandbox_id.clone())).min()
    }

    fn put_free(&mut self, sandbox: Arc<Sandbox>) {
        let sandbox_id = sandbox.sandbox_id.clone();
        self.remove_free(&sandbox_id);
        self.unsettled.remove(&sandbox_id);
        let place = self.walk.place(&sandbox_id);
        self.slots.insert(sandbox_id.clone(), Slot::Free(place, sandbox.epoch));
        self.free_names.insert((sandbox.name.clone(), sandbox_id.clone()));
        self.free.insert((place, sandbox_id), sandbox);
    }

    fn remove_free(&mut self, sandbox_id: &SandboxId) -> Option<Arc<Sandbox>> {
        let Some(Slot::Free(place, _)) = self.slots.get(sandbox_id) else { return None };
        let sandbox = self.free.remove(&(*place, sandbox_id.clone()))?;
        self.free_names.remove(&(sandbox.name.clone(), sandbox_id.clone()));
        Some(sandbox)
    }
}

pub(super) fn fits(sandbox: &Sandbox, prefix: Option<&str>) -> bool {
    prefix.is_none_or(|prefix| sandbox.name.starts_with(prefix))
}
