//! The running broker, as the HTTP server and tests use it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::actor::{ActorName, ActorStatus, DesiredState};
use crate::admin::SandboxAdmin;
use crate::allocation::Allocator;
use crate::breaker::BreakerSnapshot;
use crate::cluster::Cluster;
use crate::error::Chain;
use crate::guarded_csp::GuardedCsp;
use crate::jobs::cleanup::CleanupReport;
use crate::jobs::csp_sync::{CspSync, SyncOptions, SyncReport};
use crate::jobs::expiry_reaper::ExpiryReport;
use crate::jobs::stale_collector::{DiscardReport, StaleCollector};
use crate::jobs::{Job, JobError};
use crate::liveness::LivenessMonitor;
use crate::pool::PoolSnapshot;
use crate::ports::{Listing, SandboxStore, StoreError, StoredLabs, StoredStats};
use crate::queue::Queue;
use crate::sandbox::{ReplicaId, Status};
use crate::stats::{ExactStats, Stats};

/// How long an operator's request for a pool refresh waits for it.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the store's answer to a readiness check is reused.
const PING_TTL: Duration = Duration::from_secs(1);

/// How long the store may take to answer a readiness check.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The running broker.
#[derive(Clone)]
pub struct Broker(pub(crate) Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) liveness: LivenessMonitor,
    pub(crate) cluster: Cluster,
    pub(crate) allocator: Allocator,
    pub(crate) queue: Queue,
    pub(crate) admin: SandboxAdmin,
    pub(crate) exact_stats: ExactStats,
    pub(crate) csp: Arc<GuardedCsp>,
    pub(crate) csp_sync: CspSync,
    pub(crate) stale_collector: StaleCollector,
    /// Held by a count of available sandboxes.
    pub(crate) counting: Mutex<()>,
    /// Ends the loops that are not actors.
    pub(crate) stop: CancellationToken,
    /// The store's last answer to a readiness check, and when it was given.
    pub(crate) last_ping: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Broker {
    /// Allocation, release, renewal, read.
    pub fn allocator(&self) -> &Allocator {
        &self.0.allocator
    }

    /// Those who wait for a sandbox.
    pub fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// What operators see and change of single sandboxes.
    pub fn admin(&self) -> &SandboxAdmin {
        &self.0.admin
    }

    /// Counts the sandboxes. Concurrent callers share a count, which is reused for a few times its duration.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        self.0.exact_stats.count().await
    }

    /// Follows the last count in the table, which one replica makes for all.
    pub fn watch_stats(&self) -> watch::Receiver<StoredStats> {
        self.0.cluster.stats.subscribe()
    }

    /// Counts the available sandboxes whose name starts with `prefix`: those that are free now, and those that are not old
    /// enough yet. Reads the index: one such count at a time.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn available(&self, prefix: Option<&str>) -> Result<(usize, usize), StoreError> {
        let _turn = self.0.counting.lock().await;
        let now = self.0.cluster.clock.now();
        let mut pages = self.0.store.pages(Listing::of(Status::Available));
        let (mut free, mut warming) = (0, 0);
        while let Some(page) = pages.next().await? {
            for sandbox in page.iter().filter(|sandbox| sandbox.name.starts_with(prefix.unwrap_or_default())) {
                *(if sandbox.shard_at > now { &mut warming } else { &mut free }) += 1;
            }
        }
        Ok((free, warming))
    }

    /// The last figures of the labs in the table.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn labs(&self) -> Result<StoredLabs, StoreError> {
        self.0.store.labs().await
    }

    /// This replica's name.
    pub fn replica(&self) -> &ReplicaId {
        &self.0.cluster.replica
    }

    /// The state of this replica's cache; `None` if the pool manager is dead.
    pub async fn pool_snapshot(&self) -> Option<PoolSnapshot> {
        self.0.cluster.actors.pool.snapshot().await
    }

    /// The circuit breaker of this replica.
    pub fn circuit_breaker(&self) -> BreakerSnapshot {
        self.0.csp.snapshot()
    }

    /// Syncs now. A dry run writes nothing, so it needs no lease and also runs while the actor is paused.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub async fn sync(&self, options: SyncOptions) -> Result<SyncReport, JobError> {
        let variant = self.0.csp_sync.with_options(options);
        let handle = &self.0.cluster.actors.csp_sync;
        match options {
            SyncOptions { dry_run: true, .. } => variant.run(&CancellationToken::new()).await,
            SyncOptions { force: true, .. } => handle.activate_as(variant).await,
            _ => handle.activate().await,
        }
    }

    /// Cleans up now.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub async fn cleanup(&self) -> Result<CleanupReport, JobError> {
        self.0.cluster.actors.cleanup.activate().await
    }

    /// Ends expired holdings now.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub async fn expire(&self) -> Result<ExpiryReport, JobError> {
        self.0.cluster.actors.expiry_reaper.activate().await
    }

    /// Turns stale sandboxes into tombstones now, with this grace period or the configured one.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub async fn delete_stale(&self, grace: Option<Duration>) -> Result<DiscardReport, JobError> {
        let handle = &self.0.cluster.actors.stale_collector;
        match grace {
            Some(grace) => handle.activate_as(StaleCollector { grace, ..self.0.stale_collector.clone() }).await,
            None => handle.activate().await,
        }
    }

    /// How long sandboxes stay stale unless an operator gives another time.
    pub fn stale_grace(&self) -> Duration {
        self.0.stale_collector.grace
    }

    /// The status of every actor.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn actors(&self) -> Result<Vec<ActorStatus>, StoreError> {
        let mut statuses = Vec::new();
        for name in ActorName::ALL {
            statuses.push(self.actor(*name).await?);
        }
        Ok(statuses)
    }

    /// The status of every actor, as far as this replica knows it without reading the table.
    pub async fn local_actors(&self) -> Vec<ActorStatus> {
        let mut statuses = Vec::new();
        for name in ActorName::ALL {
            statuses.push(self.0.cluster.local_status(*name).await);
        }
        statuses
    }

    /// The status of one actor.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn actor(&self, name: ActorName) -> Result<ActorStatus, StoreError> {
        self.0.cluster.status(name).await
    }

    /// Pauses an actor on every replica.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn pause(&self, name: ActorName, reason: &str, requested_by: &str) -> Result<ActorStatus, StoreError> {
        self.0.cluster.command(name, DesiredState::Paused, reason, requested_by).await
    }

    /// Resumes an actor on every replica.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn resume(&self, name: ActorName, requested_by: &str) -> Result<ActorStatus, StoreError> {
        self.0.cluster.command(name, DesiredState::Running, "", requested_by).await
    }

    /// Runs an actor's job now and waits for its end. For the pool manager that is a refresh. With `force`, the job's
    /// lease is taken from its holder.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub async fn run(&self, name: ActorName, force: bool) -> Result<(), JobError> {
        let actors = &self.0.cluster.actors;
        match actors.job(name) {
            Some(job) => job.run_now(force).await?,
            None => {
                let mut refreshes = actors.refreshes.clone();
                refreshes.mark_unchanged();
                actors.pool.request_refresh();
                // A refresh that does not end in time shows in the status, as the age of the cache.
                let _ = timeout(REFRESH_TIMEOUT, refreshes.changed()).await;
            }
        }
        Ok(())
    }

    /// What this replica needs to serve, check by check.
    pub async fn checks(&self) -> Vec<(&'static str, Result<(), String>)> {
        let actors = self.0.liveness.failed().map_or(Ok(()), |name| Err(format!("{name} is dead")));
        let pool = match self.pool_snapshot().await {
            None => Err("the pool manager is dead".to_owned()),
            Some(snapshot) if snapshot.age_seconds.is_none() => Err("the pool was not read yet".to_owned()),
            Some(_) => Ok(()),
        };
        vec![("dynamodb", self.ping().await), ("actors", actors), ("pool", pool)]
    }

    /// Waits for the first required part to fail and returns its name. The process should end then.
    pub async fn first_failure(&self) -> &'static str {
        self.0.liveness.first_failure().await
    }

    /// Ends all jobs and gives their leases back. The caller has stopped accepting requests before.
    pub async fn stop(&self) {
        self.0.liveness.expect_end();
        self.0.stop.cancel();
        self.0.cluster.leave().await;
    }

    async fn ping(&self) -> Result<(), String> {
        let mut last_ping = self.0.last_ping.lock().await;
        if let Some((at, answer)) = last_ping.as_ref()
            && at.elapsed() < PING_TTL
        {
            return answer.clone();
        }
        let answer = match timeout(PING_TIMEOUT, self.0.store.check(self.replica())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(event = "readiness_failed", error = %Chain(&error), "the store fails the readiness check");
                Err("unavailable".to_owned())
            }
            Err(_) => Err("slow".to_owned()),
        };
        *last_ping = Some((Instant::now(), answer.clone()));
        answer
    }
}
