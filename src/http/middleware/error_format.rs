//! Gives every error the one form, also those that the framework answers without a body or in its own words.

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};

use super::request_id;
use crate::http::error::{ApiError, ErrorForm};

/// The middleware. It leaves the error in the extensions of the response, for the access log.
pub(crate) async fn format<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?;
    Ok(match error_of(&response) {
        Some(error) => formatted(response, error),
        None => response.map_into_boxed_body(),
    })
}

/// The error that is to be answered: the handler's, or one for the status that the framework chose.
fn error_of<B: MessageBody>(response: &ServiceResponse<B>) -> Option<ApiError> {
    let status = response.status();
    if let Some(error) = response.response().error() {
        return Some(match error.as_error::<ApiError>() {
            Some(error) => error.clone(),
            None if status.is_server_error() => ApiError::of_status(status).caused_by(error.to_string()),
            None => ApiError::of_status(status),
        });
    }
    let is_bare = matches!(response.response().body().size(), BodySize::None | BodySize::Sized(0));
    let is_error = status.is_client_error() || status.is_server_error();
    (is_error && is_bare).then(|| ApiError::of_status(status))
}

/// The error's answer, with the headers that are already set, such as Allow.
fn formatted<B>(response: ServiceResponse<B>, error: ApiError) -> ServiceResponse<BoxBody> {
    let status = error.code().status();
    let mut answer = HttpResponse::build(status);
    for (name, value) in response.headers() {
        answer.insert_header((name.clone(), value.clone()));
    }
    if let Some(seconds) = error.retry_after_seconds() {
        answer.insert_header((RETRY_AFTER, seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        answer.insert_header((WWW_AUTHENTICATE, "Bearer realm=\"sandbox-broker\""));
    }
    let form = response.request().app_data::<ErrorForm>().copied().unwrap_or_default();
    let mut answer = answer.json(error.body(&request_id::of(response.request()), form));
    answer.extensions_mut().insert(error);
    ServiceResponse::new(response.into_parts().0, answer)
}
