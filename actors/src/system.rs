//! The whole broker: start order, handles, drain order.

use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::allocation::{AllocationSettings, Allocator};
use crate::breaker::{BreakerSettings, BreakerSnapshot, GuardedCsp};
use crate::census::Census;
use crate::cleanup::{Cleanup, CleanupReport, CleanupSettings};
use crate::controls::ControlLoop;
use crate::inventory::{Inventory, Stats};
use crate::job::{Activity, ActorStatus, Job, JobError, JobHandle, Surroundings};
use crate::pool::{Pool, PoolSnapshot};
use crate::ports::{Clock, Control, CspClient, Desired, SandboxStore, StoreError};
use crate::reaper::{ExpiryReport, ExpiryTimers, Reaper};
use crate::refresh::Refresher;
use crate::retry::Jitter;
use crate::sandbox::ReplicaId;
use crate::stale::{DiscardReport, StaleCollector};
use crate::supervision::Supervisor;
pub use crate::sync::SyncOptions;
use crate::sync::{CspSync, SyncReport, SyncSettings};

/// The actor that hands out candidates, as operators name it.
pub const POOL_MANAGER: &str = "pool-manager";

/// Every actor that operators command.
pub const ACTORS: [&str; 5] = [POOL_MANAGER, "csp-sync", "expiry-reaper", "cleanup", "stale-collector"];

/// How long an operator's request for a pool refresh is waited for.
const REFRESH_PATIENCE: Duration = Duration::from_secs(10);

/// How long the answer of the store to a readiness check is good for; probes need no more, and cost no more.
const PING_MEMORY: Duration = Duration::from_secs(1);

/// How long the store may take to answer a readiness check.
const PING_PATIENCE: Duration = Duration::from_secs(2);

/// What the broker needs from outside.
#[derive(Clone)]
pub struct Ports {
    /// The table.
    pub store: Arc<dyn SandboxStore>,
    /// The cloud provider.
    pub csp: Arc<dyn CspClient>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// Everything that can be set about the broker's mind.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Names this process.
    pub replica: ReplicaId,
    /// What the jitter of this replica's waits follows from; each replica should have another.
    pub jitter_seed: u64,
    /// Allocation.
    pub allocation: AllocationSettings,
    /// How long a holding goes on past its end.
    pub grace: Duration,
    /// From one pool refresh to the next.
    pub pool_refresh_interval: Duration,
    /// With fewer candidates than this the pool asks for a refresh.
    pub low_water: usize,
    /// From the end of one sync to the next.
    pub sync_interval: Duration,
    /// Sync.
    pub sync: SyncSettings,
    /// The circuit breaker before the CSP.
    pub breaker: BreakerSettings,
    /// From the end of one cleanup to the next.
    pub cleanup_interval: Duration,
    /// Cleanup.
    pub cleanup: CleanupSettings,
    /// From the end of one expiry sweep to the next.
    pub expiry_interval: Duration,
    /// From the end of one collection of stale sandboxes to the next.
    pub stale_interval: Duration,
    /// How long a sandbox must have been stale to be collected.
    pub stale_grace: Duration,
    /// How long a job's lease lasts without extension.
    pub job_lease: Duration,
    /// From one look at the operators' controls to the next.
    pub control_poll: Duration,
    /// How long a run that was told to end is waited for.
    pub stop_patience: Duration,
}

/// Why an actor did not obey.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ActorError {
    /// There is no such actor.
    #[error("no actor has the name `{0}`")]
    Unknown(String),
    /// The run failed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The running broker: what the HTTP side talks to.
#[derive(Clone)]
pub struct Broker(Arc<Parts>);

