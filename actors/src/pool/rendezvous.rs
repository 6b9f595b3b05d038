//! The order in which a replica offers candidates.
//!
//! Each sandbox has one owner among the live replicas, by rendezvous hashing (Thaler and Ravishankar, 1998). A replica
//! first offers the sandboxes that it owns, in the owner's order, and then those of other replicas from the far end of
//! *their* order. So replicas offer the same sandbox only when the pool is nearly empty. This only reduces conflicts:
//! the claim transaction alone decides who gets a sandbox.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sandbox::{ReplicaId, SandboxId};

/// The position of a sandbox in a replica's order; the smallest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrderKey {
    /// The number of replicas that rank higher for this sandbox; 0 for its owner.
    rank: usize,
    weight: u64,
}

/// The order of one replica, given the live replicas.
#[derive(Clone, Debug)]
pub(super) struct CandidateOrder {
    own: ReplicaId,
    others: Vec<ReplicaId>,
}

impl CandidateOrder {
    pub(super) fn alone(own: ReplicaId) -> Self {
        Self { own, others: Vec::new() }
    }

    /// Sets the live replicas. Returns whether this changes the order.
    pub(super) fn set_replicas(&mut self, live: Vec<ReplicaId>) -> bool {
        let mut others: Vec<_> = live.into_iter().filter(|replica| *replica != self.own).collect();
        others.sort_unstable();
        let changed = others != self.others;
        self.others = others;
        changed
    }

    pub(super) fn key(&self, sandbox_id: &SandboxId) -> OrderKey {
        let own_weight = weight(&self.own, sandbox_id);
        let heavier = self.others.iter().map(|other| weight(other, sandbox_id)).filter(|other| *other > own_weight);
        let (rank, heaviest) = heavier.fold((0, None), |(rank, heaviest), other| (rank + 1, heaviest.max(Some(other))));
        match heaviest {
            None => OrderKey { rank, weight: own_weight },
            Some(owners_weight) => OrderKey { rank, weight: u64::MAX - owners_weight },
        }
    }
}

/// Equal on all replicas of one build. Between builds, only the number of conflicts depends on it.
fn weight(replica: &ReplicaId, sandbox_id: &SandboxId) -> u64 {
    let mut hasher = DefaultHasher::new();
    replica.hash(&mut hasher);
    sandbox_id.hash(&mut hasher);
    hasher.finish()
}
