//! What operators see and change of the sandboxes.

use std::time::Duration;

use actix_web::web;
use broker_actors::admin::SandboxFilter;
use broker_actors::broker::Broker;
use broker_actors::ports::{Clock, Cursor};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::actors::ReasonBody;
use crate::audit::AuditLog;
use crate::http::api::body::{
    Completed, DiscardReport, RetryReport, Sandbox, SandboxDetails, SandboxPage, Stats, StatsHistory, Status,
};
use crate::http::api::headers::Operator;
use crate::http::api::input::{Head, NoParameters, Query, SandboxPath, page_limit};
use crate::http::error::{ApiError, ErrorCode};
use crate::stats_history;

const MAX_TEXT_CHARS: usize = 256;
const MAX_HOURS: f64 = 8760.0;

pub(crate) async fn stats(broker: web::Data<Broker>, _: Query<NoParameters>) -> Result<web::Json<Stats>, ApiError> {
    Ok(web::Json(broker.stats().await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only sandboxes in this state; without it, in every state but `deleted`
    status: Option<Status>,
    /// The largest number of sandboxes on a page; 50 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// Where the page starts: the `cursor` of the page before
    cursor: Option<String>,
    /// Only sandboxes with exactly this id, owner or key, found in one request; if there is none, those with this text in
    /// their id, name, external id, owner or lab, in upper or lower case. A page may then hold fewer than `limit`
    /// sandboxes and still have a `cursor`
    #[param(min_length = 1, max_length = 256)]
    search: Option<String>,
    /// Only sandboxes whose name starts with this
    #[param(min_length = 1, max_length = 256)]
    name_prefix: Option<String>,
    /// Only sandboxes of this lab
    #[param(min_length = 1, max_length = 256)]
    lab: Option<String>,
    /// Only allocated sandboxes whose time is over
    #[serde(default)]
    overdue: bool,
    /// Only allocated sandboxes that have been held for longer than this
    #[param(minimum = 0, maximum = 8760)]
    held_longer_than_hours: Option<f64>,
}

pub(crate) async fn list(
    broker: web::Data<Broker>,
    clock: web::Data<dyn Clock>,
    Query(query): Query<ListQuery>,
) -> Result<web::Json<SandboxPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let text = |name: &str, value: Option<String>| match value {
        Some(value) if !(1..=MAX_TEXT_CHARS).contains(&value.chars().count()) => {
            Err(ApiError::new(ErrorCode::BadQuery, format!("{name} takes 1 to {MAX_TEXT_CHARS} characters")))
        }
        value => Ok(value),
    };
    let now = clock.now();
    let held_since = match query.held_longer_than_hours {
        Some(hours) if !(0.0..=MAX_HOURS).contains(&hours) => {
            let message = format!("held_longer_than_hours takes a number from 0 to {MAX_HOURS}");
            return Err(ApiError::new(ErrorCode::BadQuery, message));
        }
        hours => hours.map(|hours| now.minus(Duration::from_secs_f64(hours * 3600.0))),
    };
    let filter = SandboxFilter {
        status: query.status.map(Into::into),
        text: text("search", query.search)?,
        name_prefix: text("name_prefix", query.name_prefix)?,
        lab: text("lab", query.lab)?,
        ended_by: query.overdue.then_some(now),
        held_since,
    };
    let page = broker.admin().list(&filter, limit, query.cursor.map(Cursor)).await?;
    Ok(web::Json(SandboxPage::new(page.sandboxes, page.next.map(|cursor| cursor.0))))
}

pub(crate) async fn show(
    broker: web::Data<Broker>,
    audit: web::Data<AuditLog>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    _: Query<NoParameters>,
) -> Result<web::Json<SandboxDetails>, ApiError> {
    let sandbox = broker.admin().get(&sandbox_id).await?;
    Ok(web::Json(SandboxDetails::new(sandbox, audit.changes(&sandbox_id).await?)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// The number of hours back; 1 if it is not given
    #[param(minimum = 1, maximum = 168)]
    hours: Option<u64>,
}

pub(crate) async fn history(
    history: web::Data<stats_history::StatsHistory>,
    Query(HistoryQuery { hours }): Query<HistoryQuery>,
) -> Result<web::Json<StatsHistory>, ApiError> {
    match hours.unwrap_or(1) {
        hours @ 1..=168 => Ok(web::Json(history.last_hours(hours).await?.into())),
        _ => Err(ApiError::new(ErrorCode::BadQuery, "hours takes a number from 1 to 168")),
    }
}

pub(crate) async fn release(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    Head(Operator(operator)): Head<Operator>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().force_release(&sandbox_id, &operator).await?.into()))
}

pub(crate) async fn retry_deletion(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    Head(Operator(operator)): Head<Operator>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().retry_deletion(&sandbox_id, &operator).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RetryQuery {
    /// Only sandboxes whose last error contains this text, in upper or lower case
    #[param(min_length = 1, max_length = 256)]
    error: Option<String>,
}

pub(crate) async fn retry_deletions(
    broker: web::Data<Broker>,
    Head(Operator(operator)): Head<Operator>,
    Query(RetryQuery { error }): Query<RetryQuery>,
) -> Result<Completed<RetryReport>, ApiError> {
    if error.as_ref().is_some_and(|text| !(1..=MAX_TEXT_CHARS).contains(&text.chars().count())) {
        return Err(ApiError::new(ErrorCode::BadQuery, format!("error takes 1 to {MAX_TEXT_CHARS} characters")));
    }
    let started = Instant::now();
    let retried = broker.admin().retry_deletions(error.as_deref(), &operator).await?;
    Ok(Completed::new(RetryReport::new(retried), started.elapsed()))
}

pub(crate) async fn quarantine(
    broker: web::Data<Broker>,
    Head(Operator(operator)): Head<Operator>,
    ReasonBody { reason }: ReasonBody,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().quarantine(&sandbox_id, &reason, &operator).await?.into()))
}