struct Parts {
    ports: Ports,
    settings: BrokerSettings,
    supervisor: Supervisor,
    pool: Pool,
    pool_control: watch::Sender<Option<Control>>,
    refreshes: watch::Receiver<u64>,
    timers: ExpiryTimers,
    allocator: Allocator,
    inventory: Inventory,
    census: Census,
    csp: Arc<GuardedCsp>,
    sync_job: CspSync,
    stale_job: StaleCollector,
    sync: JobHandle<CspSync>,
    cleanup: JobHandle<Cleanup>,
    reaper: JobHandle<Reaper>,
    stale: JobHandle<StaleCollector>,
    stop: watch::Sender<bool>,
    /// The last readiness answer of the store, and until when it is good.
    pinged: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Broker {
    /// Starts all actors: the pool manager and the expiry timers in `pool_arbiter`, everything else in
    /// `background_arbiter`.
    ///
    /// Reads first what operators want, so that what was paused stays at rest from the first moment; a store that
    /// does not answer that is an error.
    pub async fn start(
        ports: Ports,
        settings: BrokerSettings,
        pool_arbiter: &ArbiterHandle,
        background_arbiter: &ArbiterHandle,
    ) -> Result<Self, StoreError> {
        let Ports { store, clock, .. } = ports.clone();
        let supervisor = Supervisor::new();
        let jitter = Jitter::seeded(settings.jitter_seed);
        let controls = store.controls(&ACTORS).await?;
        let csp = Arc::new(GuardedCsp::new(Arc::clone(&ports.csp), settings.breaker));

        let pool =
            Pool::start(pool_arbiter, settings.replica.clone(), settings.low_water, supervisor.vital(POOL_MANAGER));
        let (done, refreshes) = watch::channel(0);
        let refresher = Refresher {
            pool: pool.clone(),
            store: Arc::clone(&store),
            interval: settings.pool_refresh_interval,
            jitter: jitter.clone(),
            done,
            _vital: supervisor.vital("pool refresh"),
        };

        let reaper = Reaper {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            grace: settings.grace,
            lab_duration: settings.allocation.lab_duration,
        };
        let vital = supervisor.vital("expiry timers");
        let timers = ExpiryTimers::start(pool_arbiter, background_arbiter.clone(), reaper.clone(), vital);
        let allocator = Allocator::new(
            pool.clone(),
            Arc::clone(&store),
            Arc::clone(&clock),
            reaper.clone(),
            timers.clone(),
            settings.allocation,
            jitter.clone(),
        );
        let sync_job = CspSync {
            store: Arc::clone(&store),
            csp: csp.clone(),
            clock: Arc::clone(&clock),
            pool: pool.clone(),
            settings: settings.sync,
            options: SyncOptions::default(),
        };
        let cleanup_job = Cleanup {
            store: Arc::clone(&store),
            csp: csp.clone(),
            clock: Arc::clone(&clock),
            settings: settings.cleanup,
            jitter,
        };
        let stale_job = StaleCollector {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            grace: settings.stale_grace,
            deleted_retention: settings.sync.deleted_retention,
        };
        let inventory = Inventory {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            reaper: reaper.clone(),
            stale_collector: stale_job.clone(),
        };

        let surroundings = Arc::new(Surroundings {
            store,
            clock,
            replica: settings.replica.clone(),
            lease: settings.job_lease,
            stop_patience: settings.stop_patience,
        });
        let starter = JobStarter { arbiter: background_arbiter, surroundings, supervisor: &supervisor };
        let broker = Self(Arc::new(Parts {
            sync: starter.start(sync_job.clone(), settings.sync_interval),
            cleanup: starter.start(cleanup_job, settings.cleanup_interval),
            reaper: starter.start(reaper, settings.expiry_interval),
            stale: starter.start(stale_job.clone(), settings.stale_interval),
            ports,
            settings,
            supervisor,
            pool,
            pool_control: watch::Sender::new(None),
            refreshes,
            timers,
            allocator,
            inventory,
            census: Census::new(),
            csp,
            sync_job,
            stale_job,
            stop: watch::Sender::new(false),
            pinged: Mutex::new(None),
        }));

        broker.obey(&controls);
        let control_loop = ControlLoop::new(broker.clone());
        control_loop.keep_replica_listed().await;
        background_arbiter.spawn(control_loop.run());
        background_arbiter.spawn(refresher.run());
        let vital = broker.supervisor().vital("census");
        background_arbiter.spawn(broker.0.census.clone().run(broker.clone(), vital));
        Ok(broker)
    }

    /// Allocation, release, renewal, read.
    pub fn allocator(&self) -> &Allocator {
        &self.0.allocator
    }

    /// Counts, lists, and what operators do to single sandboxes.
    pub fn inventory(&self) -> &Inventory {
        &self.0.inventory
    }

    /// Follows how many sandboxes are in each state, counted every few seconds as long as the receiver lives.
    pub fn watch_stats(&self) -> watch::Receiver<Option<Stats>> {
        self.0.census.watch()
    }

    /// The name of this replica.
    pub fn replica(&self) -> &ReplicaId {
        &self.0.settings.replica
    }

    /// What this replica's cache holds; `None` if the pool manager is dead.
    pub async fn pool_snapshot(&self) -> Option<PoolSnapshot> {
        self.0.pool.snapshot().await
    }

    /// The circuit breaker before the CSP, on this replica.
    pub fn circuit_breaker(&self) -> BreakerSnapshot {
        self.0.csp.snapshot()
    }

    /// Syncs now. A dry run writes nothing, so it needs no lease and runs also while the actor is paused.
    pub async fn sync(&self, options: SyncOptions) -> Result<SyncReport, JobError> {
        let variant = self.0.sync_job.with_options(options);
        if options.dry_run {
            let (_switch, never) = crate::job::StopSignal::new();
            return variant.run(&never).await;
        }
        if options.force {
            return self.0.sync.activate_as(variant).await;
        }
        self.0.sync.activate().await
    }

    /// Cleans up now.
    pub async fn cleanup(&self) -> Result<CleanupReport, JobError> {
        self.0.cleanup.activate().await
    }

    /// Sweeps expired holdings now.
    pub async fn expire(&self) -> Result<ExpiryReport, JobError> {
        self.0.reaper.activate().await
    }

    /// Collects stale sandboxes now, with this grace period or the configured one.
    pub async fn delete_stale(&self, grace: Option<Duration>) -> Result<DiscardReport, JobError> {
        match grace {
            Some(grace) => self.0.stale.activate_as(StaleCollector { grace, ..self.0.stale_job.clone() }).await,
            None => self.0.stale.activate().await,
        }
    }

    /// All actors.
    pub async fn actors(&self) -> Result<Vec<ActorStatus>, StoreError> {
        let mut statuses = vec![self.pool_status().await];
        for job in self.jobs() {
            statuses.push(self.job_status(job).await?);
        }
        Ok(statuses)
    }

    /// One actor.
    pub async fn actor(&self, name: &str) -> Result<ActorStatus, ActorError> {
        if name == POOL_MANAGER {
            return Ok(self.pool_status().await);
        }
        Ok(self.job_status(self.job(name)?).await?)
    }

    /// Pauses an actor on every replica.
    pub async fn pause(&self, name: &str, reason: &str, by: &str) -> Result<ActorStatus, ActorError> {
        self.command(name, Desired::Paused, reason, by).await
    }

    /// Lets an actor work again, on every replica.
    pub async fn resume(&self, name: &str, by: &str) -> Result<ActorStatus, ActorError> {
        self.command(name, Desired::Running, "", by).await
    }

    /// Runs an actor's job now and waits for its end; the pool manager's is a refresh.
    pub async fn run(&self, name: &str) -> Result<ActorStatus, ActorError> {
        if name == POOL_MANAGER {
            let mut refreshes = self.0.refreshes.clone();
            refreshes.mark_unchanged();
            self.0.pool.want_refresh();
            // A refresh that does not end in time shows in the status, as the age of the cache.
            let _ = timeout(REFRESH_PATIENCE, refreshes.changed()).await;
        } else {
            self.job(name)?.activate_untyped().await?;
        }
        self.actor(name).await
    }

    /// What this replica needs to serve, check by check.
    pub async fn checks(&self) -> Vec<(&'static str, Result<(), String>)> {
        let actors = self.0.supervisor.dead().map_or(Ok(()), |name| Err(format!("{name} is dead")));
        let pool = match self.0.pool.snapshot().await {
            None => Err("the pool manager is dead".to_owned()),
            Some(snapshot) if snapshot.age_seconds.is_none() => Err("the pool was not read yet".to_owned()),
            Some(_) => Ok(()),
        };
        vec![("dynamodb", self.ping().await), ("actors", actors), ("pool", pool)]
    }

    /// Returns the name of the first vital part that dies; the process should end then.
    pub async fn death(&self) -> &'static str {
        self.0.supervisor.death().await
    }

