//! What probes, scrapers and browsers read. Open to everyone and never rate limited.

use std::collections::BTreeMap;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, HeaderValue, VARY};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Responder, web};
use broker_actors::broker::Broker;
use broker_actors::ports::Clock;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;

use super::body::Timestamp;
use crate::http::middleware::rate_limit::RateLimit;
use crate::http::operation::{OperationParts, Output};
use crate::http::ui::assets::Page;
use crate::metrics::scrape;
use crate::telemetry;

const READY: &str = "ready";

/// The process is alive
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// Always `healthy`
    status: &'static str,
    timestamp: Timestamp,
}

impl Health {
    fn at(timestamp: Timestamp) -> Self {
        Self { status: "healthy", timestamp }
    }

    pub(crate) fn example() -> Self {
        Self::at(Timestamp::example())
    }
}

pub(crate) async fn healthz(clock: web::Data<dyn Clock>) -> web::Json<Health> {
    web::Json(Health::at(clock.now().into()))
}

type Checks = Vec<(&'static str, Result<(), String>)>;

/// Whether this replica can serve requests
#[derive(Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `not_ready`
    status: &'static str,
    timestamp: Timestamp,
    /// The result of each check: `ok`, or what is wrong
    checks: BTreeMap<&'static str, String>,
}

impl Readiness {
    fn new(checks: Checks, timestamp: Timestamp) -> Self {
        let is_ready = checks.iter().all(|(_, check)| check.is_ok());
        let result = |check: Result<(), String>| check.err().unwrap_or_else(|| "ok".to_owned());
        let checks = checks.into_iter().map(|(name, check)| (name, result(check))).collect();
        Self { status: if is_ready { READY } else { "not_ready" }, timestamp, checks }
    }

    pub(crate) fn example() -> Self {
        Self::with_store(Ok(()))
    }

    fn with_store(check: Result<(), String>) -> Self {
        let checks = vec![("actors", Ok(())), ("dynamodb", check), ("pool", Ok(()))];
        Self::new(checks, Timestamp::example())
    }
}

impl Responder for Readiness {
    type Body = BoxBody;

    /// The body is not in the form of an error, so that the log of a probe shows what fails.
    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let status = if self.status == READY { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        HttpResponseBuilder::new(status).json(self)
    }
}

impl Output for Readiness {
    fn document(parts: &mut OperationParts) {
        parts.answers_json::<Self>(200, "The replica can serve requests");
        let example = serde_json::to_value(Self::with_store(Err("unavailable".to_owned()))).ok();
        let description = "The replica is starting, stopping or impaired";
        parts.answers_json_named::<Self>(503, description, Self::name().into_owned(), example);
    }
}

pub(crate) async fn readyz(
    broker: web::Data<Broker>,
    clock: web::Data<dyn Clock>,
    stopping: web::Data<CancellationToken>,
) -> Readiness {
    let mut checks = broker.checks().await;
    if stopping.is_cancelled() {
        checks.push(("draining", Err("this replica is stopping".to_owned())));
    }
    Readiness::new(checks, clock.now().into())
}

/// Metrics in Prometheus's text format.
pub(crate) struct MetricsText(String);

impl Responder for MetricsText {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(self.0)
    }
}

impl Output for MetricsText {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["text/plain"], Type::String, "Metrics in Prometheus's text format");
    }
}

pub(crate) async fn metrics(limit: web::Data<RateLimit>, broker: web::Data<Broker>) -> MetricsText {
    metrics::counter!("broker_log_lines_dropped_total").absolute(telemetry::dropped_lines());
    metrics::gauge!("broker_rate_limit_clients").set(limit.clients() as f64);
    metrics::gauge!("broker_allocations_in_flight").set(broker.allocator().in_flight() as f64);
    if let Some(pool) = broker.pool_snapshot().await {
        metrics::gauge!("broker_pool_cached").set(pool.cached as f64);
        if let Some(age) = pool.age_seconds {
            metrics::gauge!("broker_pool_cache_age_seconds").set(age as f64);
        }
    }
    MetricsText(scrape())
}

/// The service
#[derive(Serialize, ToSchema)]
pub(crate) struct Service {
    service: &'static str,
    version: &'static str,
    /// Paths to start from
    links: BTreeMap<&'static str, &'static str>,
}

impl Service {
    pub(crate) fn this() -> Self {
        Self {
            service: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            links: BTreeMap::from([
                ("docs", "/v1/docs"),
                ("openapi", "/v1/openapi.json"),
                ("console", "/console"),
                ("allocate", "/v1/allocate"),
                ("health", "/healthz"),
                ("readiness", "/readyz"),
                ("metrics", "/metrics"),
            ]),
        }
    }
}

/// The links of the service: a page for browsers, JSON for programs.
pub(crate) struct Root {
    is_page: bool,
}

impl Responder for Root {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let mut answer = if self.is_page {
            Page::new(include_str!("../ui/root.html").to_owned()).respond_to(request)
        } else {
            web::Json(Service::this()).respond_to(request).map_into_boxed_body()
        };
        answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        answer
    }
}

impl Output for Root {
    fn document(parts: &mut OperationParts) {
        web::Json::<Service>::document(parts);
    }
}

pub(crate) async fn root(request: HttpRequest) -> Root {
    let accepted = request.headers().get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    Root { is_page: accepted.is_some_and(|accepted| accepted.contains("text/html")) }
}
