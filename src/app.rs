//! The wiring: settings in, a running broker out.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::Arbiter;
use actix_web::dev::{Server, ServerHandle};
use actix_web::web;
use broker_actors::allocation::AllocationSettings;
use broker_actors::breaker::BreakerSettings;
use broker_actors::broker::Broker;
use broker_actors::error::Chain;
use broker_actors::jobs::cleanup::CleanupSettings;
use broker_actors::jobs::csp_sync::SyncSettings;
use broker_actors::ports::{Clock, CspClient, PreDelete, StoreError};
use broker_actors::retry::RetryPolicy;
use broker_actors::sandbox::{ReplicaId, UnixMillis};
use broker_actors::start::{BrokerSettings, Ports};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use url::Url;

use crate::config::tokens::TokenSources;
use crate::config::{BadSettings, CspSource, Settings, StoreKind, StoreSettings};
use crate::csp::niosxaas::Niosxaas;
use crate::csp::simulator::{Simulator, SimulatorSettings};
use crate::csp::{CspConfigError, HttpCsp};
use crate::dynamo::embedded::{EmbeddedEngine, OpenError};
use crate::dynamo::table::TableError;
use crate::dynamo::table::adopt::create_or_adopt;
use crate::dynamo::table::open::open_table;
use crate::dynamo::{DynamoClient, DynamoStore};
use crate::http::{self, AppState, Listeners};
use crate::metrics;
use crate::token_reload;

