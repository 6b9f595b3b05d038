//! The admin API: the pool, its background jobs, and the actors.

use std::time::Duration;

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use broker_actors::ports::Cursor;
use broker_actors::sandbox::Status;
use broker_actors::system::SyncOptions;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::AppState;
use super::access::client_of;
use super::edge::LogFields;
use super::error::ApiError;
use super::headers::sandbox_id;

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;
const MAX_REASON_CHARS: usize = 500;

/// The longest grace period that an operator may ask for: a year.
const MAX_GRACE_HOURS: f64 = 365.0 * 24.0;

type Answer = Result<HttpResponse, ApiError>;

/// `GET /v1/admin/stats`
pub(super) async fn stats(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    note(&request, "stats", None);
    no_query(&request)?;
    Ok(HttpResponse::Ok().json(state.broker.inventory().stats().await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    status: Option<Status>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `GET /v1/admin/sandboxes`
pub(super) async fn list(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    note(&request, "list", None);
    let query: ListQuery = query(&request)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::bad_request("BAD_QUERY", format!("limit takes a number from 1 to {MAX_PAGE}")));
    }
    let page = state.broker.inventory().list(query.status, limit, query.cursor.map(Cursor)).await?;
    Ok(HttpResponse::Ok().json(json!({
        "count": page.sandboxes.len(),
        "sandboxes": page.sandboxes,
        "cursor": page.next.map(|cursor| cursor.0),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncQuery {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

/// `POST /v1/admin/sync`
pub(super) async fn sync(state: web::Data<AppState>, request: HttpRequest, _body: web::Bytes) -> Answer {
    note(&request, "sync", None);
    let SyncQuery { dry_run, force } = query(&request)?;
    let began = Instant::now();
    let report = state.broker.sync(SyncOptions { dry_run, force }).await?;
    Ok(completed(&report, began))
}

/// `POST /v1/admin/cleanup`
pub(super) async fn cleanup(state: web::Data<AppState>, request: HttpRequest, _body: web::Bytes) -> Answer {
    note(&request, "cleanup", None);
    no_query(&request)?;
    let began = Instant::now();
    let report = state.broker.cleanup().await?;
    Ok(completed(&report, began))
}

/// `POST /v1/admin/auto-expire`
pub(super) async fn auto_expire(state: web::Data<AppState>, request: HttpRequest, _body: web::Bytes) -> Answer {
    note(&request, "auto-expire", None);
    no_query(&request)?;
    let began = Instant::now();
    let report = state.broker.expire().await?;
    Ok(completed(&report, began))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StaleQuery {
    grace_period_hours: Option<f64>,
}

/// `POST /v1/admin/auto-delete-stale`
pub(super) async fn auto_delete_stale(state: web::Data<AppState>, request: HttpRequest, _body: web::Bytes) -> Answer {
    note(&request, "auto-delete-stale", None);
    let query: StaleQuery = query(&request)?;
    let grace = match query.grace_period_hours {
        Some(hours) if !(0.0..=MAX_GRACE_HOURS).contains(&hours) => {
            let message = format!("grace_period_hours takes a number from 0 to {MAX_GRACE_HOURS}");
            return Err(ApiError::bad_request("BAD_QUERY", message));
        }
        hours => hours.map(|hours| Duration::from_secs_f64(hours * 3600.0)),
    };
    let began = Instant::now();
    let report = state.broker.delete_stale(grace).await?;
    Ok(completed(&report, began))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkDeleteQuery {
    status: Option<Status>,
}

/// `POST /v1/admin/bulk-delete`
pub(super) async fn bulk_delete(state: web::Data<AppState>, request: HttpRequest, _body: web::Bytes) -> Answer {
    note(&request, "bulk-delete", None);
    let query: BulkDeleteQuery = query(&request)?;
    let Some(status @ (Status::Stale | Status::DeletionFailed)) = query.status else {
        return Err(ApiError::bad_request("BAD_QUERY", "status takes stale or deletion_failed; others are in use"));
    };
    let began = Instant::now();
    let report = state.broker.inventory().bulk_delete(status).await?;
    Ok(completed(&report, began))
}

/// `GET /v1/admin/actors`
pub(super) async fn actors(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    note(&request, "actors", None);
    Ok(HttpResponse::Ok().json(json!({ "actors": state.broker.actors().await? })))
}

/// `GET /v1/admin/actors/{name}`
pub(super) async fn actor(state: web::Data<AppState>, request: HttpRequest, name: web::Path<String>) -> Answer {
    note(&request, "actor", None);
    Ok(HttpResponse::Ok().json(state.broker.actor(&name).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    reason: String,
}

/// `POST /v1/admin/actors/{name}/pause`
pub(super) async fn pause(
    state: web::Data<AppState>,
    request: HttpRequest,
    name: web::Path<String>,
    body: web::Bytes,
) -> Answer {
    note(&request, "pause", None);
    let form = r#"send a body such as {"reason": "maintenance until 14:00"}"#;
    let body: PauseBody = serde_json::from_slice(&body).map_err(|_| ApiError::bad_request("BAD_BODY", form))?;
    let reason = body.reason.trim();
    if !(1..=MAX_REASON_CHARS).contains(&reason.chars().count()) {
        let message = format!("reason takes 1 to {MAX_REASON_CHARS} characters");
        return Err(ApiError::bad_request("BAD_BODY", message));
    }
    let by = operator(&state, &request)?;
    tracing::info!(actor = name.as_str(), reason, by, "an operator pauses an actor");
    Ok(HttpResponse::Ok().json(state.broker.pause(&name, reason, &by).await?))
}

/// `POST /v1/admin/actors/{name}/resume`
pub(super) async fn resume(
    state: web::Data<AppState>,
    request: HttpRequest,
    name: web::Path<String>,
    _body: web::Bytes,
) -> Answer {
    note(&request, "resume", None);
    let by = operator(&state, &request)?;
    tracing::info!(actor = name.as_str(), by, "an operator resumes an actor");
    Ok(HttpResponse::Ok().json(state.broker.resume(&name, &by).await?))
}

/// `POST /v1/admin/actors/{name}/run`
pub(super) async fn run(
    state: web::Data<AppState>,
    request: HttpRequest,
    name: web::Path<String>,
    _body: web::Bytes,
) -> Answer {
    note(&request, "run", None);
    Ok(HttpResponse::Ok().json(state.broker.run(&name).await?))
}

/// `POST /v1/admin/sandboxes/{id}/release`
pub(super) async fn release(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
    _body: web::Bytes,
) -> Answer {
    let id = sandbox_id(&id)?;
    note(&request, "force-release", Some(id.to_string()));
    Ok(HttpResponse::Ok().json(state.broker.inventory().force_release(&id).await?))
}

/// `POST /v1/admin/sandboxes/{id}/retry-deletion`
pub(super) async fn retry_deletion(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
    _body: web::Bytes,
) -> Answer {
    let id = sandbox_id(&id)?;
    note(&request, "retry-deletion", Some(id.to_string()));
    Ok(HttpResponse::Ok().json(state.broker.inventory().retry_deletion(&id).await?))
}

fn note(request: &HttpRequest, action: &'static str, sandbox_id: Option<String>) {
    let fields = LogFields { action: Some(action), sandbox_id, ..LogFields::default() };
    request.extensions_mut().insert(fields);
}

/// Reads the query; a name that is not known is an error, because it is most likely a slip of the pen.
fn query<Q: DeserializeOwned>(request: &HttpRequest) -> Result<Q, ApiError> {
    web::Query::<Q>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| ApiError::bad_request("BAD_QUERY", error.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoQuery {}

fn no_query(request: &HttpRequest) -> Result<(), ApiError> {
    query::<NoQuery>(request).map(|_| ())
}

/// Who gives the order: what the caller calls itself, and from where.
fn operator(state: &AppState, request: &HttpRequest) -> Result<String, ApiError> {
    let client = client_of(request, state.trusted_proxies);
    let Some(name) = request.headers().get("x-operator") else { return Ok(format!("admin@{client}")) };
    match name.to_str() {
        Ok(name) if (1..=64).contains(&name.len()) => Ok(format!("{name}@{client}")),
        _ => Err(ApiError::bad_request("BAD_HEADER", "X-Operator takes 1 to 64 ASCII characters")),
    }
}

fn completed(report: &impl Serialize, began: Instant) -> HttpResponse {
    let mut body = serde_json::to_value(report).unwrap_or(Value::Null);
    body["status"] = json!("completed");
    body["duration_ms"] = json!(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    HttpResponse::Ok().json(body)
}
