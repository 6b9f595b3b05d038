//! The id of each request: the caller's, or a new one.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest};
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_LENGTH: usize = 128;

/// The id of the request that is being handled.
#[derive(Clone, Debug)]
struct RequestId(String);

/// The middleware.
pub(crate) async fn assign<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let id = given(request.headers()).map_or_else(new, str::to_owned);
    let header = HeaderValue::try_from(&id);
    request.extensions_mut().insert(RequestId(id));
    let mut response = next.call(request).await?;
    if let Ok(value) = header {
        response.headers_mut().insert(HEADER, value);
    }
    Ok(response)
}

/// The id of this request.
pub(crate) fn of(request: &HttpRequest) -> String {
    request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

/// A new id.
pub(crate) fn new() -> String {
    Uuid::now_v7().to_string()
}

/// The caller's id, if it is safe to log.
fn given(headers: &HeaderMap) -> Option<&str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let id = headers.get(HEADER)?.to_str().ok()?;
    ((1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(is_allowed)).then_some(id)
}
