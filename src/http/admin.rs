//! The admin API: the pool, its background jobs, and the actors.

use std::time::Duration;

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use broker_actors::actor::{ActorName, ActorStatus};
use broker_actors::jobs::cleanup::CleanupReport;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::jobs::csp_sync::SyncReport;
use broker_actors::jobs::expiry_reaper::ExpiryReport;
use broker_actors::jobs::stale_collector::DiscardReport;
use broker_actors::ports::Cursor;
use broker_actors::sandbox::{Sandbox, SandboxId, Status};
use broker_actors::stats::Stats;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::client_of;
use super::edge::RequestContext;
use super::error::ApiError;
use super::headers::sandbox_id;
use super::openapi::{ADMIN, ActorPath, SandboxPath};

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;
const MAX_REASON_CHARS: usize = 500;
const MAX_SEARCH_CHARS: usize = 256;

/// The answer to a pause without a reason.
pub(super) const PAUSE_FORM: &str = r#"send a body such as {"reason": "maintenance until 14:00"}"#;

/// The longest grace period that an operator may ask for: a year.
const MAX_GRACE_HOURS: f64 = 365.0 * 24.0;

type Answer = Result<HttpResponse, ApiError>;

/// Counts the sandboxes of each status
///
/// Exact, by an index read. Tombstones count nowhere.
#[utoipa::path(
    get,
    path = "/v1/admin/stats",
    tag = ADMIN,
    responses((status = 200, description = "The counts", body = Stats))
)]
pub(super) async fn stats(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    no_query(&request)?;
    Ok(HttpResponse::Ok().json(state.broker.stats().await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this status; without it, all but tombstones
    status: Option<Status>,
    /// At most so many, 50 if not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// Where the page before ended
    cursor: Option<String>,
    /// Only those with this text in their id, name, external id, owner or lab, in whatever case. A page may then hold
    /// fewer than `limit` and still have a `cursor`
    #[param(min_length = 1, max_length = 256)]
    search: Option<String>,
}

/// A page of sandboxes
#[derive(Serialize, ToSchema)]
pub(super) struct SandboxPage {
    pub(super) sandboxes: Vec<Sandbox>,
    /// How many are on this page
    pub(super) count: usize,
    /// Where the next page begins; null on the last one
    pub(super) cursor: Option<String>,
}

/// Lists sandboxes, page by page
#[utoipa::path(
    get,
    path = "/v1/admin/sandboxes",
    tag = ADMIN,
    params(ListQuery),
    responses((status = 200, description = "A page", body = SandboxPage))
)]
pub(super) async fn list(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    let query: ListQuery = query(&request)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::bad_request("BAD_QUERY", format!("limit takes a number from 1 to {MAX_PAGE}")));
    }
    let after = query.cursor.map(Cursor);
    let admin = state.broker.admin();
    let page = match query.search.as_deref() {
        None => admin.list(query.status, limit, after).await?,
        Some(text) if (1..=MAX_SEARCH_CHARS).contains(&text.chars().count()) => {
            admin.search(query.status, text, limit, after).await?
        }
        Some(_) => {
            let message = format!("search takes 1 to {MAX_SEARCH_CHARS} characters");
            return Err(ApiError::bad_request("BAD_QUERY", message));
        }
    };
    let count = page.sandboxes.len();
    let cursor = page.next.map(|cursor| cursor.0);
    Ok(HttpResponse::Ok().json(SandboxPage { sandboxes: page.sandboxes, count, cursor }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SyncQuery {
    /// Tell the differences, write nothing
    #[serde(default)]
    dry_run: bool,
    /// Do it even if the listing is empty or would make too many sandboxes stale
    #[serde(default)]
    force: bool,
}

/// Syncs the table with the cloud provider's listing now
#[utoipa::path(
    post,
    path = "/v1/admin/sync",
    tag = ADMIN,
    params(SyncQuery),
    responses((status = 200, description = "It ran to its end", body = Completed<SyncReport>))
)]
pub(super) async fn sync(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    ordered(&state, &request, None)?;
    let SyncQuery { dry_run, force } = query(&request)?;
    let began = Instant::now();
    let report = state.broker.sync(SyncOptions { dry_run, force }).await?;
    Ok(completed(report, began))
}

/// Deletes what waits for deletion now
#[utoipa::path(
    post,
    path = "/v1/admin/cleanup",
    tag = ADMIN,
    responses((status = 200, description = "It ran to its end", body = Completed<CleanupReport>))
)]
pub(super) async fn cleanup(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    ordered(&state, &request, None)?;
    no_query(&request)?;
    let began = Instant::now();
    let report = state.broker.cleanup().await?;
    Ok(completed(report, began))
}

