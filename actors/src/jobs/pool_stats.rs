//! PoolStats: counts the sandboxes in each status and stores the count in one item, which all replicas read for gauges,
//! log and consoles; and the figures of the labs in another, which is read when an operator asks.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Job, JobError};
use crate::actor::ActorName;
use crate::ports::{Clock, Counts, SandboxStore, Stats};

/// The job.
#[derive(Clone)]
pub struct PoolStats {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Job for PoolStats {
    type Report = Stats;

    const NAME: ActorName = ActorName::PoolStats;

    async fn run(&self, _: &CancellationToken) -> Result<Stats, JobError> {
        let Counts { stats, labs } = self.store.count_all(self.clock.now()).await?;
        let counted_at = self.clock.now();
        self.store.put_stats(counted_at, &stats).await?;
        self.store.put_labs(counted_at, &labs).await?;
        Ok(stats)
    }
}
