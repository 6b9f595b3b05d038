//! What probes, scrapers and the curious ask for; open to all and never rate limited.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use broker_actors::sandbox::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::openapi::OBSERVABILITY;
use crate::metrics::recorder;

const READY: &str = "ready";

/// A live process
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `healthy`
    status: &'static str,
    timestamp: Timestamp,
}

/// Tells that the process lives
#[utoipa::path(
    get,
    path = "/healthz",
    tag = OBSERVABILITY,
    responses((status = 200, description = "It lives", body = Health))
)]
pub(super) async fn healthz(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(healthy(state.clock.now()))
}

pub(super) fn healthy(timestamp: Timestamp) -> Health {
    Health { status: "healthy", timestamp }
}

/// Whether this replica can serve
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ready` or `not_ready`
    status: &'static str,
    timestamp: Timestamp,
    /// `ok`, or what is wrong
    checks: BTreeMap<&'static str, String>,
}

/// Tells whether this replica can serve
#[utoipa::path(
    get,
    path = "/readyz",
    tag = OBSERVABILITY,
    responses(
        (status = 200, description = "It can", body = Readiness),
        (
            status = 503,
            description = "It cannot, or not yet, or not any more",
            body = Readiness,
            example = json!({
                "status": "not_ready",
                "timestamp": 1795466985,
                "checks": { "actors": "ok", "dynamodb": "unavailable", "pool": "ok" },
            }),
        ),
    )
)]
pub(super) async fn readyz(state: web::Data<AppState>) -> HttpResponse {
    let mut checks = state.broker.checks().await;
    if state.draining.load(Ordering::Acquire) {
        checks.push(("draining", Err("this replica is stopping".to_owned())));
    }
    let body = readiness(checks, state.clock.now());
    // The body is the answer here, not the one error form, so that a probe's log shows what fails.
    if body.status == READY { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

pub(super) fn readiness(checks: Vec<(&'static str, Result<(), String>)>, timestamp: Timestamp) -> Readiness {
    let is_ready = checks.iter().all(|(_, check)| check.is_ok());
    let checks =
        checks.into_iter().map(|(name, check)| (name, check.err().unwrap_or_else(|| "ok".to_owned()))).collect();
    Readiness { status: if is_ready { READY } else { "not_ready" }, timestamp, checks }
}

/// Gives the metrics of this replica, for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = OBSERVABILITY,
    responses((status = 200, description = "Prometheus's text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    if let Some(limit) = &state.rate_limit {
        metrics::gauge!("broker_rate_limit_clients").set(limit.clients() as f64);
    }
    metrics::gauge!("broker_allocations_in_flight").set(state.broker.allocator().in_flight() as f64);
    if let Some(pool) = state.broker.pool_snapshot().await {
        metrics::gauge!("broker_pool_cached").set(pool.cached as f64);
        metrics::gauge!("broker_pool_cache_age_seconds").set(pool.age_seconds.unwrap_or_default() as f64);
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(recorder().render())
}

/// What this is
#[derive(Serialize, ToSchema)]
pub(super) struct Service {
    service: &'static str,
    version: &'static str,
    /// Where to go on
    links: BTreeMap<&'static str, &'static str>,
}

/// Tells what this is, and where to go on
#[utoipa::path(
    get,
    path = "/",
    tag = OBSERVABILITY,
    responses((status = 200, description = "Name, version, links", body = Service))
)]
pub(super) async fn root() -> HttpResponse {
    HttpResponse::Ok().json(service())
}

pub(super) fn service() -> Service {
    Service {
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