    /// Ends all jobs and gives their leases back. The caller has stopped taking requests before.
    pub async fn stop(&self) {
        self.0.supervisor.expect_end();
        self.0.stop.send_replace(true);
        futures_util::future::join_all(self.jobs().into_iter().map(JobControl::stop)).await;
        if let Err(error) = self.0.ports.store.leave(&self.0.settings.replica).await {
            tracing::warn!(%error, "this replica could not be taken off the list and will expire from it");
        }
    }

    pub(crate) fn settings(&self) -> &BrokerSettings {
        &self.0.settings
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.0.ports
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.0.stop.subscribe()
    }

    /// Makes every actor do what operators want; one without a word from them works.
    pub(crate) fn obey(&self, controls: &[Control]) {
        let of = |name: &str| controls.iter().find(|control| control.actor == name).cloned();
        let is_paused = |name| of(name).is_some_and(|control| control.desired == Desired::Paused);
        self.0.pool.set_paused(is_paused(POOL_MANAGER));
        self.0.pool_control.send_replace(of(POOL_MANAGER));
        self.0.timers.set_paused(is_paused("expiry-reaper"));
        for job in self.jobs() {
            job.obey(of(job.name()));
        }
    }

    async fn command(&self, name: &str, desired: Desired, reason: &str, by: &str) -> Result<ActorStatus, ActorError> {
        let Some(actor) = ACTORS.into_iter().find(|actor| *actor == name) else {
            return Err(ActorError::Unknown(name.to_owned()));
        };
        let store = &self.0.ports.store;
        let last_said_at = store.controls(&[actor]).await?.first().map(|control| control.at);
        // The last word counts, also when the replica that took the word before has a clock that is ahead.
        let at = self.0.ports.clock.now().max(last_said_at.unwrap_or_default());
        let (reason, by) = (reason.to_owned(), by.to_owned());
        store.put_control(&Control { actor: actor.to_owned(), desired, reason, by, at }).await?;
        self.obey(&store.controls(&ACTORS).await?);
        self.actor(name).await
    }

