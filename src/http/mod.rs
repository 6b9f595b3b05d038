//! The HTTP side: one route table ([`ENDPOINTS`]), one file for each kind of resource, and what all requests share
//! ([`mod@edge`], [`access`], [`mod@error`]).

pub mod access;
mod admin;
mod assets;
mod console;
mod docs;
pub mod edge;
pub mod error;
pub mod events;
mod headers;
mod observability;
pub mod openapi;
mod sandboxes;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix_cors::Cors;
use actix_web::dev::Server;
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, HttpServer, Route, web};
use broker_actors::ports::Clock;
use broker_actors::system::Broker;

use self::access::{Access, MAX_BODY_BYTES, RateLimit, Tokens, admit};
use self::edge::edge;
use self::events::Live;
use crate::config::Settings;

/// The longest that a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept; longer than an AWS load balancer keeps its own (60 s), so that the balancer
/// never sends on a connection that is being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Connections of one worker; more wait to be accepted.
const MAX_CONNECTIONS_PER_WORKER: usize = 10_000;

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
            trusted_proxies: settings.raw.trusted_proxies.into(),
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
    /// Who may call it.
    pub access: Access,
    route: fn() -> Route,
}

const fn get(path: &'static str, access: Access, route: fn() -> Route) -> Endpoint {
    Endpoint { method: "GET", path, access, route }
}

const fn post(path: &'static str, access: Access, route: fn() -> Route) -> Endpoint {
    Endpoint { method: "POST", path, access, route }
}

/// The route table: every endpoint there is.
pub const ENDPOINTS: &[Endpoint] = &[
    get("/", Access::Public, || web::get().to(observability::root)),
    get("/healthz", Access::Public, || web::get().to(observability::healthz)),
    get("/readyz", Access::Public, || web::get().to(observability::readyz)),
    get("/metrics", Access::Public, || web::get().to(observability::metrics)),
    get("/console", Access::Public, || web::get().to(console::page)),
    get("/console/{asset}", Access::Public, || web::get().to(console::asset)),
    get("/v1/docs", Access::Public, || web::get().to(docs::page)),
    get("/v1/docs/{asset}", Access::Public, || web::get().to(docs::asset)),
    get("/v1/openapi.json", Access::Public, || web::get().to(docs::document)),
    post("/v1/allocate", Access::Track, || web::post().to(sandboxes::allocate)),
    get("/v1/sandboxes/{id}", Access::Track, || web::get().to(sandboxes::read)),
    post("/v1/sandboxes/{id}/renew", Access::Track, || web::post().to(sandboxes::renew)),
    post("/v1/sandboxes/{id}/mark-for-deletion", Access::Track, || web::post().to(sandboxes::mark_for_deletion)),
    get("/v1/admin/stats", Access::Admin, || web::get().to(admin::stats)),
    get("/v1/admin/sandboxes", Access::Admin, || web::get().to(admin::list)),
    post("/v1/admin/sandboxes/{id}/release", Access::Admin, || web::post().to(admin::release)),
    post("/v1/admin/sandboxes/{id}/retry-deletion", Access::Admin, || web::post().to(admin::retry_deletion)),
    post("/v1/admin/sync", Access::Admin, || web::post().to(admin::sync)),
    post("/v1/admin/cleanup", Access::Admin, || web::post().to(admin::cleanup)),
    post("/v1/admin/auto-expire", Access::Admin, || web::post().to(admin::auto_expire)),
    post("/v1/admin/auto-delete-stale", Access::Admin, || web::post().to(admin::auto_delete_stale)),
    post("/v1/admin/bulk-delete", Access::Admin, || web::post().to(admin::bulk_delete)),
    get("/v1/admin/actors", Access::Admin, || web::get().to(admin::actors)),
    get("/v1/admin/actors/{name}", Access::Admin, || web::get().to(admin::actor)),
    post("/v1/admin/actors/{name}/pause", Access::Admin, || web::post().to(admin::pause)),
    post("/v1/admin/actors/{name}/resume", Access::Admin, || web::post().to(admin::resume)),
    get("/v1/admin/events", Access::Admin, || web::get().to(events::events)),
    post("/v1/admin/actors/{name}/run", Access::Admin, || web::post().to(admin::run)),
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
        match endpoints[0].access {
            Access::Public => services.service(resource),
            access => services.service(resource.wrap(from_fn(move |request, next| admit(access, request, next)))),
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
    let origins = settings.raw.cors_allowed_origins.clone();
    let grace = settings.raw.shutdown_grace_sec;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
            .wrap(cors(&origins))
            .wrap(from_fn(edge))
            .configure(routes)
    })
    .workers(workers)
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .max_connections(MAX_CONNECTIONS_PER_WORKER)
    .shutdown_timeout(grace)
    .disable_signals()
    .listen(listener)?
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