/// How often expired items are removed from the embedded store.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(#[from] BadSettings),
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}; set BROKER_HOST and BROKER_PORT to a free address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system reported.
        source: io::Error,
    },
    /// The same for the operators' port.
    #[error("cannot listen for operators; set BROKER_ADMIN_PORT to a free port")]
    ListenForOperators {
        /// What the system reported.
        source: io::Error,
    },
    /// The simulated CSP did not start.
    #[error("the simulated CSP cannot start")]
    Simulator(#[source] io::Error),
    /// The embedded store did not open.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// The table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The store does not answer.
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    /// The CSP's client cannot be built.
    #[error(transparent)]
    Csp(#[from] CspConfigError),
}

/// Why the broker ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part that the broker cannot do without failed.
    #[error("{0} failed")]
    PartFailed(&'static str),
    /// The HTTP server failed.
    #[error("the HTTP server failed")]
    Server(#[from] io::Error),
}

/// A broker that is ready to run.
pub struct Application {
    /// Where the server listens. It is known before the server runs, also if the settings ask for any free port.
    address: SocketAddr,
    /// The same for operators, if they have a port of their own.
    admin_address: Option<SocketAddr>,
    /// The HTTP server, bound but not serving. The shutdown ends it before the jobs, so that every request it accepted
    /// finds a working broker.
    server: Server,
    /// The broker, and what the server's workers share beside it. The shutdown uses it to fail readiness and to stop the
    /// broker.
    state: AppState,
    /// Where the accepted tokens come from. They are read again while the server runs.
    tokens: TokenSources,
    /// The engine of an embedded store. Its thread ends, and its file is closed, with the last handle to it.
    engine: Option<EmbeddedEngine>,
    /// Stops the simulated CSP. The jobs call it, so it ends after them.
    simulator: Option<ServerHandle>,
    /// The thread of the pool manager and the thread of all other actors. They end last, because stopping an arbiter
    /// drops what still runs on it.
    arbiters: [Arbiter; 2],
    /// How long the shutdown waits for requests and jobs in flight.
    grace: Duration,
}

impl Application {
    /// Builds everything and starts the actors. Requests are served once it runs.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        Self::build_on(settings, Arc::new(SystemClock)).await
    }

    /// Builds with another clock than the machine's, for tests of replicas whose clocks differ.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn build_on(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        metrics::recorder();
        let tokens = settings.tokens();
        let entries = tokens.read()?;
        let address = settings.address();
        let cannot_listen = |source| StartError::Listen { address, source };
        let public = TcpListener::bind(address).map_err(cannot_listen)?;
        let address = public.local_addr().map_err(cannot_listen)?;
        let cannot_listen_for_operators = |source| StartError::ListenForOperators { source };
        let operators =
            settings.admin_address().map(TcpListener::bind).transpose().map_err(cannot_listen_for_operators)?;
        let admin_address = operators.as_ref().map(TcpListener::local_addr).transpose();
        let admin_address = admin_address.map_err(cannot_listen_for_operators)?;

        let (client, engine) = open_store(&settings.store).await?;
        let names = settings.store.table_names();
        if engine.is_some() {
            create_or_adopt(&client, &names, settings.allocation.lab_duration(), &*clock).await?;
        }
        let form = open_table(&client.for_tables(), &names).await?;
        let mut store = DynamoStore::new(Arc::new(client), names.table, form);
        if engine.is_some() {
            store = store.with_small_pages();
        } else {
            store.open_connections().await;
        }
        let (csp, simulator) = open_csp(&settings)?;
        let niosxaas = settings
            .csp
            .niosxaas(&settings.secrets.niosxaas_password)
            .map_err(BadSettings)?
            .map(Niosxaas::new)
            .transpose();
        let pre_delete = niosxaas.map_err(CspConfigError::Client)?.map(|step| Arc::new(step) as Arc<dyn PreDelete>);
        let store = Arc::new(store);
        let ports = Ports { store: store.clone(), csp, pre_delete, clock: Arc::clone(&clock) };

        let arbiters = [Arbiter::new(), Arbiter::new()];
        let [pool, background] = [arbiters[0].handle(), arbiters[1].handle()];
        let broker = Broker::start(ports, broker_settings(&settings), &pool, &background).await?;

        let state = AppState::new(broker, clock, entries, store, &settings);
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let server =
            http::server(Listeners { public, operators }, &state, &settings, workers).map_err(cannot_listen)?;
        let grace = settings.server.shutdown_grace;
        Ok(Self { address, admin_address, server, state, tokens, engine, simulator, arbiters, grace })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for operators, if they have a port of their own.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Serves until `stop` completes or a required part fails, then shuts down. The steps are numbered in the code.
    ///
    /// # Errors
    ///
    /// If a required part or the HTTP server failed.
    pub async fn run_until_stopped(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let handle = self.server.handle();
        let server = actix_web::rt::spawn(self.server);
        let broker = self.state.broker.clone();
        // What repeats beside the server until it has ended.
        let mut loops = JoinSet::new();
        let feed = Arc::clone(&self.state.feed);
        loops.spawn_local(async move { feed.run().await });
        let (history, watched) = (Arc::clone(&self.state.history), broker.clone());
        loops.spawn_local(async move { history.run(&watched).await });
        loops.spawn_local(metrics::upkeep());
        loops.spawn_local(token_reload::run(self.tokens, Arc::clone(&self.state.tokens)));
        if let Some(engine) = self.engine {
            loops.spawn_local(sweep(engine));
        }

        let ended = tokio::select! {
            () = stop => Ok(()),
            name = broker.first_failure() => Err(RunError::PartFailed(name)),
        };
        tracing::info!(event = "stopping", "stopping");

        // 1. Readiness fails, so that load balancers send no more requests. Event streams end: a console would keep its
        //    connection open forever.
        self.state.stopping.cancel();
        let drained = timeout(self.grace, async {
            // 2. The server accepts no more connections and answers the requests in flight.
            handle.stop(true).await;
            // 3. The jobs end and give their leases back, so that another replica takes over at once.
            broker.stop().await;
        });
        if drained.await.is_err() {
            tracing::warn!(event = "stop_timeout", grace = ?self.grace, "not everything ended within the grace period");
        }
        // 4. The loops end, and with the sweep its handle to the embedded store.
        loops.shutdown().await;
        // 5. The simulated CSP ends; no job calls it any more.
        if let Some(simulator) = self.simulator {
            simulator.stop(false).await;
        }
        // 6. The actors' threads end.
        for arbiter in self.arbiters {
            arbiter.stop();
        }
        server.await.map_or(Ok(()), |served| served)?;
        ended
    }
}

/// A client for the store, and the engine behind it if the store is embedded.
///
/// # Errors
///
/// If the embedded store cannot be opened.
pub async fn open_store(settings: &StoreSettings) -> Result<(DynamoClient, Option<EmbeddedEngine>), OpenError> {
    let engine = match settings.kind {
        StoreKind::Embedded => EmbeddedEngine::on_disk(&settings.data_dir)?,
        StoreKind::Memory => EmbeddedEngine::in_memory()?,
        StoreKind::Dynamodb => {
            let endpoint_url = settings.endpoint_url.as_ref().map(Url::to_string);
            return Ok((DynamoClient::connect(settings.region.clone(), endpoint_url).await, None));
        }
    };
    Ok((engine.dynamo_client(), Some(engine)))
}

/// A client for the CSP, and what stops the CSP if it is simulated.
fn open_csp(settings: &Settings) -> Result<(Arc<dyn CspClient>, Option<ServerHandle>), StartError> {
    let (base_url, token, simulator) =
        match settings.csp.source(&settings.secrets.csp_api_token).map_err(BadSettings)? {
            CspSource::Http { base_url, token } => (base_url, token, None),
            CspSource::Simulator { sandboxes } => {
                // A random token keeps other programs on this machine out of the simulator.
                let token = SecretString::from(uuid::Uuid::new_v4().to_string());
                let is_durable = settings.store.kind == StoreKind::Embedded;
                let simulator = Simulator::bind(SimulatorSettings {
                    address: SocketAddr::from(([127, 0, 0, 1], 0)),
                    sandboxes,
                    token: token.clone(),
                    state_file: is_durable.then(|| settings.store.data_dir.join("csp-sim.json")),
                })
                .map_err(StartError::Simulator)?;
                let base_url = Url::parse(&format!("http://{}", simulator.address())).expect("an address makes a URL");
                let handle = simulator.handle();
                actix_web::rt::spawn(simulator.run());
                (base_url, token, Some(handle))
            }
        };
    let csp = HttpCsp::new(base_url, &token, settings.csp.connect_timeout, settings.csp.read_timeout)?;
    Ok((Arc::new(csp), simulator))
}

fn broker_settings(settings: &Settings) -> BrokerSettings {
    let Settings { server, csp, allocation, jobs, .. } = settings;
    BrokerSettings {
        replica: server.replica_id.clone().unwrap_or_else(random_replica_id),
        jitter_seed: fastrand::u64(..),
        allocation: AllocationSettings {
            lab_duration: allocation.lab_duration(),
            max_holding: allocation.max_holding(),
            timeout: allocation.timeout,
            max_in_flight: server.max_in_flight,
            retry: RetryPolicy { base: allocation.backoff_base, max: allocation.backoff_max },
        },
        grace: allocation.grace,
        pool_refresh_interval: allocation.pool_refresh_interval,
        low_water: allocation.low_water,
        sync_interval: jobs.sync_interval,
        sync: SyncSettings {
            max_stale_percent: jobs.sync_max_stale_percent,
            min_age: allocation.available_min_age,
            deleted_retention: jobs.deleted_retention(),
        },
        breaker: BreakerSettings { threshold: csp.breaker_threshold, timeout: csp.breaker_timeout },
        cleanup_interval: jobs.cleanup_interval,
        cleanup: CleanupSettings {
            concurrency: jobs.cleanup_concurrency,
            delay: jobs.cleanup_delay,
            give_up: jobs.deletion_give_up,
            max_attempts: jobs.deletion_retry_max_attempts,
            deleted_retention: jobs.deleted_retention(),
        },
        expiry_interval: jobs.expiry_interval,
        stale_interval: jobs.stale_interval,
        stats_interval: jobs.stats_interval,
        stale_grace: jobs.stale_grace,
        job_lease: jobs.job_lease,
        control_poll: jobs.control_poll,
        // A quarter of the grace period for runs leaves time for the requests before and the leases after.
        stop_timeout: server.shutdown_grace / 4,
    }
}

fn random_replica_id() -> ReplicaId {
    let id = uuid::Uuid::new_v4().simple().to_string();
    ReplicaId::new(format!("replica-{}", &id[..8]))
}

/// Removes items whose TTL has passed from the embedded store. DynamoDB does this by itself.
async fn sweep(engine: EmbeddedEngine) {
    let mut ticks = interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        let engine = engine.clone();
        match web::block(move || engine.sweep_ttl()).await {
            Ok(Ok(removed)) => tracing::debug!(event = "ttl_sweep", removed, "expired items removed"),
            Ok(Err(error)) => {
                tracing::warn!(event = "ttl_sweep_failed", error = %Chain(&error), "expired items could not be removed");
            }
            Err(error) => {
                tracing::warn!(event = "ttl_sweep_failed", error = %Chain(&error), "the sweep of expired items was cancelled");
            }
        }
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the time of day")]
    fn now_millis(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
