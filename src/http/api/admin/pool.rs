//! What operators see and change of the sandboxes.

use std::time::Duration;

use actix_web::web;
use broker_actors::broker::Broker;
use broker_actors::ports::Cursor;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::actors::ReasonBody;
use crate::http::api::body::{Completed, DiscardReport, RetryReport, Sandbox, SandboxPage, Stats, Status};
use crate::http::api::headers::Operator;
use crate::http::api::input::{Head, NoParameters, Query, SandboxPath};
use crate::http::error::{ApiError, ErrorCode};

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;
const MAX_SEARCH_CHARS: usize = 256;
const MAX_FREEZE_HOURS: f64 = 8760.0;

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
    /// Only sandboxes with this text in their id, name, external id, owner or lab, in upper or lower case. A page may then
    /// hold fewer than `limit` sandboxes and still have a `cursor`
    #[param(min_length = 1, max_length = 256)]
    search: Option<String>,
}

pub(crate) async fn list(
    broker: web::Data<Broker>,
    Query(query): Query<ListQuery>,
) -> Result<web::Json<SandboxPage>, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::new(ErrorCode::BadQuery, format!("limit takes a number from 1 to {MAX_PAGE}")));
    }
    let (status, after) = (query.status.map(Into::into), query.cursor.map(Cursor));
    let page = match query.search.as_deref() {
        None => broker.admin().list(status, limit, after).await?,
        Some(text) if (1..=MAX_SEARCH_CHARS).contains(&text.chars().count()) => {
            broker.admin().search(status, text, limit, after).await?
        }
        Some(_) => {
            let message = format!("search takes 1 to {MAX_SEARCH_CHARS} characters");
            return Err(ApiError::new(ErrorCode::BadQuery, message));
        }
    };
    Ok(web::Json(SandboxPage::new(page.sandboxes, page.next.map(|cursor| cursor.0))))
}

pub(crate) async fn release(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    _: Head<Operator>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().force_release(&sandbox_id).await?.into()))
}

pub(crate) async fn retry_deletion(
    broker: web::Data<Broker>,
    Head(SandboxPath(sandbox_id)): Head<SandboxPath>,
    _: Head<Operator>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().retry_deletion(&sandbox_id).await?.into()))
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
    _: Head<Operator>,
    Query(RetryQuery { error }): Query<RetryQuery>,
) -> Result<Completed<RetryReport>, ApiError> {
    if error.as_ref().is_some_and(|text| !(1..=MAX_SEARCH_CHARS).contains(&text.chars().count())) {
        return Err(ApiError::new(ErrorCode::BadQuery, format!("error takes 1 to {MAX_SEARCH_CHARS} characters")));
    }
    let started = Instant::now();
    let retried = broker.admin().retry_deletions(error.as_deref()).await?;
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
    _: Head<Operator>,
) -> Result<web::Json<Sandbox>, ApiError> {
    Ok(web::Json(broker.admin().unquarantine(&sandbox_id).await?.into()))
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
    _: Head<Operator>,
    Query(FreezeQuery { hours }): Query<FreezeQuery>,
) -> Result<web::Json<Sandbox>, ApiError> {
    if !(0.0..=MAX_FREEZE_HOURS).contains(&hours) {
        let message = format!("hours takes a number from 0 to {MAX_FREEZE_HOURS}");
        return Err(ApiError::new(ErrorCode::BadQuery, message));
    }
    let duration = Duration::from_secs_f64(hours * 3600.0);
    Ok(web::Json(broker.admin().freeze(&sandbox_id, duration).await?.into()))
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