pub(crate) async fn unquarantine(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    Head(Operator(operator)): Head<Operator>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().unquarantine(&sandbox_id, &operator).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FreezeQuery {
    /// Hours from now; fractions are allowed, 0 ends a freeze
    #[param(minimum = 0, maximum = 8760)]
    hours: f64,
}

pub(crate) async fn freeze(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    Head(Operator(operator)): Head<Operator>,
    Query(FreezeQuery { hours }): Query<FreezeQuery>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().freeze(&sandbox_id, duration_of(hours)?, &operator).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExtendQuery {
    /// Hours from now; fractions are allowed
    #[param(minimum = 0, maximum = 8760)]
    hours: f64,
}

pub(crate) async fn extend(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    Head(Operator(operator)): Head<Operator>,
    Query(ExtendQuery { hours }): Query<ExtendQuery>,
) -> Result<web::Json<Sandbox>, ApiError> {
    let extended = broker.allocator().extend(&sandbox_id, duration_of(hours)?, &operator).await?;
    Ok(web::Json(extended.into()))
}

fn duration_of(hours: f64) -> Result<Duration, ApiError> {
    if (0.0..=MAX_HOURS).contains(&hours) {
        return Ok(Duration::from_secs_f64(hours * 3600.0));
    }
    Err(ApiError::new(ErrorCode::BadQuery, format!("hours takes a number from 0 to {MAX_HOURS}")))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BulkDeleteQuery {
    /// The state of the sandboxes to remove
    #[param(inline)]
    status: Discardable,
}

/// A state of sandboxes that are not in use
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Discardable {
    Stale,
    DeletionFailed,
}

pub(crate) async fn bulk_delete(
    broker: web::Data<Broker>,
    _: Head<Operator>,
    Query(query): Query<BulkDeleteQuery>,
) -> Result<Completed<DiscardReport>, ApiError> {
    let status = match query.status {
        Discardable::Stale => Status::Stale,
        Discardable::DeletionFailed => Status::DeletionFailed,
    };
    let started = Instant::now();
    let report = broker.admin().bulk_delete(status.into()).await?;
    Ok(Completed::new(report, started.elapsed()))
}
