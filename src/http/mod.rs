//! The HTTP side: one route table ([`ENDPOINTS`]), one file for each kind of resource, and what all requests share
//! (`connections`, [`mod@edge`], [`auth`], [`mod@error`]).

mod admin;
mod assets;
pub mod auth;
mod connections;
mod console;
mod docs;
pub mod edge;
pub mod error;
pub mod events;
mod headers;
mod observability;
pub mod openapi;
mod sandboxes;
mod state;
mod throughput;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix_cors::Cors;
use actix_http::HttpService;
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::{AppConfig, Server};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, Route, web};
use broker_actors::broker::Broker;
use broker_actors::ports::Clock;

use self::auth::Role::{self, Admin, Public, Track};
use self::auth::{MAX_BODY_BYTES, RateLimit, Tokens, admit};
use self::connections::{Connection, Connections, KEEP_ALIVE, LINGER, REFUSED_AT_ONCE, SEND_BUFFER_BYTES};
use self::edge::edge;
use self::events::Live;
use crate::config::Settings;

/// What handlers share.
pub struct AppState {
    /// The broker's mind.
    pub broker: Broker,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Who may call.
    pub tokens: Tokens,
    /// How often; `None` if that does not matter.
    pub rate_limit: Option<RateLimit>,
    /// So many proxies before us are believed.
    pub trusted_proxies: usize,
    /// What consoles watch.
    pub live: Live,
    /// Set once the broker stops; readiness fails from then on.
    pub draining: AtomicBool,
}

impl AppState {
    /// The state of a broker with these settings.
    pub fn new(broker: Broker, clock: Arc<dyn Clock>, settings: &Settings) -> Self {
        Self {
            broker,
            clock,
            tokens: Tokens::new(settings),
            rate_limit: RateLimit::new(settings),
            trusted_proxies: settings.server.trusted_proxies,
            live: Live::new(),
            draining: AtomicBool::new(false),
        }
    }
}

/// One row of the route table.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The method.
    pub method: &'static str,
    /// The path, with `{placeholders}`.
    pub path: &'static str,
    /// What it is called in logs and journals.
    pub action: &'static str,
    /// Who may call it.
    pub role: Role,
    route: fn() -> Route,
}

impl Endpoint {
    /// Whether an operator changes something by it.
    pub fn is_order(&self) -> bool {
        self.role == Admin && self.method == "POST"
    }

    /// The endpoint that answers this method on this path of the table.
    pub(crate) fn find(method: &Method, path: &str) -> Option<&'static Self> {
        ENDPOINTS.iter().find(|endpoint| endpoint.path == path && endpoint.method == method.as_str())
    }
}

const fn get(action: &'static str, role: Role, path: &'static str, route: fn() -> Route) -> Endpoint {
    Endpoint { method: "GET", path, action, role, route }
}

const fn post(action: &'static str, role: Role, path: &'static str, route: fn() -> Route) -> Endpoint {
    Endpoint { method: "POST", path, action, role, route }
}

