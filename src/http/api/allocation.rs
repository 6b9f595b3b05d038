//! The track API without an id: what the caller's key holds.

use actix_web::{HttpRequest, web};
use broker_actors::allocation::held;
use broker_actors::broker::Broker;

use super::body::{Claim, Held, ReleasedHeld};
use super::headers::OwnKey;
use super::input::Head;
use crate::http::error::ApiError;
use crate::http::request_context::RequestContext;

pub(crate) async fn read(
    broker: web::Data<Broker>,
    request: HttpRequest,
    Head(OwnKey { owner, key }): Head<OwnKey>,
) -> Result<web::Json<Held>, ApiError> {
    let held = broker.allocator().held(&owner, &key).await?;
    if let held::Held::Sandbox(claim) = &held {
        RequestContext::add(&request, |context| context.sandbox_id = Some(claim.sandbox_id.to_string()));
    }
    Ok(web::Json(held.into()))
}

pub(crate) async fn release(
    broker: web::Data<Broker>,
    request: HttpRequest,
    Head(OwnKey { owner, key }): Head<OwnKey>,
) -> Result<web::Json<ReleasedHeld>, ApiError> {
    let released = broker.allocator().release_held(&owner, &key).await;
    let outcome = if released.is_ok() { "ok" } else { "error" };
    metrics::counter!("broker_deletion_marked_total", "outcome" => outcome).increment(1);
    let released = released?;
    RequestContext::add(&request, |context| {
        context.sandbox_id = released.sandbox_id.as_ref().map(ToString::to_string);
    });
    Ok(web::Json(released.into()))
}

pub(crate) async fn activate(
    broker: web::Data<Broker>,
    request: HttpRequest,
    Head(OwnKey { owner, key }): Head<OwnKey>,
) -> Result<web::Json<Claim>, ApiError> {
    let active = broker.allocator().activate(&owner, &key).await?;
    RequestContext::add(&request, |context| context.sandbox_id = Some(active.sandbox_id.to_string()));
    Ok(web::Json(active.into()))
}