    fn jobs(&self) -> [&dyn JobControl; 4] {
        [&self.0.sync, &self.0.reaper, &self.0.cleanup, &self.0.stale]
    }

    fn job(&self, name: &str) -> Result<&dyn JobControl, ActorError> {
        self.jobs().into_iter().find(|job| job.name() == name).ok_or_else(|| ActorError::Unknown(name.to_owned()))
    }

    /// The local status, completed by what the lease tells of other replicas.
    async fn job_status(&self, job: &dyn JobControl) -> Result<ActorStatus, StoreError> {
        let mut status = job.status().await.unwrap_or_else(|| dead(job.name()));
        if let Some(lease) = self.0.ports.store.read_lease(job.name()).await? {
            status.last_run = lease.last_run.and_then(|record| serde_json::from_str(&record).ok()).or(status.last_run);
            status.leader = Some(lease.holder);
        }
        if job.name() == "csp-sync" || job.name() == "cleanup" {
            status.details = Some(serde_json::json!({ "circuit_breaker": self.circuit_breaker() }));
        }
        Ok(status)
    }

    async fn pool_status(&self) -> ActorStatus {
        let mut status = dead(POOL_MANAGER);
        let Some(snapshot) = self.0.pool.snapshot().await else { return status };
        status.status = if snapshot.paused { Activity::Paused } else { Activity::Idle };
        status.control = self.0.pool_control.borrow().clone();
        status.desired_state = status.control.as_ref().map_or(Desired::Running, |control| control.desired);
        status.iteration = *self.0.refreshes.borrow();
        status.details = serde_json::to_value(snapshot).ok();
        status
    }

    async fn ping(&self) -> Result<(), String> {
        let mut pinged = self.0.pinged.lock().await;
        if let Some((at, answer)) = pinged.as_ref()
            && at.elapsed() < PING_MEMORY
        {
            return answer.clone();
        }
        let answer = match timeout(PING_PATIENCE, self.0.ports.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store does not answer the readiness check");
                Err("unavailable".to_owned())
            }
            Err(_) => Err("slow".to_owned()),
        };
        *pinged = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// A job's driver, whatever its job.
#[async_trait]
trait JobControl: Send + Sync {
    fn name(&self) -> &'static str;
    fn obey(&self, control: Option<Control>);
    async fn status(&self) -> Option<ActorStatus>;
    async fn activate_untyped(&self) -> Result<(), JobError>;
    async fn stop(&self);
}

#[async_trait]
impl<J: Job> JobControl for JobHandle<J> {
    fn name(&self) -> &'static str {
        JobHandle::name(self)
    }

    fn obey(&self, control: Option<Control>) {
        JobHandle::obey(self, control);
    }

    async fn status(&self) -> Option<ActorStatus> {
        JobHandle::status(self).await
    }

    async fn activate_untyped(&self) -> Result<(), JobError> {
        self.activate().await.map(|_| ())
    }

    async fn stop(&self) {
        JobHandle::stop(self).await;
    }
}

struct JobStarter<'a> {
    arbiter: &'a ArbiterHandle,
    surroundings: Arc<Surroundings>,
    supervisor: &'a Supervisor,
}

impl JobStarter<'_> {
    fn start<J: Job>(&self, job: J, interval: Duration) -> JobHandle<J> {
        let vital = self.supervisor.vital(job.name());
        JobHandle::start(self.arbiter, Arc::new(job), interval, Arc::clone(&self.surroundings), vital)
    }
}

/// The status of an actor that does not answer; also the blank form for one that does.
fn dead(name: &'static str) -> ActorStatus {
    ActorStatus {
        name,
        status: Activity::Dead,
        desired_state: Desired::Running,
        control: None,
        leader: None,
        running_since: None,
        iteration: 0,
        last_run: None,
        next_run: None,
        details: None,
    }
}
