//! Puts each order of an operator into the audit log before the handler carries it out, and its outcome after.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::{Error, web};
use broker_actors::error::Chain;
use broker_actors::ports::StoreError;
use serde_json::Value;

use super::auth::Role;
use super::request_id;
use crate::audit::{AuditLog, Order};
use crate::http::api::headers::Operator;
use crate::http::error::{ApiError, ErrorCode};

/// What is kept of a text from a request, in characters.
const MAX_CHARS: usize = 500;

/// The innermost middleware of the endpoints with this role. `action_of` names what a request asks for.
pub(crate) async fn record<B: MessageBody>(
    role: Role,
    action_of: fn(&ServiceRequest) -> Option<&'static str>,
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    if role != Role::Admin || [Method::GET, Method::HEAD].contains(request.method()) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let log = request.app_data::<web::Data<AuditLog>>().expect("the server sets the audit log").clone();
    let begun = match order_of(&mut request, action_of).await {
        Ok(order) => log.begin(order).await.map_err(refusal),
        Err(error) => Err(error),
    };
    let order = match begun {
        Ok(order) => order,
        Err(error) => return Ok(request.error_response(error).map_into_right_body()),
    };
    let response = next.call(request).await?;
    let error = response.response().error().and_then(|error| error.as_error::<ApiError>());
    let code = error.map(|error| error.code().as_str());
    log.end(order, code.unwrap_or(if response.status().is_success() { "ok" } else { "error" })).await;
    Ok(response.map_into_left_body())
}

async fn order_of(
    request: &mut ServiceRequest,
    action_of: fn(&ServiceRequest) -> Option<&'static str>,
) -> Result<Order, ApiError> {
    let body = request.extract::<web::Bytes>().await.map_err(|_| ErrorCode::BadBody)?;
    request.set_payload(body.clone().into());
    let reason = serde_json::from_slice::<Value>(&body).ok();
    let reason = reason.and_then(|body| body["reason"].as_str().map(short));
    let action = action_of(request);
    let path = request.match_info();
    Ok(Order {
        by: Operator::of(request.request())?,
        action: action.unwrap_or_default().to_owned(),
        target: path.get("id").or_else(|| path.get("name")).map(short),
        parameters: Some(request.query_string()).filter(|query| !query.is_empty()).map(short),
        reason,
        request_id: request_id::of(request.request()),
    })
}

fn short(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

/// The order was not carried out, whatever became of its entry.
fn refusal(error: StoreError) -> ApiError {
    if let StoreError::Throttled(_) = error {
        return error.into();
    }
    let message = "the order cannot be recorded, so it was not carried out; try again";
    tracing::warn!(event = "audit_failed", error = %Chain(&error), "an order is refused because it cannot be recorded");
    ApiError::new(ErrorCode::StoreUnavailable, message)
}
