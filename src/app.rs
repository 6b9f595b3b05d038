//! The wiring: settings in, a running broker out.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::Arbiter;
use actix_web::dev::{Server, ServerHandle};
use actix_web::web;
use broker_actors::allocation::AllocationSettings;
use broker_actors::breaker::BreakerSettings;
use broker_actors::broker::Broker;
use broker_actors::jobs::cleanup::CleanupSettings;
use broker_actors::jobs::csp_sync::SyncSettings;
use broker_actors::ports::{Clock, CspClient, StoreError};
use broker_actors::retry::RetryPolicy;
use broker_actors::sandbox::{ReplicaId, UnixMillis};
use broker_actors::start::{BrokerSettings, Ports};
use secrecy::SecretString;
use tokio::time::{interval, timeout};
use url::Url;

use crate::config::{CspSettings, RawStoreSettings, Settings, StoreKind};
use crate::csp::simulator::{Simulator, SimulatorSettings};
use crate::csp::{CspConfigError, HttpCsp};
use crate::dynamo::embedded::{EmbeddedEngine, OpenError};
use crate::dynamo::table::TableError;
use crate::dynamo::table::adopt::create_or_adopt;
use crate::dynamo::table::open::open_table;
use crate::dynamo::{DynamoClient, DynamoStore};
use crate::http::{self, AppState};
use crate::prometheus;

