//! Which replica owns which shards, and the order in which a replica offers candidates.
//!
//! Each shard has one owner among the live replicas, by rendezvous hashing (Thaler and Ravishankar, 1998). A replica
//! reads its own shards and first offers their sandboxes, in an order of its own. When they run low it also reads the
//! others', and offers their sandboxes from the far end of the *owner's* order. So replicas offer the same sandbox only
//! when the pool is nearly empty. This only reduces conflicts: the claim transaction alone decides who gets a sandbox.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sandbox::{ReplicaId, SandboxId, Shard, ShardCount};

/// The position of a sandbox in a replica's order; the smallest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrderKey {
    /// The number of replicas that rank higher for the sandbox's shard; 0 for its owner.
    rank: usize,
    weight: u64,
}

/// This replica among the live ones.
#[derive(Clone, Debug)]
pub(super) struct CandidateOrder {
    own: ReplicaId,
    others: Vec<ReplicaId>,
    shards: ShardCount,
}

impl CandidateOrder {
    pub(super) fn alone(own: ReplicaId, shards: ShardCount) -> Self {
        Self { own, others: Vec::new(), shards }
    }

    /// Sets the live replicas. Returns whether this changes the order.
    pub(super) fn set_replicas(&mut self, live: Vec<ReplicaId>) -> bool {
        let mut others: Vec<_> = live.into_iter().filter(|replica| *replica != self.own).collect();
        others.sort_unstable();
        let changed = others != self.others;
        self.others = others;
        changed
    }

    pub(super) fn shard_of(&self, sandbox_id: &SandboxId) -> Shard {
        self.shards.shard_of(sandbox_id)
    }

    /// All shards, those of this replica first, and how many those are.
    pub(super) fn shards_own_first(&self) -> (Vec<Shard>, usize) {
        let (mut shards, others): (Vec<_>, Vec<_>) = self.shards.all().partition(|shard| self.owns(*shard));
        let own = shards.len();
        shards.extend(others);
        (shards, own)
    }

    pub(super) fn owns(&self, shard: Shard) -> bool {
        let own = weight(&self.own, &shard);
        self.others.iter().all(|other| weight(other, &shard) <= own)
    }

    pub(super) fn key(&self, sandbox_id: &SandboxId) -> OrderKey {
        let shard = self.shard_of(sandbox_id);
        let own = weight(&self.own, &shard);
        let heavier = self.others.iter().map(|other| (weight(other, &shard), other)).filter(|(other, _)| *other > own);
        let (rank, heaviest) = heavier.fold((0, None), |(rank, heaviest), other| (rank + 1, heaviest.max(Some(other))));
        match heaviest {
            None => OrderKey { rank, weight: weight(&self.own, sandbox_id) },
            Some((_, owner)) => OrderKey { rank, weight: u64::MAX - weight(owner, sandbox_id) },
        }
    }
}

/// Equal on all replicas of one build. Between builds, only the number of conflicts depends on it.
fn weight(replica: &ReplicaId, of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    replica.hash(&mut hasher);
    of.hash(&mut hasher);
    hasher.finish()
}
