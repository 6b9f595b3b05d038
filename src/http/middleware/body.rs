//! Reads the body before the handler runs, so that no handler waits for a client, and bounds its size and time (I8).

use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::middleware::Next;
use actix_web::{Error, web};
use tokio::time::timeout;

use crate::http::error::{ApiError, ErrorCode};
use crate::http::request_context::RequestContext;

/// The largest body. No call of this API needs more.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a client may take to send the body.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The innermost middleware of every endpoint that is not public. A request that passes it is admitted.
pub(crate) async fn read<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    match read_body(&mut request).await {
        Ok(body) => {
            request.set_payload(body.into());
            RequestContext::start(request.request());
            Ok(next.call(request).await?.map_into_left_body())
        }
        Err(refusal) => Ok(request.error_response(refusal).map_into_right_body()),
    }
}

async fn read_body(request: &mut ServiceRequest) -> Result<web::Bytes, ApiError> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(ErrorCode::BodyTooLarge.into());
    }
    timeout(TIMEOUT, request.extract::<web::Bytes>())
        .await
        .map_err(|_| ErrorCode::RequestTimeout)?
        .map_err(|error| ApiError::of_status(error.error_response().status()))
}
