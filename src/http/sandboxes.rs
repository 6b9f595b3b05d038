//! The track API: allocate, read, renew, give back.

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use broker_actors::allocation::{AllocateError, AllocateRequest, Allocation};
use broker_actors::sandbox::{Claim, Sandbox, SandboxId, Status, Timestamp, TrackId};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::AppState;
use super::edge::RequestContext;
use super::error::ApiError;
use super::headers::{AllocateHeaders, allocate_headers, sandbox_id, track_of};
use super::openapi::{AllocateHeaderParams, SANDBOXES, SandboxPath};

/// Allocates a sandbox
///
/// The same request again, on any replica, answers with the same sandbox (`200`), so that it may be repeated until it
/// is answered. Another `Idempotency-Key` of the same caller gets another sandbox.
#[utoipa::path(
    post,
    path = "/v1/allocate",
    tag = SANDBOXES,
    params(AllocateHeaderParams),
    responses(
        (status = 201, description = "A sandbox, from now on the caller's alone", body = ClaimBody),
        (status = 200, description = "The sandbox that this key holds already", body = ClaimBody),
    )
)]
pub(super) async fn allocate(state: web::Data<AppState>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let AllocateHeaders { track, track_name, key, name_prefix } = allocate_headers(request.headers())?;
    let mut log = RequestContext { track_id: Some(track.to_string()), ..RequestContext::default() };
    let began = Instant::now();
    let answer = state.broker.allocator().allocate(AllocateRequest { track, track_name, key, name_prefix }).await;
    let outcome = outcome_of(&answer);
    metrics::counter!("broker_allocate_total", "outcome" => outcome).increment(1);
    metrics::histogram!("broker_allocation_latency_seconds", "outcome" => outcome)
        .record(began.elapsed().as_secs_f64());
    if outcome == "replayed" {
        metrics::counter!("broker_allocate_idempotent_hits_total").increment(1);
    }
    log.outcome = Some(outcome);
    log.sandbox_id = answer.as_ref().ok().map(|allocation| allocation.claim.sandbox_id.to_string());
    request.extensions_mut().insert(log);
    let Allocation { claim, replayed } = answer?;
    state.live.allocated(began.elapsed());
    let mut response = if replayed { HttpResponse::Ok() } else { HttpResponse::Created() };
    Ok(response.json(ClaimBody::from(&claim)))
}

/// Reads a sandbox of the caller
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}",
    tag = SANDBOXES,
    params(SandboxPath),
    responses((status = 200, description = "The sandbox as it is now", body = SandboxBody))
)]
pub(super) async fn read(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (id, track) = named(&request, &id)?;
    let sandbox = state.broker.allocator().read(&id, &track).await?;
    Ok(HttpResponse::Ok().json(SandboxBody::from(&sandbox)))
}

/// Begins the full lab duration anew
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/renew",
    tag = SANDBOXES,
    params(SandboxPath),
    responses((status = 200, description = "The sandbox, with its new end", body = ClaimBody))
)]
pub(super) async fn renew(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (id, track) = named(&request, &id)?;
    let claim = state.broker.allocator().renew(&id, &track).await?;
    Ok(HttpResponse::Ok().json(ClaimBody::from(&claim)))
}

/// Gives a sandbox back, to be deleted at the cloud provider
///
/// Answers the same again until the sandbox is deleted, then `404`.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/mark-for-deletion",
    tag = SANDBOXES,
    params(SandboxPath),
    responses((status = 200, description = "It waits for its deletion", body = ReleasedBody))
)]
pub(super) async fn mark_for_deletion(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (id, track) = named(&request, &id)?;
    let released = state.broker.allocator().release(&id, &track).await;
    let outcome = if released.is_ok() { "ok" } else { "error" };
    metrics::counter!("broker_deletion_marked_total", "outcome" => outcome).increment(1);
    let released = released?;
    Ok(HttpResponse::Ok().json(ReleasedBody::new(&released.sandbox_id, released.deletion_requested_at)))
}

