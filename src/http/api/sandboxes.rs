//! The track API: allocate, read, renew, give back.

use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Responder, web};
use broker_actors::allocation::{AllocateError, AllocateRequest, Allocation};
use broker_actors::broker::Broker;
use tokio::time::Instant;

use super::body::{Claim, OwnSandbox, Released, Renewed};
use super::events::EventFeed;
use super::headers::{AllocateHeaders, Minutes, OwnPath};
use super::input::Head;
use crate::http::connection::peer_closed;
use crate::http::error::ApiError;
use crate::http::middleware::auth;
use crate::http::operation::{OperationParts, Output};
use crate::http::request_context::RequestContext;

pub(crate) async fn allocate(
    broker: web::Data<Broker>,
    feed: web::Data<EventFeed>,
    request: HttpRequest,
    Head(headers): Head<AllocateHeaders>,
) -> Result<Allocated, ApiError> {
    let AllocateHeaders { owner, track_name, key, name_prefix, lab_duration, standby, wait } = headers;
    let caller = auth::caller(&request);
    if let Some(caller) = &caller {
        caller.check_bounds(track_name.as_deref(), name_prefix.as_deref())?;
    }
    let quota = caller.and_then(|caller| caller.quota());
    let started = Instant::now();
    let wanted = AllocateRequest { owner, track_name, key, name_prefix, lab_duration, standby, wait, quota };
    let answer = broker.allocator().allocate_while(wanted, peer_closed(&request)).await;
    let outcome = outcome_of(&answer);
    metrics::counter!("broker_allocate_total", "outcome" => outcome).increment(1);
    // Whoever waits for a sandbox does not wait for the broker.
    let waited = answer.as_ref().map_or(Duration::ZERO, |allocation| allocation.waited);
    let latency = started.elapsed().saturating_sub(waited);
    if waited.is_zero() {
        metrics::histogram!("broker_allocation_latency_seconds", "outcome" => outcome).record(latency.as_secs_f64());
    }
    if outcome == "replayed" {
        metrics::counter!("broker_allocate_idempotent_hits_total").increment(1);
    }
    RequestContext::add(&request, |context| {
        context.outcome = Some(outcome);
        context.waited = (!waited.is_zero()).then_some(waited);
        context.sandbox_id = answer.as_ref().ok().map(|allocation| allocation.claim.sandbox_id.to_string());
    });
    let allocation = answer?;
    feed.record_allocation(latency);
    Ok(Allocated { allocation, applied_wait: wait })
}

/// A new sandbox, or the one that the key already holds.
pub(crate) struct Allocated {
    allocation: Allocation,
    /// The wait that the client preferred.
    applied_wait: Option<Duration>,
}

impl Responder for Allocated {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let status = if self.allocation.replayed { StatusCode::OK } else { StatusCode::CREATED };
        let mut answer = HttpResponseBuilder::new(status);
        if let Some(wait) = self.applied_wait {
            answer.insert_header(("Preference-Applied", format!("wait={}", wait.as_secs())));
        }
        answer.json(Claim::from(self.allocation.claim))
    }
}

impl Output for Allocated {
    fn document(parts: &mut OperationParts) {
        parts.answers_json::<Claim>(201, "A new sandbox, which only this track holds");
        parts.answers_json::<Claim>(200, "The sandbox that this key already holds");
    }
}

pub(crate) async fn read(
    broker: web::Data<Broker>,
    Head(OwnPath { sandbox_id, owner }): Head<OwnPath>,
) -> Result<web::Json<OwnSandbox>, ApiError> {
    let sandbox = broker.allocator().read(&sandbox_id, &owner).await?;
    Ok(web::Json(sandbox.into()))
}

pub(crate) async fn renew(
    broker: web::Data<Broker>,
    Head(OwnPath { sandbox_id, owner }): Head<OwnPath>,
    Head(Minutes(duration)): Head<Minutes>,
) -> Result<web::Json<Renewed>, ApiError> {
    let renewed = broker.allocator().renew(&sandbox_id, &owner, duration).await?;
    Ok(web::Json(renewed.into()))
}

pub(crate) async fn mark_for_deletion(
    broker: web::Data<Broker>,
    Head(OwnPath { sandbox_id, owner }): Head<OwnPath>,
) -> Result<web::Json<Released>, ApiError> {
    let released = broker.allocator().release(&sandbox_id, &owner).await;
    let outcome = if released.is_ok() { "ok" } else { "error" };
    metrics::counter!("broker_deletion_marked_total", "outcome" => outcome).increment(1);
    let released = released?;
    Ok(web::Json(Released::new(released.sandbox_id, released.deletion_requested_at)))
}

fn outcome_of(answer: &Result<Allocation, AllocateError>) -> &'static str {
    match answer {
        Ok(allocation) if allocation.replayed => "replayed",
        Ok(_) => "allocated",
        Err(AllocateError::NoneAvailable) => "none_available",
        Err(AllocateError::Waiting(_)) => "waiting",
        Err(AllocateError::QueueFull { .. }) => "queue_full",
        Err(AllocateError::Withdrawn) => "withdrawn",
        Err(AllocateError::TooLong { .. }) => "too_long",
        Err(AllocateError::NotOwner) => "not_owner",
        Err(AllocateError::QuotaExceeded(_)) => "quota_exceeded",
        Err(AllocateError::Paused) => "paused",
        Err(AllocateError::Overloaded { .. }) => "overloaded",
        Err(AllocateError::TimedOut { .. }) => "timed_out",
        Err(AllocateError::NotReadInFull) => "not_read_in_full",
        Err(AllocateError::Stopping) => "stopping",
        Err(AllocateError::Store(_)) => "store_error",
    }
}
