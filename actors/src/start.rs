//! The wiring: ports and settings in, a running broker out. Every actor is started here.

use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::actor::ActorName;
use crate::admin::SandboxAdmin;
use crate::allocation::{AllocationSettings, Allocator};
use crate::breaker::BreakerSettings;
use crate::broker::{Broker, Parts};
use crate::cluster::{Actors, Cluster};
use crate::guarded_csp::GuardedCsp;
use crate::jobs::cleanup::{Cleanup, CleanupSettings};
use crate::jobs::csp_sync::{CspSync, SyncOptions, SyncSettings};
use crate::jobs::expiry_reaper::Reaper;
use crate::jobs::expiry_timers::ExpiryTimers;
use crate::jobs::pace::Pace;
use crate::jobs::pool_stats::PoolStats;
use crate::jobs::stale_collector::StaleCollector;
use crate::jobs::{Job, JobContext, JobHandle};
use crate::liveness::LivenessMonitor;
use crate::pool::Pool;
use crate::pool::refresh::Refresher;
use crate::ports::{Clock, CspClient, PreDelete, SandboxStore, StoreError};
use crate::queue::{Queue, QueueSettings};
use crate::retry::Jitter;
use crate::sandbox::ReplicaId;
use crate::stats::{ExactStats, StatsWatch};

/// What the broker needs from outside.
#[derive(Clone)]
pub struct Ports {
    /// The table.
    pub store: Arc<dyn SandboxStore>,
    /// The cloud service provider.
    pub csp: Arc<dyn CspClient>,
    /// The step before each deletion, if there is one.
    pub pre_delete: Option<Arc<dyn PreDelete>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// The settings of the core. Intervals run from the end of one run to the start of the next.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// The name of this process.
    pub replica: ReplicaId,
    /// The seed of the jitter in this replica's waits. Each replica should have its own.
    pub jitter_seed: u64,
    /// Allocation.
    pub allocation: AllocationSettings,
    /// The queue of those who wait.
    pub queue: QueueSettings,
    /// How long a holding lasts past its end.
    pub grace: Duration,
    /// The time between pool refreshes.
    pub pool_refresh_interval: Duration,
    /// With fewer candidates than this the pool requests a refresh.
    pub low_water: usize,
    /// The time between syncs.
    pub sync_interval: Duration,
    /// Sync.
    pub sync: SyncSettings,
    /// The circuit breaker in front of the CSP.
    pub breaker: BreakerSettings,
    /// The time between cleanups.
    pub cleanup_interval: Duration,
    /// Cleanup.
    pub cleanup: CleanupSettings,
    /// The time between expiry sweeps.
    pub expiry_interval: Duration,
    /// The time between collections of stale sandboxes.
    pub stale_interval: Duration,
    /// The time between counts of the sandboxes.
    pub stats_interval: Duration,
    /// How long a sandbox must have been stale to be collected.
    pub stale_grace: Duration,
    /// How long a job's lease lasts without extension.
    pub job_lease: Duration,
    /// The time between looks at the operators' commands.
    pub control_poll: Duration,
    /// How long to wait for a run after it was told to stop.
    pub stop_timeout: Duration,
}