/// The sandbox and the caller that a request names, noted for its log line.
fn named(request: &HttpRequest, id: &str) -> Result<(SandboxId, TrackId), ApiError> {
    let id = sandbox_id(id)?;
    let track = track_of(request.headers())?;
    request.extensions_mut().insert(RequestContext {
        track_id: Some(track.to_string()),
        sandbox_id: Some(id.to_string()),
        ..RequestContext::default()
    });
    Ok((id, track))
}

fn outcome_of(answer: &Result<Allocation, AllocateError>) -> &'static str {
    match answer {
        Ok(allocation) if allocation.replayed => "replayed",
        Ok(_) => "allocated",
        Err(AllocateError::NoneAvailable) => "none_available",
        Err(AllocateError::Paused) => "paused",
        Err(AllocateError::Overloaded { .. }) => "overloaded",
        Err(AllocateError::TimedOut { .. }) => "timed_out",
        Err(AllocateError::NotReadInFull) => "not_read_in_full",
        Err(AllocateError::Stopping) => "stopping",
        Err(AllocateError::Store(_)) => "store_error",
    }
}

/// A sandbox, as its owner uses it. Times are seconds since the Unix epoch
#[derive(Serialize, ToSchema)]
#[schema(as = Claim)]
pub(super) struct ClaimBody<'a> {
    sandbox_id: &'a SandboxId,
    name: &'a str,
    external_id: &'a str,
    allocated_at: Timestamp,
    expires_at: Option<Timestamp>,
    sfdc_account_id: Option<&'a str>,
}

/// A sandbox that was given back
#[derive(Serialize, ToSchema)]
#[schema(as = Released)]
pub(super) struct ReleasedBody<'a> {
    sandbox_id: &'a SandboxId,
    status: Status,
    deletion_requested_at: Timestamp,
}

impl<'a> ReleasedBody<'a> {
    pub(super) fn new(sandbox_id: &'a SandboxId, deletion_requested_at: Timestamp) -> Self {
        Self { sandbox_id, status: Status::PendingDeletion, deletion_requested_at }
    }
}

impl<'a> ClaimBody<'a> {
    /// What the owner of this sandbox is told of it.
    pub(super) fn from_sandbox(sandbox: &'a Sandbox) -> Self {
        Self {
            sandbox_id: &sandbox.sandbox_id,
            name: &sandbox.name,
            external_id: &sandbox.external_id,
            allocated_at: sandbox.allocated_at,
            expires_at: sandbox.expires_at,
            sfdc_account_id: sandbox.sfdc_account_id.as_deref(),
        }
    }
}

impl<'a> From<&'a Claim> for ClaimBody<'a> {
    fn from(claim: &'a Claim) -> Self {
        Self {
            sandbox_id: &claim.sandbox_id,
            name: &claim.name,
            external_id: &claim.external_id,
            allocated_at: claim.allocated_at,
            expires_at: Some(claim.expires_at),
            sfdc_account_id: claim.sfdc_account_id.as_deref(),
        }
    }
}

/// A sandbox of the caller, with its state
#[derive(Serialize, ToSchema)]
#[schema(as = OwnSandbox)]
pub(super) struct SandboxBody<'a> {
    #[serde(flatten)]
    claim: ClaimBody<'a>,
    status: Status,
    allocated_to_track: Option<&'a TrackId>,
    track_name: Option<&'a str>,
}

impl<'a> From<&'a Sandbox> for SandboxBody<'a> {
    fn from(sandbox: &'a Sandbox) -> Self {
        Self {
            claim: ClaimBody::from_sandbox(sandbox),
            status: sandbox.status,
            allocated_to_track: sandbox.allocated_to_track.as_ref(),
            track_name: sandbox.track_name.as_deref(),
        }
    }
}
