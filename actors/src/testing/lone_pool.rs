use actix::ArbiterHandle;

use super::ModelStore;
use crate::liveness::LivenessMonitor;
use crate::pool::{Listed, Pool, Scope};
use crate::sandbox::{ReplicaId, Sandbox, ShardCount};

/// A pool manager without a broker, for benchmarks.
#[derive(Debug)]
pub struct LonePool {
    pool: Pool,
    /// Must outlive the pool manager.
    _monitor: LivenessMonitor,
}

impl LonePool {
    /// A pool manager in `arbiter` with `n` candidates.
    pub async fn filled(arbiter: &ArbiterHandle, n: u32) -> Self {
        let monitor = LivenessMonitor::default();
        let pool =
            Pool::start(arbiter, ReplicaId::new("lone"), ShardCount::default(), 0, monitor.guard("pool-manager"));
        let lone = Self { pool, _monitor: monitor };
        lone.refill((1..=n).map(ModelStore::sandbox).collect()).await;
        lone
    }

    /// Takes a candidate and puts it back.
    pub async fn take_and_put_back(&self, prefix: Option<&str>) {
        let taken = self.pool.take(prefix.map(str::to_owned)).await;
        taken.expect("a candidate fits").put_back();
    }

    /// Applies a whole refresh with these sandboxes.
    pub async fn refill(&self, listed: Vec<Sandbox>) {
        let refresh = self.pool.start_refresh(Scope::All).await.expect("the pool manager lives");
        let listed = Listed { sandboxes: listed, is_truncated: false };
        self.pool.end_refresh(refresh, Ok(listed)).await.expect("the pool manager lives");
    }
}
