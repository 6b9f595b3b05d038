//! What probes, scrapers and the curious ask for; open to all and never rate limited.

use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

use super::AppState;
use crate::telemetry;

/// `GET /healthz`: the process lives.
pub(super) async fn healthz(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "healthy", "timestamp": state.clock.now() }))
}

/// `GET /readyz`: this replica can serve.
pub(super) async fn readyz(state: web::Data<AppState>) -> HttpResponse {
    let mut checks = state.broker.checks().await;
    if state.draining.load(Ordering::Acquire) {
        checks.push(("draining", Err("this replica is stopping".to_owned())));
    }
    let is_ready = checks.iter().all(|(_, check)| check.is_ok());
    let checks: Map<String, Value> = checks
        .into_iter()
        .map(|(name, check)| (name.to_owned(), Value::from(check.err().unwrap_or_else(|| "ok".to_owned()))))
        .collect();
    let status = if is_ready { "ready" } else { "not_ready" };
    let body = json!({ "status": status, "timestamp": state.clock.now(), "checks": checks });
    // The body is the answer here, not the one error form, so that a probe's log shows what fails.
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// `GET /metrics`
pub(super) async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    metrics::gauge!("broker_allocations_in_flight").set(state.broker.allocator().in_flight() as f64);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(telemetry::metrics().render())
}

/// `GET /`
pub(super) async fn root() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "service": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "links": {
            "allocate": "/v1/allocate",
            "actors": "/v1/admin/actors",
            "stats": "/v1/admin/stats",
            "health": "/healthz",
            "readiness": "/readyz",
            "metrics": "/metrics",
        },
    }))
}