/// How often expired items are removed from the embedded store.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}: {source}; set BROKER_HOST and BROKER_PORT to an address that is free")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The simulated CSP did not start.
    #[error("the simulated CSP cannot start: {0}")]
    Simulator(#[source] io::Error),
    /// The embedded store did not open.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// The table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The store does not answer.
    #[error("the store does not answer: {0}")]
    Store(#[from] StoreError),
    /// The CSP's settings cannot be used.
    #[error(transparent)]
    Csp(#[from] CspConfigError),
}

/// Why the broker ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A vital part died.
    #[error("{0} died")]
    PartDied(&'static str),
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Server(#[from] io::Error),
}

/// A broker that is ready to run.
pub struct Application {
    address: SocketAddr,
    server: Server,
    state: web::Data<AppState>,
    engine: Option<EmbeddedEngine>,
    simulator: Option<ServerHandle>,
    /// The threads of the pool manager and of everything behind the requests; they end with the application.
    arbiters: [Arbiter; 2],
    grace: Duration,
}

impl Application {
    /// Builds everything and starts the actors; requests are served once it runs.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        Self::build_on(settings, Arc::new(SystemClock)).await
    }

    /// The same with another time of day than the machine's, for tests of replicas whose clocks differ.
    pub async fn build_on(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        prometheus::recorder();
        let listener = TcpListener::bind(settings.address)
            .map_err(|source| StartError::Listen { address: settings.address, source })?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address: settings.address, source })?;
        let (client, engine) = open_store(&settings.raw.store).await?;
        let names = settings.raw.store.table_names();
        if engine.is_some() {
            create_or_adopt(&client, &names, settings.lab_duration, &*clock).await?;
        }
        let form = open_table(&client.for_tables(), &names).await?;
        let mut store = DynamoStore::new(Arc::new(client), names.table, form);
        if engine.is_some() {
            store = store.with_small_pages();
        }
        let (csp, simulator) = csp(&settings)?;
        let ports = Ports { store: Arc::new(store), csp, clock: Arc::clone(&clock) };
        let arbiters = [Arbiter::new(), Arbiter::new()];
        let [pool, background] = [arbiters[0].handle(), arbiters[1].handle()];
        let broker = Broker::start(ports, broker_settings(&settings), &pool, &background).await?;
        let state = web::Data::new(AppState::new(broker, clock, &settings));
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let server = http::server(listener, state.clone(), &settings, workers)
            .map_err(|source| StartError::Listen { address, source })?;
        let grace = Duration::from_secs(settings.raw.shutdown_grace_sec);
        Ok(Self { address, server, state, engine, simulator, arbiters, grace })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is over, then comes to an orderly end inside the grace period:
    ///
    /// 1. readiness fails, so that no balancer sends more;
    /// 2. no connection is accepted any more, requests in flight are answered;
    /// 3. jobs end, their leases are given back;
    /// 4. the threads end, and with them the store is closed.
    ///
    /// A vital part that dies ends the broker the same way, with an error.
    pub async fn run_until_stopped(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let handle = self.server.handle();
        let server = actix_web::rt::spawn(self.server);
        let sweeper = self.engine.map(|engine| actix_web::rt::spawn(sweep(engine)));
        let broker = self.state.broker.clone();
        let state = self.state.clone();
        let ticker = actix_web::rt::spawn(async move { state.live.run(&state).await });
        let upkeep = actix_web::rt::spawn(prometheus::upkeep());
        let ended = tokio::select! {
            () = stop => Ok(()),
            name = broker.first_failure() => Err(RunError::PartDied(name)),
        };
        tracing::info!("stopping");
        self.state.draining.store(true, Ordering::Release);
        let drained = timeout(self.grace, async {
            // Consoles would keep their connections for ever.
            self.state.live.close();
            handle.stop(true).await;
            broker.stop().await;
        });
        if drained.await.is_err() {
            tracing::warn!(grace = ?self.grace, "not everything ended in time");
        }
        ticker.abort();
        upkeep.abort();
        if let Some(sweeper) = sweeper {
            sweeper.abort();
        }
        if let Some(simulator) = self.simulator {
            simulator.stop(false).await;
        }
        for arbiter in self.arbiters {
            arbiter.stop();
        }
        server.await.map_or(Ok(()), |served| served)?;
        ended
    }
}

/// A client for the store of the settings, and the engine behind it if it is embedded.
pub async fn open_store(settings: &RawStoreSettings) -> Result<(DynamoClient, Option<EmbeddedEngine>), OpenError> {
    let engine = match settings.broker_store {
        StoreKind::Embedded => EmbeddedEngine::on_disk(&settings.broker_data_dir)?,
        StoreKind::Memory => EmbeddedEngine::in_memory()?,
        StoreKind::Dynamodb => {
            let (region, url) = (settings.aws_region.clone(), settings.ddb_endpoint_url.clone());
            return Ok((DynamoClient::connect(region, url).await, None));
        }
    };
    Ok((engine.dynamo_client(), Some(engine)))
}

fn csp(settings: &Settings) -> Result<(Arc<dyn CspClient>, Option<ServerHandle>), StartError> {
    let (base_url, token, simulator) = match &settings.csp {
        CspSettings::Http { base_url, token } => (base_url.clone(), token.clone(), None),
        CspSettings::Sim { sandboxes } => {
            // The token keeps others on this machine from playing with the simulator; nobody needs to know it.
            let token = SecretString::from(uuid::Uuid::new_v4().to_string());
            let is_durable = settings.raw.store.broker_store == StoreKind::Embedded;
            let simulator = Simulator::bind(SimulatorSettings {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                sandboxes: *sandboxes,
                token: token.clone(),
                state_file: is_durable.then(|| settings.raw.store.broker_data_dir.join("csp-sim.json")),
            })
            .map_err(StartError::Simulator)?;
            let base_url = Url::parse(&format!("http://{}", simulator.address())).expect("an address makes a URL");
            let handle = simulator.handle();
            actix_web::rt::spawn(simulator.run());
            (base_url, token, Some(handle))
        }
    };
    let connect_timeout = Duration::from_secs(settings.raw.csp_timeout_connect_sec);
    let read_timeout = Duration::from_secs(settings.raw.csp_timeout_read_sec);
    Ok((Arc::new(HttpCsp::new(base_url, &token, connect_timeout, read_timeout)?), simulator))
}

fn broker_settings(settings: &Settings) -> BrokerSettings {
    let raw = &settings.raw;
    BrokerSettings {
        replica: ReplicaId::new(&settings.replica_id),
        jitter_seed: fastrand::u64(..),
        allocation: AllocationSettings {
            lab_duration: settings.lab_duration,
            timeout: Duration::from_millis(raw.allocate_timeout_ms),
            max_in_flight: raw.max_in_flight as usize,
            retry: RetryPolicy {
                base: Duration::from_millis(raw.backoff_base_ms),
                max: Duration::from_millis(raw.backoff_max_ms),
            },
        },
        grace: settings.grace,
        pool_refresh_interval: Duration::from_secs(raw.pool_refresh_interval_sec),
        low_water: raw.k_candidates as usize,
        sync_interval: Duration::from_secs(raw.sync_interval_sec),
        sync: SyncSettings {
            max_stale_percent: raw.sync_max_stale_percent,
            deleted_retention: settings.deleted_retention,
        },
        breaker: BreakerSettings {
            threshold: raw.circuit_breaker_threshold,
            timeout: Duration::from_secs(raw.circuit_breaker_timeout_sec),
        },
        cleanup_interval: Duration::from_secs(raw.cleanup_interval_sec),
        cleanup: CleanupSettings {
            concurrency: raw.cleanup_concurrency as usize,
            delay: settings.cleanup_delay,
            max_attempts: raw.deletion_retry_max_attempts,
            deleted_retention: settings.deleted_retention,
        },
        expiry_interval: Duration::from_secs(raw.auto_expiry_interval_sec),
        stale_interval: Duration::from_secs(raw.stale_interval_sec),
        stats_interval: Duration::from_secs(if settings.raw.store.broker_store == StoreKind::Dynamodb {
            60
        } else {
            2
        }),
        stale_grace: settings.stale_grace,
        job_lease: Duration::from_secs(raw.job_lease_sec),
        control_poll: Duration::from_secs(raw.control_poll_sec),
        // Half of the grace period is for requests, so a quarter leaves time to give leases back.
        stop_timeout: Duration::from_secs(raw.shutdown_grace_sec) / 4,
    }
}

/// Does for the embedded store what DynamoDB does by itself: removes items whose TTL is over.
async fn sweep(engine: EmbeddedEngine) {
    let mut ticks = interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        let engine = engine.clone();
        match web::block(move || engine.sweep_ttl()).await {
            Ok(Ok(removed)) => tracing::debug!(removed, "expired items removed"),
            Ok(Err(error)) => tracing::warn!(%error, "expired items could not be removed"),
            Err(_) => tracing::warn!("the sweep of expired items was cut off"),
        }
    }
}

/// The machine's time of day.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the time of day")]
    fn now_millis(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
