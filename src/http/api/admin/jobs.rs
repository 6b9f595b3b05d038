//! Runs of the background jobs, by order of an operator.

use std::time::Duration;

use actix_web::web;
use broker_actors::broker::Broker;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::http::api::body::{CleanupReport, Completed, DiscardStaleReport, ExpiryReport, SyncReport};
use crate::http::api::headers::Operator;
use crate::http::api::input::{Head, NoParameters, Query};
use crate::http::error::{ApiError, ErrorCode};

/// The longest grace period that an operator may ask for: a year.
const MAX_GRACE_HOURS: f64 = 365.0 * 24.0;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SyncQuery {
    /// Report the differences and write nothing
    #[serde(default)]
    dry_run: bool,
    /// Sync even if the listing is empty or would make too many sandboxes stale
    #[serde(default)]
    force: bool,
}

pub(crate) async fn sync(
    broker: web::Data<Broker>,
    _: Head<Operator>,
    Query(SyncQuery { dry_run, force }): Query<SyncQuery>,
) -> Result<Completed<SyncReport>, ApiError> {
    let started = Instant::now();
    let report = match broker.sync(SyncOptions { dry_run, force }).await {
        Err(error) if dry_run => return Err(unlogged(error)),
        result => result?,
    };
    Ok(Completed::new(report, started.elapsed()))
}

/// The error of a run that no job driver has logged.
fn unlogged(error: JobError) -> ApiError {
    ApiError::from(error.clone()).caused_by(error)
}

pub(crate) async fn cleanup(
    broker: web::Data<Broker>,
    _: Head<Operator>,
    _: Query<NoParameters>,
) -> Result<Completed<CleanupReport>, ApiError> {
    let started = Instant::now();
    let report = broker.cleanup().await?;
    Ok(Completed::new(report, started.elapsed()))
}

pub(crate) async fn auto_expire(
    broker: web::Data<Broker>,
    _: Head<Operator>,
    _: Query<NoParameters>,
) -> Result<Completed<ExpiryReport>, ApiError> {
    let started = Instant::now();
    let report = broker.expire().await?;
    Ok(Completed::new(report, started.elapsed()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StaleQuery {
    /// How long a sandbox must have been stale; the setting `STALE_GRACE_HOURS` if it is not given
    #[param(minimum = 0, maximum = 8760)]
    grace_period_hours: Option<f64>,
}

pub(crate) async fn auto_delete_stale(
    broker: web::Data<Broker>,
    _: Head<Operator>,
    Query(query): Query<StaleQuery>,
) -> Result<Completed<DiscardStaleReport>, ApiError> {
    let grace = match query.grace_period_hours {
        Some(hours) if !(0.0..=MAX_GRACE_HOURS).contains(&hours) => {
            let message = format!("grace_period_hours takes a number from 0 to {MAX_GRACE_HOURS}");
            return Err(ApiError::new(ErrorCode::BadQuery, message));
        }
        hours => hours.map(|hours| Duration::from_secs_f64(hours * 3600.0)),
    };
    let started = Instant::now();
    let report = broker.delete_stale(grace).await?;
    let report = DiscardStaleReport::new(report, grace.unwrap_or_else(|| broker.stale_grace()));
    Ok(Completed::new(report, started.elapsed()))
}
