//! The queue of those who wait for a sandbox.

use actix_web::web;
use broker_actors::broker::Broker;
use broker_actors::sandbox::{ClaimKey, IdempotencyKey, TrackId};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::api::body::{Dropped, Queue};
use crate::http::api::headers::Operator;
use crate::http::api::input::{Head, NoParameters, Query};
use crate::http::error::{ApiError, ErrorCode};

const MAX_REASON_CHARS: usize = 500;

pub(crate) async fn queue(broker: web::Data<Broker>, _: Query<NoParameters>) -> Result<web::Json<Queue>, ApiError> {
    let view = broker.queue().view().await?;
    let eta = Some(view.open.len()).filter(|waiting| *waiting > 0).and_then(|waiting| broker.queue().eta(waiting));
    Ok(web::Json(Queue::new(&view, eta)))
}

/// The ticket to drop
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DropQuery {
    /// The track that waits
    #[param(min_length = 1, max_length = 256)]
    track_id: String,
    /// Its key; the track's id if it is not given
    #[param(min_length = 1, max_length = 256)]
    idempotency_key: Option<String>,
    /// The reason, for the audit log
    #[param(min_length = 1, max_length = 500)]
    reason: String,
}

pub(crate) async fn drop_ticket(
    broker: web::Data<Broker>,
    Head(Operator(operator)): Head<Operator>,
    Query(query): Query<DropQuery>,
) -> Result<web::Json<Dropped>, ApiError> {
    let DropQuery { track_id, idempotency_key, reason } = query;
    if !(1..=MAX_REASON_CHARS).contains(&reason.trim().chars().count()) {
        return Err(ApiError::new(ErrorCode::BadQuery, format!("reason takes 1 to {MAX_REASON_CHARS} characters")));
    }
    let key = IdempotencyKey::new(idempotency_key.unwrap_or_else(|| track_id.clone()));
    let claim_key = ClaimKey { track: TrackId::new(track_id), key };
    let dropped = broker.queue().drop_ticket(&claim_key).await?;
    let track_id = claim_key.track.as_str();
    tracing::info!(event = "ticket_dropped", track_id, reason, by = operator, dropped, "an operator drops a ticket");
    Ok(web::Json(Dropped { dropped }))
}
