//! The HTTP server: the API, the operators' console and the API documentation.
//!
//! `routes` is the one table of endpoints and [`error`] the one table of error codes. `connection` bounds what a connection
//! may cost, `middleware` is what requests and answers pass, `api` and `ui` hold the handlers, and `openapi` documents
//! them.

mod api;
mod client_address;
mod connection;
mod endpoint;
pub mod error;
mod middleware;
mod openapi;
mod operation;
mod request_context;
mod routes;
mod ui;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use actix_cors::Cors;
use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use broker_actors::broker::Broker;
use broker_actors::ports::Clock;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::path::ParameterIn;

pub use self::api::events::EventFeed;
use self::api::headers::RequireTrackSecret;
use self::client_address::TrustedProxies;
use self::endpoint::Surface;
pub use self::endpoint::{Endpoint, Method};
use self::error::ErrorForm;
pub use self::middleware::auth;
use self::middleware::auth::Tokens;
use self::middleware::rate_limit::RateLimit;
use self::middleware::{access_log, body, canonical_path, error_format, request_id, security_headers};
pub use self::routes::ENDPOINTS;
use self::ui::docs::Document;
use crate::audit::AuditLog;
use crate::config::tokens::TokenEntry;
use crate::config::{ANY_ORIGIN, Settings};
use crate::dynamo::DynamoStore;
use crate::stats_history::StatsHistory;

/// What the handlers share with the application around the server.
pub struct AppState {
    /// The broker.
    pub broker: Broker,
    /// What consoles follow. It must be run beside the server.
    pub feed: Arc<EventFeed>,
    /// The operators' orders.
    pub audit: Arc<AuditLog>,
    /// What charts are drawn of. It must be run beside the server.
    pub history: Arc<StatsHistory>,
    /// Cancelled when the broker starts to stop: readiness fails from then on, and event streams end.
    pub stopping: CancellationToken,
    /// The tokens that are accepted.
    pub tokens: Arc<Tokens>,
    clock: Arc<dyn Clock>,
}

impl AppState {
    /// The state around this broker, which uses this table.
    pub fn new(
        broker: Broker,
        clock: Arc<dyn Clock>,
        tokens: Vec<TokenEntry>,
        store: Arc<DynamoStore>,
        settings: &Settings,
    ) -> Self {
        let tokens = Arc::new(Tokens::new(tokens));
        let stopping = CancellationToken::new();
        let feed = Arc::new(EventFeed::new(broker.clone(), Arc::clone(&clock), stopping.clone()));
        let (replica, retention) = (broker.replica().clone(), settings.jobs.audit_retention);
        let audit = Arc::new(AuditLog::new(Arc::clone(&store), Arc::clone(&clock), replica, retention));
        let history = Arc::new(StatsHistory::new(store, Arc::clone(&clock)));
        Self { broker, feed, audit, history, stopping, tokens, clock }
    }
}

/// The sockets of a server.
#[derive(Debug)]
pub struct Listeners {
    /// For everyone.
    pub public: TcpListener,
    /// For operators, if they have a port of their own.
    pub operators: Option<TcpListener>,
}

/// The server on these sockets. It installs no signal handlers; its owner stops it.
pub fn server(listeners: Listeners, state: &AppState, settings: &Settings, workers: usize) -> io::Result<Server> {
    let broker = web::Data::new(state.broker.clone());
    let feed = web::Data::from(Arc::clone(&state.feed));
    let audit = web::Data::from(Arc::clone(&state.audit));
    let history = web::Data::from(Arc::clone(&state.history));
    let clock = web::Data::from(Arc::clone(&state.clock));
    let stopping = web::Data::new(state.stopping.clone());
    let tokens = web::Data::from(Arc::clone(&state.tokens));
    let rate_limit = web::Data::new(RateLimit::new(settings));
    let trusted_proxies = web::Data::new(TrustedProxies(settings.server.trusted_proxies));
    let require_track_secret = RequireTrackSecret(settings.allocation.require_track_secret);
    let error_form = ErrorForm { with_detail: settings.server.compat_error_detail };
    let document = web::Data::new(Document::new(document));
    let origins = settings.server.cors_allowed_origins.clone();
    let surfaces = match listeners.operators {
        None => vec![(listeners.public, Surface::All)],
        Some(operators) => vec![(listeners.public, Surface::Public), (operators, Surface::Operators)],
    };
    let limits = connection::Limits {
        // Behind a proxy, all connections come from its addresses.
        is_shared_by_address: settings.server.trusted_proxies == 0,
        is_probe: routes::is_probe,
        error_form,
        grace_seconds: settings.server.shutdown_grace.as_secs(),
    };
    connection::serve(surfaces, workers, limits, move |surface| {
        App::new()
            .app_data(rate_limit.clone())
            .app_data(broker.clone())
            .app_data(feed.clone())
            .app_data(audit.clone())
            .app_data(history.clone())
            .app_data(clock.clone())
            .app_data(stopping.clone())
            .app_data(tokens.clone())
            .app_data(trusted_proxies.clone())
            .app_data(require_track_secret)
            .app_data(error_form)
            .app_data(document.clone())
            .app_data(web::PayloadConfig::new(body::MAX_BODY_BYTES))
            // The last one wrapped is the first to see a request and the last to see its answer.
            .wrap(from_fn(canonical_path::require))
            .wrap(cors(&origins))
            .wrap(from_fn(error_format::format))
            .wrap(from_fn(access_log::record))
            .wrap(from_fn(security_headers::add))
            .wrap(from_fn(request_id::assign))
            .configure(|services| routes::register(services, surface))
    })
}

fn document() -> String {
    openapi::document().to_pretty_json().expect("the document holds only what JSON can")
}

fn cors(origins: &[String]) -> Cors {
    let parameters = ENDPOINTS.iter().flat_map(|endpoint| endpoint.parts().parameters);
    let headers = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Header);
    let cors = Cors::default()
        .allowed_methods(ENDPOINTS.iter().map(|endpoint| actix_web::http::Method::from(endpoint.method)))
        .allowed_headers(headers.map(|header| header.name))
        .allowed_headers(["Authorization", "Content-Type", "X-Request-ID"])
        .expose_headers([
            "Retry-After",
            "X-Request-ID",
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
        ])
        // A request from another origin is answered without CORS headers, and the browser blocks the page from reading
        // the answer.
        .block_on_origin_mismatch(false)
        .max_age(600);
    if origins.iter().any(|origin| origin == ANY_ORIGIN) {
        return cors.allow_any_origin().send_wildcard();
    }
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