/// Ends holdings past their end and grace period now
#[utoipa::path(
    post,
    path = "/v1/admin/auto-expire",
    tag = ADMIN,
    responses((status = 200, description = "It ran to its end", body = Completed<ExpiryReport>))
)]
pub(super) async fn auto_expire(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    ordered(&state, &request, None)?;
    no_query(&request)?;
    let began = Instant::now();
    let report = state.broker.expire().await?;
    Ok(completed(report, began))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StaleQuery {
    /// How long a sandbox must have been stale; `STALE_GRACE_HOURS` if not given
    #[param(minimum = 0, maximum = 8760)]
    grace_period_hours: Option<f64>,
}

/// Turns sandboxes that have long been stale into tombstones now
#[utoipa::path(
    post,
    path = "/v1/admin/auto-delete-stale",
    tag = ADMIN,
    params(StaleQuery),
    responses((status = 200, description = "It ran to its end", body = Completed<DiscardReport>))
)]
pub(super) async fn auto_delete_stale(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    ordered(&state, &request, None)?;
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
    Ok(completed(report, began))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BulkDeleteQuery {
    /// Which; others are in use
    #[param(required = true, inline, value_type = Discardable)]
    status: Option<Status>,
}

/// What may be discarded unseen, for the OpenAPI document
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "its variants are only documented")]
pub(super) enum Discardable {
    Stale,
    DeletionFailed,
}

/// Turns all sandboxes of a status into tombstones, without a call to the cloud provider
#[utoipa::path(
    post,
    path = "/v1/admin/bulk-delete",
    tag = ADMIN,
    params(BulkDeleteQuery),
    responses((status = 200, description = "All of them are gone from the table", body = Completed<DiscardReport>))
)]
pub(super) async fn bulk_delete(state: web::Data<AppState>, request: HttpRequest) -> Answer {
    ordered(&state, &request, None)?;
    let query: BulkDeleteQuery = query(&request)?;
    let Some(status @ (Status::Stale | Status::DeletionFailed)) = query.status else {
        return Err(ApiError::bad_request("BAD_QUERY", "status takes stale or deletion_failed; others are in use"));
    };
    let began = Instant::now();
    let report = state.broker.admin().bulk_delete(status).await?;
    Ok(completed(report, began))
}

/// All actors
#[derive(Serialize, ToSchema)]
pub(super) struct ActorList {
    pub(super) actors: Vec<ActorStatus>,
}

/// Shows what each actor does
#[utoipa::path(
    get,
    path = "/v1/admin/actors",
    tag = ADMIN,
    responses((status = 200, description = "The actors, as this replica sees them", body = ActorList))
)]
pub(super) async fn actors(state: web::Data<AppState>) -> Answer {
    Ok(HttpResponse::Ok().json(ActorList { actors: state.broker.actors().await? }))
}

/// Shows what one actor does
#[utoipa::path(
    get,
    path = "/v1/admin/actors/{name}",
    tag = ADMIN,
    params(ActorPath),
    responses((status = 200, description = "The actor, as this replica sees it", body = ActorStatus))
)]
pub(super) async fn actor(state: web::Data<AppState>, name: web::Path<String>) -> Answer {
    Ok(HttpResponse::Ok().json(state.broker.actor(actor_name(&name)?).await?))
}

/// Why an actor is paused
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "reason": "maintenance until 14:00" }))]
pub(super) struct PauseBody {
    /// For the next operator who looks
    #[schema(min_length = 1, max_length = 500, pattern = r"\S")]
    reason: String,
}

/// Pauses an actor on every replica, also after restarts
///
/// A run under way is told to end. Pausing `pool-manager` stops allocation (`503 BROKER_PAUSED`); reads and releases
/// go on.
#[utoipa::path(
    post,
    path = "/v1/admin/actors/{name}/pause",
    tag = ADMIN,
    params(ActorPath),
    request_body = PauseBody,
    responses((status = 200, description = "The actor rests", body = ActorStatus))
)]
pub(super) async fn pause(
    state: web::Data<AppState>,
    request: HttpRequest,
    name: web::Path<String>,
    body: web::Bytes,
) -> Answer {
    let by = ordered(&state, &request, None)?;
    // To serde, an array of the fields' values would do as well.
    let object = Some(&body).filter(|body| body.trim_ascii_start().starts_with(b"{"));
    let body = object.and_then(|object| serde_json::from_slice::<PauseBody>(object).ok());
    let body = body.ok_or_else(|| ApiError::bad_request("BAD_BODY", PAUSE_FORM))?;
    let reason = body.reason.trim();
    if !(1..=MAX_REASON_CHARS).contains(&reason.chars().count()) {
        let message = format!("reason takes 1 to {MAX_REASON_CHARS} characters");
        return Err(ApiError::bad_request("BAD_BODY", message));
    }
    tracing::info!(actor = name.as_str(), reason, by, "an operator pauses an actor");
    Ok(HttpResponse::Ok().json(state.broker.pause(actor_name(&name)?, reason, &by).await?))
}