impl Broker {
    /// Starts all actors: the pool manager and the expiry timers in `pool_arbiter`, the others in
    /// `background_arbiter`.
    ///
    /// The operators' commands are applied before any job runs, so that a paused actor does nothing from the start.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn start(
        ports: Ports,
        settings: BrokerSettings,
        pool_arbiter: &ArbiterHandle,
        background_arbiter: &ArbiterHandle,
    ) -> Result<Self, StoreError> {
        let Ports { store, csp, pre_delete, clock } = ports;
        let state = store.cluster_state().await?;
        let liveness = LivenessMonitor::default();
        let jitter = Jitter::seeded(settings.jitter_seed);
        let csp = Arc::new(GuardedCsp::new(csp, settings.breaker));
        let stop = CancellationToken::new();

        let guard = liveness.guard(ActorName::PoolManager.as_str());
        let pool = Pool::start(pool_arbiter, settings.replica.clone(), store.shards(), settings.low_water, guard);
        let (completed, refreshes) = watch::channel(0);
        let refresher = Refresher {
            pool: pool.clone(),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            interval: settings.pool_refresh_interval,
            jitter: jitter.clone(),
            completed,
            _liveness: liveness.guard("pool refresh"),
        };

        let reaper = Reaper {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            grace: settings.grace,
            jitter: jitter.clone(),
        };
        let pool_stats = PoolStats { store: Arc::clone(&store), clock: Arc::clone(&clock) };
        let csp_sync = CspSync {
            store: Arc::clone(&store),
            csp: csp.clone(),
            clock: Arc::clone(&clock),
            pool: pool.clone(),
            settings: settings.sync,
            options: SyncOptions::default(),
            lacked_once: Arc::default(),
        };
        let stale_collector = StaleCollector {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            grace: settings.stale_grace,
            deleted_retention: settings.sync.deleted_retention,
        };
        let jobs = JobStarter {
            arbiter: background_arbiter,
            liveness: &liveness,
            context: Arc::new(JobContext {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                replica: settings.replica.clone(),
                lease: settings.job_lease,
                stop_timeout: settings.stop_timeout,
                jitter: jitter.clone(),
            }),
        };
        let csp_sync_job = jobs.start(csp_sync.clone(), settings.sync_interval);
        let sync_after_deletions = csp_sync_job.clone();
        let cleanup = Cleanup {
            store: Arc::clone(&store),
            csp: csp.clone(),
            clock: Arc::clone(&clock),
            settings: settings.cleanup,
            jitter: jitter.clone(),
            pre_delete,
            pace: Arc::new(Pace::new(settings.cleanup.delay)),
            after_deletions: Arc::new(move || sync_after_deletions.request()),
        };
        let guard = liveness.guard("expiry timers");
        let actors = Arc::new(Actors {
            pool: pool.clone(),
            pool_control: watch::Sender::new(None),
            refreshes,
            timers: ExpiryTimers::start(pool_arbiter, background_arbiter, reaper.clone(), jitter.clone(), guard),
            csp_sync: csp_sync_job,
            cleanup: jobs.start(cleanup, settings.cleanup_interval),
            expiry_reaper: jobs.start(reaper.clone(), settings.expiry_interval),
            stale_collector: jobs.start(stale_collector.clone(), settings.stale_interval),
            pool_stats: jobs.start(pool_stats, settings.stats_interval),
        });

        let queue = Queue::new(Arc::clone(&store), Arc::clone(&clock), pool.clone(), settings.queue);
        let cluster = Cluster {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            csp: csp.clone(),
            replica: settings.replica,
            actors: Arc::clone(&actors),
            stats: StatsWatch::new(),
            queue: queue.clone(),
            control_poll: settings.control_poll,
            heartbeat_interval: settings.job_lease / 3,
        };
        actors.apply_controls(&state.controls);
        queue.apply(&state);
        cluster.stats.update(state.stats, &csp);
        cluster.send_heartbeat().await;

        background_arbiter.spawn(cluster.clone().run(stop.clone(), liveness.guard("cluster")));
        let queue_run = queue.clone().run(actors.refreshes.clone(), stop.clone(), liveness.guard("queue"));
        background_arbiter.spawn(queue_run);
        background_arbiter.spawn(refresher.run());
        background_arbiter.spawn(csp.clone().probe_while_open(stop.clone()));

        let (timers, retry) = (actors.timers.clone(), settings.allocation.retry);
        let (allocator_store, allocator_clock, allocation) =
            (Arc::clone(&store), Arc::clone(&clock), settings.allocation);
        let allocator = Allocator::new(
            pool,
            queue.clone(),
            allocator_store,
            allocator_clock,
            reaper,
            timers,
            allocation,
            jitter.clone(),
        );
        let admin = SandboxAdmin {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            stale_collector: stale_collector.clone(),
            retry,
            jitter,
        };
        Ok(Self(Arc::new(Parts {
            store: Arc::clone(&store),
            liveness,
            cluster,
            allocator,
            queue,
            admin,
            exact_stats: ExactStats::new(Arc::clone(&store), Arc::clone(&clock)),
            csp,
            csp_sync,
            stale_collector,
            counting: Mutex::new(()),
            stop,
            last_ping: Mutex::new(None),
        })))
    }
}

struct JobStarter<'a> {
    arbiter: &'a ArbiterHandle,
    liveness: &'a LivenessMonitor,
    context: Arc<JobContext>,
}

impl JobStarter<'_> {
    fn start<J: Job>(&self, job: J, interval: Duration) -> JobHandle<J> {
        JobHandle::start(self.arbiter, job, interval, Arc::clone(&self.context), self.liveness.guard(J::NAME.as_str()))
    }
}
