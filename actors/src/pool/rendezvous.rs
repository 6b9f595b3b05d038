//! Which replica owns which shards, and the order in which a replica offers candidates.
//!
//! The shards are divided evenly among the live replicas, by rendezvous hashing (Thaler and Ravishankar, 1998) with a
//! limit for each replica. A replica reads its own shards and first offers their sandboxes, in an order of its own. When
//! they run low it also reads the others', and offers their sandboxes from the far end of the *owner's* order. So replicas
//! offer the same sandbox only when the pool is nearly empty. This only reduces conflicts: the claim transaction alone
//! decides who gets a sandbox.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sandbox::{ReplicaId, SandboxId, Shard, ShardCount};

/// The position of a sandbox in a replica's order; the smallest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrderKey {
    /// 0 for sandboxes of own shards; else one more than the number of replicas that turn to the shard earlier.
    rank: usize,
    weight: u64,
}

/// This replica among the live ones.
#[derive(Clone, Debug)]
pub(super) struct CandidateOrder {
    own: ReplicaId,
    /// The live replicas, this one included, sorted.
    live: Vec<ReplicaId>,
    shards: ShardCount,
    /// The owner of each shard, as an index into `live`.
    owners: Vec<usize>,
}

impl CandidateOrder {
    pub(super) fn alone(own: ReplicaId, shards: ShardCount) -> Self {
        let owners = vec![0; usize::from(shards.get())];
        Self { live: vec![own.clone()], own, shards, owners }
    }

    /// Sets the live replicas. Returns whether this changes the order.
    pub(super) fn set_replicas(&mut self, mut live: Vec<ReplicaId>) -> bool {
        live.push(self.own.clone());
        live.sort_unstable();
        live.dedup();
        let has_changed = live != self.live;
        if has_changed {
            self.owners = divide(self.shards, &live);
            self.live = live;
        }
        has_changed
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
        *self.owner(shard) == self.own
    }

    fn owner(&self, shard: Shard) -> &ReplicaId {
        &self.live[self.owners[usize::from(shard.0)]]
    }

    pub(super) fn key(&self, sandbox_id: &SandboxId) -> OrderKey {
        let shard = self.shard_of(sandbox_id);
        let owner = self.owner(shard);
        if *owner == self.own {
            return OrderKey { rank: 0, weight: weight(owner, sandbox_id) };
        }
        let own = weight(&self.own, &shard);
        let is_earlier = |replica: &&ReplicaId| *replica != owner && weight(replica, &shard) > own;
        let rank = 1 + self.live.iter().filter(is_earlier).count();
        OrderKey { rank, weight: u64::MAX - weight(owner, sandbox_id) }
    }
}

/// Gives each shard to the replica with the largest weight for it that has not got its share yet.
fn divide(shards: ShardCount, live: &[ReplicaId]) -> Vec<usize> {
    let count = usize::from(shards.get());
    let mut owners = vec![None; count];
    let mut owned = vec![0; live.len()];
    // Every replica gets the even share first; what is left over then goes to one each.
    for share in [count / live.len(), count.div_ceil(live.len())] {
        for shard in shards.all() {
            let owner = &mut owners[usize::from(shard.0)];
            if owner.is_none() {
                let candidates = (0..live.len()).filter(|replica| owned[*replica] < share);
                *owner = candidates.max_by_key(|replica| weight(&live[*replica], &shard));
                owner.iter().for_each(|replica: &usize| owned[*replica] += 1);
            }
        }
    }
    owners.into_iter().map(|owner| owner.expect("the shares cover all shards")).collect()
}

/// Equal on all replicas of one build. Between builds, only the number of conflicts depends on it.
fn weight(replica: &ReplicaId, of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    replica.hash(&mut hasher);
    of.hash(&mut hasher);
    hasher.finish()
}