/// Lets an actor work again, on every replica
#[utoipa::path(
    post,
    path = "/v1/admin/actors/{name}/resume",
    tag = ADMIN,
    params(ActorPath),
    responses((status = 200, description = "The actor works", body = ActorStatus))
)]
pub(super) async fn resume(state: web::Data<AppState>, request: HttpRequest, name: web::Path<String>) -> Answer {
    let by = ordered(&state, &request, None)?;
    tracing::info!(actor = name.as_str(), by, "an operator resumes an actor");
    Ok(HttpResponse::Ok().json(state.broker.resume(actor_name(&name)?, &by).await?))
}

/// Runs an actor's job now and waits for its end; the pool manager's is a refresh
#[utoipa::path(
    post,
    path = "/v1/admin/actors/{name}/run",
    tag = ADMIN,
    params(ActorPath),
    responses((status = 200, description = "It ran to its end", body = ActorStatus))
)]
pub(super) async fn run(state: web::Data<AppState>, request: HttpRequest, name: web::Path<String>) -> Answer {
    ordered(&state, &request, None)?;
    Ok(HttpResponse::Ok().json(state.broker.run(actor_name(&name)?, false).await?))
}

/// Ends a holding in its owner's stead
#[utoipa::path(
    post,
    path = "/v1/admin/sandboxes/{id}/release",
    tag = ADMIN,
    params(SandboxPath),
    responses((status = 200, description = "It waits for its deletion", body = Sandbox))
)]
pub(super) async fn release(state: web::Data<AppState>, request: HttpRequest, id: web::Path<String>) -> Answer {
    let id = sandbox_id(&id)?;
    ordered(&state, &request, Some(&id))?;
    Ok(HttpResponse::Ok().json(state.broker.admin().force_release(&id).await?))
}

/// Tries a failed deletion again
#[utoipa::path(
    post,
    path = "/v1/admin/sandboxes/{id}/retry-deletion",
    tag = ADMIN,
    params(SandboxPath),
    responses((status = 200, description = "It waits for its deletion", body = Sandbox))
)]
pub(super) async fn retry_deletion(state: web::Data<AppState>, request: HttpRequest, id: web::Path<String>) -> Answer {
    let id = sandbox_id(&id)?;
    ordered(&state, &request, Some(&id))?;
    Ok(HttpResponse::Ok().json(state.broker.admin().retry_deletion(&id).await?))
}

/// The actor with the name in the path.
fn actor_name(name: &str) -> Result<ActorName, ApiError> {
    ActorName::from_name(name).ok_or_else(|| ApiError::no_such_actor(name))
}

/// Notes who gives an order, and for which sandbox.
fn ordered(state: &AppState, request: &HttpRequest, sandbox_id: Option<&SandboxId>) -> Result<String, ApiError> {
    let by = operator(state, request)?;
    let sandbox_id = sandbox_id.map(SandboxId::to_string);
    request.extensions_mut().insert(RequestContext {
        sandbox_id,
        operator: Some(by.clone()),
        ..RequestContext::default()
    });
    Ok(by)
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
    let is_fit = |name: &&str| (1..=64).contains(&name.len()) && !name.contains('\t');
    match name.to_str().ok().filter(is_fit) {
        Some(name) => Ok(format!("{name}@{client}")),
        None => {
            Err(ApiError::bad_request("BAD_HEADER", "X-Operator takes 1 to 64 visible ASCII characters and spaces"))
        }
    }
}

/// A run that came to its end
#[derive(Serialize, ToSchema)]
pub(super) struct Completed<R> {
    /// Always `completed`
    status: &'static str,
    #[serde(flatten)]
    report: R,
    duration_ms: u64,
}

impl<R> Completed<R> {
    pub(super) fn new(report: R, took: Duration) -> Self {
        Self { status: "completed", report, duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
    }
}

fn completed(report: impl Serialize, began: Instant) -> HttpResponse {
    HttpResponse::Ok().json(Completed::new(report, began.elapsed()))
}
