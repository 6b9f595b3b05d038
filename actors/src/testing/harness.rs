use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;

use super::{FakeCsp, ModelStore, PausedClock};
use crate::allocation::{AllocateError, AllocateRequest, Allocation, AllocationSettings};
use crate::breaker::BreakerSettings;
use crate::broker::Broker;
use crate::jobs::cleanup::CleanupSettings;
use crate::jobs::csp_sync::SyncSettings;
use crate::queue::QueueSettings;
use crate::retry::RetryPolicy;
use crate::sandbox::{IdempotencyKey, Owner, ReplicaId, Sandbox, SandboxId, Status, TrackId};
use crate::start::{BrokerSettings, Ports};

/// A whole broker on a model store and a CSP in memory, with all actors on the test's thread and a paused clock.
#[derive(Clone)]
pub struct TestBroker {
    /// The broker.
    pub broker: Broker,
    /// The model store.
    pub store: ModelStore,
    /// The CSP.
    pub csp: Arc<FakeCsp>,
    /// The clock.
    pub clock: Arc<PausedClock>,
}

impl TestBroker {
    /// The default settings of a broker, with this name of the replica.
    pub fn settings(replica: &str) -> BrokerSettings {
        let day = Duration::from_secs(86_400);
        BrokerSettings {
            replica: ReplicaId::new(replica),
            jitter_seed: 0,
            allocation: AllocationSettings {
                lab_duration: Duration::from_secs(4 * 3600),
                max_holding: Duration::from_secs(16 * 3600),
                standby_max: Duration::from_secs(96 * 3600),
                wait: Duration::ZERO,
                timeout: Duration::from_secs(10),
                max_in_flight: 1024,
                retry: RetryPolicy { base: Duration::from_millis(100), max: Duration::from_secs(5) },
            },
            queue: QueueSettings { max_waiting: 10_000, no_supply_after: Duration::from_secs(900) },
            grace: Duration::from_secs(1800),
            pool_refresh_interval: Duration::from_secs(10),
            low_water: 15,
            sync_interval: Duration::from_secs(300),
            sync: SyncSettings { max_stale_percent: 50, min_age: Duration::ZERO, deleted_retention: day },
            breaker: BreakerSettings { threshold: 5, timeout: Duration::from_secs(60) },
            cleanup_interval: Duration::from_secs(300),
            cleanup: CleanupSettings {
                concurrency: 4,
                delay: Duration::ZERO,
                give_up: day,
                max_attempts: 0,
                deleted_retention: day,
            },
            expiry_interval: Duration::from_secs(900),
            stats_interval: Duration::from_secs(60),
            stale_interval: day,
            stale_grace: day,
            job_lease: Duration::from_secs(30),
            control_poll: Duration::from_secs(3),
            stop_timeout: Duration::from_secs(6),
        }
    }

    /// Pauses the clock and starts a broker whose CSP and table hold the same `n` sandboxes.
    pub async fn with_sandboxes(n: u32) -> Self {
        Self::with_sandboxes_and(n, Self::settings("replica-1")).await
    }

    /// The same, with these settings.
    pub async fn with_sandboxes_and(n: u32, settings: BrokerSettings) -> Self {
        tokio::time::pause();
        let csp = Arc::new(FakeCsp::with_accounts(n));
        let clock = Arc::new(PausedClock::new());
        let broker = Self::start(ModelStore::with_sandboxes(n), csp, clock, settings).await;
        // The first runs of the jobs end, and the next ones are minutes away.
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker
    }

    /// Starts a broker on these ports. The clock must be paused.
    pub async fn start(
        store: ModelStore,
        csp: Arc<FakeCsp>,
        clock: Arc<PausedClock>,
        settings: BrokerSettings,
    ) -> Self {
        let ports = Ports { store: Arc::new(store.clone()), csp: csp.clone(), pre_delete: None, clock: clock.clone() };
        let here = Arbiter::current();
        let broker = Broker::start(ports, settings, &here, &here).await.expect("the model store answers");
        Self { broker, store, csp, clock }
    }

    /// Another replica on the same table and CSP.
    pub async fn replica(&self, name: &str) -> Self {
        let (store, csp, clock) = (self.store.clone(), self.csp.clone(), self.clock.clone());
        Self::start(store, csp, clock, Self::settings(name)).await
    }

    /// Allocates for this track with its default key.
    pub async fn allocate(&self, track: &str) -> Result<Allocation, AllocateError> {
        self.allocate_with(track, track, None).await
    }

    /// Allocates for this track with this key and name prefix.
    pub async fn allocate_with(
        &self,
        track: &str,
        key: &str,
        prefix: Option<&str>,
    ) -> Result<Allocation, AllocateError> {
        let request = AllocateRequest {
            owner: Owner::named(TrackId::new(track)),
            track_name: None,
            key: IdempotencyKey::new(key),
            name_prefix: prefix.map(str::to_owned),
            lab_duration: None,
            standby: false,
            wait: None,
            quota: None,
        };
        self.broker.allocator().allocate(request).await
    }

    /// The sandbox with this id in the table.
    pub fn sandbox(&self, sandbox_id: &SandboxId) -> Sandbox {
        let found = self.store.sandboxes().into_iter().find(|sandbox| sandbox.sandbox_id == *sandbox_id);
        found.unwrap_or_else(|| panic!("{sandbox_id} is not in the table"))
    }

    /// The number of sandboxes with this status.
    pub fn count(&self, status: Status) -> usize {
        self.store.sandboxes().iter().filter(|sandbox| sandbox.status == status).count()
    }
}
