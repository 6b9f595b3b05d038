//! In which order a replica walks the pool.
//!
//! Every sandbox has one owner among the live replicas, by rendezvous hashing (Thaler and Ravishankar, 1998). A
//! replica first walks the sandboxes it owns, in an order of the owner's, and then those of the others from the far
//! end of *their* order. So replicas meet only when the pool is nearly empty. This only saves conflicts: the claim
//! transaction alone decides who gets a sandbox.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sandbox::{ReplicaId, SandboxId};

/// Where a sandbox stands in a replica's walk; smaller comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// How many other replicas come before this one for the sandbox; 0 for its owner.
    rank: usize,
    turn: u64,
}

/// The walk of one replica among the live ones.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    own: ReplicaId,
    others: Vec<ReplicaId>,
}

impl Walk {
    pub(super) fn alone(own: ReplicaId) -> Self {
        Self { own, others: Vec::new() }
    }

    /// Takes note of who is alive; tells whether that changes the walk.
    pub(super) fn set_replicas(&mut self, live: Vec<ReplicaId>) -> bool {
        let mut others: Vec<_> = live.into_iter().filter(|replica| *replica != self.own).collect();
        others.sort_unstable();
        let changed = others != self.others;
        self.others = others;
        changed
    }

    pub(super) fn place(&self, sandbox_id: &SandboxId) -> Place {
        let own_weight = weight(&self.own, sandbox_id);
        let heavier = self.others.iter().map(|other| weight(other, sandbox_id)).filter(|other| *other > own_weight);
        let (rank, heaviest) = heavier.fold((0, None), |(rank, heaviest), other| (rank + 1, heaviest.max(Some(other))));
        match heaviest {
            None => Place { rank, turn: own_weight },
            Some(owners_turn) => Place { rank, turn: u64::MAX - owners_turn },
        }
    }
}

/// Equal on every replica of one build; between builds only the number of conflicts depends on it.
fn weight(replica: &ReplicaId, sandbox_id: &SandboxId) -> u64 {
    let mut hasher = DefaultHasher::new();
    replica.hash(&mut hasher);
    sandbox_id.hash(&mut hasher);
    hasher.finish()
}