/// The route table: every endpoint there is.
pub const ENDPOINTS: &[Endpoint] = &[
    get("root", Public, "/", || web::get().to(observability::root)),
    get("health", Public, "/healthz", || web::get().to(observability::healthz)),
    get("readiness", Public, "/readyz", || web::get().to(observability::readyz)),
    get("metrics", Public, "/metrics", || web::get().to(observability::metrics)),
    get("console", Public, "/console", || web::get().to(console::page)),
    get("console", Public, "/console/{asset}", || web::get().to(console::asset)),
    get("docs", Public, "/v1/docs", || web::get().to(docs::page)),
    get("docs", Public, "/v1/docs/{asset}", || web::get().to(docs::asset)),
    get("openapi", Public, "/v1/openapi.json", || web::get().to(docs::document)),
    post("allocate", Track, "/v1/allocate", || web::post().to(sandboxes::allocate)),
    get("read", Track, "/v1/sandboxes/{id}", || web::get().to(sandboxes::read)),
    post("renew", Track, "/v1/sandboxes/{id}/renew", || web::post().to(sandboxes::renew)),
    post("mark-for-deletion", Track, "/v1/sandboxes/{id}/mark-for-deletion", || {
        web::post().to(sandboxes::mark_for_deletion)
    }),
    get("stats", Admin, "/v1/admin/stats", || web::get().to(admin::stats)),
    get("list", Admin, "/v1/admin/sandboxes", || web::get().to(admin::list)),
    post("force-release", Admin, "/v1/admin/sandboxes/{id}/release", || web::post().to(admin::release)),
    post("retry-deletion", Admin, "/v1/admin/sandboxes/{id}/retry-deletion", || web::post().to(admin::retry_deletion)),
    post("sync", Admin, "/v1/admin/sync", || web::post().to(admin::sync)),
    post("cleanup", Admin, "/v1/admin/cleanup", || web::post().to(admin::cleanup)),
    post("auto-expire", Admin, "/v1/admin/auto-expire", || web::post().to(admin::auto_expire)),
    post("auto-delete-stale", Admin, "/v1/admin/auto-delete-stale", || web::post().to(admin::auto_delete_stale)),
    post("bulk-delete", Admin, "/v1/admin/bulk-delete", || web::post().to(admin::bulk_delete)),
    get("actors", Admin, "/v1/admin/actors", || web::get().to(admin::actors)),
    get("actor", Admin, "/v1/admin/actors/{name}", || web::get().to(admin::actor)),
    post("pause", Admin, "/v1/admin/actors/{name}/pause", || web::post().to(admin::pause)),
    post("resume", Admin, "/v1/admin/actors/{name}/resume", || web::post().to(admin::resume)),
    post("run", Admin, "/v1/admin/actors/{name}/run", || web::post().to(admin::run)),
    get("events", Admin, "/v1/admin/events", || web::get().to(events::events)),
];

fn routes(services: &mut web::ServiceConfig) {
    let mut by_path: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in ENDPOINTS {
        by_path.entry(endpoint.path).or_default().push(endpoint);
    }
    for (path, endpoints) in by_path {
        let allowed = endpoints.iter().map(|endpoint| endpoint.method).collect::<Vec<_>>().join(", ");
        let mut resource = web::resource(path).default_service(web::to(move || {
            let answer = HttpResponse::MethodNotAllowed().insert_header(("Allow", allowed.clone())).finish();
            std::future::ready(answer)
        }));
        for endpoint in &endpoints {
            resource = resource.route((endpoint.route)());
        }
        match endpoints[0].role {
            Role::Public => services.service(resource),
            role => services.service(resource.wrap(from_fn(move |request, next| admit(role, request, next)))),
        };
    }
}

/// The server on this socket. It installs no signal handlers; whoever runs it stops it.
pub fn server(
    listener: TcpListener,
    state: web::Data<AppState>,
    settings: &Settings,
    workers: usize,
) -> io::Result<Server> {
    let origins = settings.server.cors_allowed_origins.clone();
    let grace = settings.server.shutdown_grace.as_secs();
    let connections = Connections::new();
    let server = Server::build();
    let stopping = server.graceful_shutdown_signal();
    let server = server
        .workers(workers)
        .max_concurrent_connections(connections.limit() + REFUSED_AT_ONCE)
        .shutdown_timeout(grace)
        .disable_signals()
        // What `HttpServer` would do as well, but on sockets that bound what their peers may do.
        .listen("http", listener, move || {
            let app = App::new()
                .app_data(state.clone())
                .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
                .wrap(cors(&origins))
                .wrap(from_fn(edge))
                .configure(routes);
            let stopping = stopping.clone();
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                // The connection has a timer of its own, for every head and not only for the first.
                .client_request_timeout(Duration::ZERO)
                .client_disconnect_timeout(LINGER)
                .h1_write_buffer_size(SEND_BUFFER_BYTES)
                .keep_alive(KEEP_ALIVE)
                .on_connect_ext(Connection::introduce)
                .finish(map_config(app, |()| AppConfig::default()));
            let connections = connections.clone();
            fn_service(move |socket| connections.clone().admit(socket)).and_then(http)
        })?
        .run();
    Ok(server)
}

fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods([Method::GET, Method::POST])
        .allowed_headers([
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "Last-Event-ID",
            "X-Track-ID",
            "X-Instruqt-Sandbox-ID",
            "X-Instruqt-Track-ID",
            "X-Sandbox-Name-Prefix",
            "X-Operator",
            "X-Request-ID",
        ])
        .expose_headers([
            "Retry-After",
            "X-Request-ID",
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
        ])
        // Others get no CORS headers, and their browsers draw the conclusion; curl does not mind.
        .block_on_origin_mismatch(false)
        .max_age(600);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
