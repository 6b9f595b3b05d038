//! The actors and the operators' commands to them.

use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use broker_actors::broker::Broker;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::http::api::body::{ActorList, ActorStatus};
use crate::http::api::headers::Operator;
use crate::http::api::input::{ActorPath, Head, Query};
use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{Input, OperationParts};

const MAX_REASON_CHARS: usize = 500;

pub(crate) async fn actors(broker: web::Data<Broker>) -> Result<web::Json<ActorList>, ApiError> {
    Ok(web::Json(broker.actors().await?.into()))
}

pub(crate) async fn actor(
    broker: web::Data<Broker>,
    Head(ActorPath(actor)): Head<ActorPath>,
) -> Result<web::Json<ActorStatus>, ApiError> {
    Ok(web::Json(broker.actor(actor).await?.into()))
}

/// Why an operator orders it
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "reason": "maintenance until 14:00" }))]
pub(crate) struct ReasonBody {
    /// The reason, for other operators
    #[schema(min_length = 1, max_length = 500, pattern = r"\S")]
    pub(super) reason: String,
}

impl ReasonBody {
    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        // serde would also accept an array of the fields' values.
        let object = Some(bytes).filter(|bytes| bytes.trim_ascii_start().starts_with(b"{"));
        let body = object.and_then(|object| serde_json::from_slice::<Self>(object).ok());
        let reason = body.ok_or_else(no_reason)?.reason.trim().to_owned();
        if !(1..=MAX_REASON_CHARS).contains(&reason.chars().count()) {
            let message = format!("reason takes 1 to {MAX_REASON_CHARS} characters");
            return Err(ApiError::new(ErrorCode::BadBody, message));
        }
        Ok(Self { reason })
    }
}

/// The error for an order without a reason.
pub(crate) fn no_reason() -> ApiError {
    ApiError::new(ErrorCode::BadBody, r#"send a body such as {"reason": "maintenance until 14:00"}"#)
}

impl FromRequest for ReasonBody {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = web::Bytes::from_request(request, payload);
        Box::pin(async move { Ok(Self::parse(&bytes.await?)?) })
    }
}

impl Input for ReasonBody {
    fn document(parts: &mut OperationParts) {
        parts.takes_json::<Self>();
        parts.errors.insert(ErrorCode::BadBody);
    }
}

pub(crate) async fn pause(
    broker: web::Data<Broker>,
    Head(Operator(operator)): Head<Operator>,
    ReasonBody { reason }: ReasonBody,
    Head(ActorPath(actor)): Head<ActorPath>,
) -> Result<web::Json<ActorStatus>, ApiError> {
    tracing::info!(%actor, reason, by = operator, "an operator pauses an actor");
    Ok(web::Json(broker.pause(actor, &reason, &operator).await?.into()))
}

pub(crate) async fn resume(
    broker: web::Data<Broker>,
    Head(Operator(operator)): Head<Operator>,
    Head(ActorPath(actor)): Head<ActorPath>,
) -> Result<web::Json<ActorStatus>, ApiError> {
    tracing::info!(%actor, by = operator, "an operator resumes an actor");
    Ok(web::Json(broker.resume(actor, &operator).await?.into()))
}

/// How a run is asked for
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunQuery {
    /// Takes the job from the replica that runs it: for one that no longer works, but still looks alive
    #[serde(default)]
    force: bool,
}

pub(crate) async fn run(
    broker: web::Data<Broker>,
    _: Head<Operator>,
    Head(ActorPath(actor)): Head<ActorPath>,
    Query(RunQuery { force }): Query<RunQuery>,
) -> Result<web::Json<ActorStatus>, ApiError> {
    broker.run(actor, force).await?;
    Ok(web::Json(broker.actor(actor).await?.into()))
}
