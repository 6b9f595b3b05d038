//! Would a class get its sandboxes: a question for the day before.

use std::time::Duration;

use actix_web::web;
use broker_actors::broker::Broker;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::Preflight;
use super::headers::MAX_MINUTES;
use super::input::Query;
use crate::http::error::{ApiError, ErrorCode};

/// The largest class.
const MAX_COUNT: usize = 100_000;

/// The class
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PreflightQuery {
    /// The number of students; 1 if it is not given
    #[param(minimum = 1, maximum = 100_000)]
    count: Option<usize>,
    /// Only sandboxes whose name starts with this
    prefix: Option<String>,
    /// Minutes that the lab takes
    #[param(minimum = 1, maximum = 525_600)]
    minutes: Option<u64>,
}

pub(crate) async fn preflight(
    broker: web::Data<Broker>,
    Query(query): Query<PreflightQuery>,
) -> Result<web::Json<Preflight>, ApiError> {
    let count = query.count.unwrap_or(1);
    if !(1..=MAX_COUNT).contains(&count) {
        return Err(ApiError::new(ErrorCode::BadQuery, format!("count takes a number from 1 to {MAX_COUNT}")));
    }
    if query.minutes.is_some_and(|minutes| !(1..=MAX_MINUTES).contains(&minutes)) {
        return Err(ApiError::new(ErrorCode::BadQuery, format!("minutes takes a number from 1 to {MAX_MINUTES}")));
    }
    let (queue, max_holding) = (broker.queue(), broker.allocator().max_holding());
    let (available, warming) = broker.available(query.prefix.as_deref()).await?;
    let waiting = queue.view().await?.open.len();
    let lacking = (count + waiting).saturating_sub(available);
    let mut reasons = Vec::new();
    if lacking > 0 {
        reasons.push(format!("{available} are free, {waiting} wait, {count} are asked for"));
    }
    let is_paused = broker.pool_snapshot().await.is_none_or(|snapshot| snapshot.paused);
    if is_paused {
        reasons.push("an operator has paused allocation".to_owned());
    }
    let is_too_long = query.minutes.is_some_and(|minutes| Duration::from_secs(minutes * 60) > max_holding);
    if is_too_long {
        reasons.push(format!("a holding may last {} minutes", max_holding.as_secs() / 60));
    }
    // Those that get old enough come without any supply.
    let is_hopeless = lacking > warming && queue.is_hopeless();
    if is_hopeless {
        reasons.push("no sandbox has come for a long time, and none is being replaced".to_owned());
    }
    let would = match reasons.is_empty() {
        true => "allocate",
        false if is_too_long || is_hopeless => "fail",
        false => "wait",
    };
    let eta = Some(lacking).filter(|lacking| *lacking > 0).and_then(|lacking| queue.eta(lacking));
    Ok(web::Json(Preflight {
        would,
        available,
        warming,
        waiting,
        eta_seconds: eta.map(|eta| eta.as_secs()),
        token: "track",
        reasons,
    }))
}
