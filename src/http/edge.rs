//! What every request goes through first and every answer last: the request's id, the one error form, the security
//! headers, one log line, the latency metric.

use std::rc::Rc;

use actix_http::ConnectionType;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpResponse, web};
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::error::ApiError;
use super::state::{Answer, ConnectionState, RequestInProgress};
use super::{AppState, Endpoint};
use crate::telemetry;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request that no row of the route table answers is called.
const UNMATCHED: &str = "unmatched";

/// Set on every answer that does not set them itself. The HSTS header counts only over TLS, which ends at the load balancer.
pub(super) const SECURITY_HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];

/// What an admitted request adds to its log line and to the operators' journal.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// The track that asked.
    pub track_id: Option<String>,
    /// For which sandbox.
    pub sandbox_id: Option<String>,
    /// The operator that asked.
    pub operator: Option<String>,
    /// How it went, where the status does not say it all.
    pub outcome: Option<&'static str>,
}

/// The middleware.
pub(super) async fn edge<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Answer>, Error> {
    let began = Instant::now();
    let state = request.conn_data::<Rc<ConnectionState>>();
    let is_pipelined = state.is_some_and(|state| state.is_pipelined());
    let in_progress = state.map(|state| RequestInProgress::begin(state, has_body(request.headers())));
    if is_pipelined {
        // Whoever has sent many at once lets others have a turn in between.
        yield_now().await;
    }
    let request_id = request_id(request.headers());
    let span = telemetry::request_span(&request);
    let response = next.call(request).instrument(span.clone()).await?;
    let failure = failure_of(&response);
    let mut response = match &failure {
        Some(failure) => in_error_form(response, failure, &request_id),
        None => response.map_into_boxed_body(),
    };
    if in_progress.as_ref().is_some_and(RequestInProgress::answer) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in SECURITY_HEADERS {
        // A page brings a policy of its own.
        if !headers.contains_key(name) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
    report(&response, failure.map(|failure| failure.code), &request_id, began, &span);
    Ok(response.map_body(|_, body| Answer::new(body, in_progress)))
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// The error to answer with: a handler's own, or one for what the framework answers without a body or in its own
/// words.
fn failure_of<B: MessageBody>(response: &ServiceResponse<B>) -> Option<ApiError> {
    let status = response.status();
    match response.response().error() {
        Some(error) => Some(error.as_error::<ApiError>().cloned().unwrap_or_else(|| ApiError::of_status(status))),
        None => {
            let is_bare = matches!(response.response().body().size(), BodySize::None | BodySize::Sized(0));
            let is_error = status.is_client_error() || status.is_server_error();
            (is_error && is_bare).then(|| ApiError::of_status(status))
        }
    }
}

/// The caller's id if it is fit to stand in a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_fit = |id: &&str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        (1..=128).contains(&id.len()) && id.bytes().all(is_allowed)
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_fit);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The error's answer, with the headers that the framework or a handler has set already (Allow, WWW-Authenticate).
fn in_error_form<B>(response: ServiceResponse<B>, failure: &ApiError, request_id: &str) -> ServiceResponse<BoxBody> {
    let mut answer = HttpResponse::build(failure.status);
    for (name, value) in response.headers() {
        answer.insert_header((name.clone(), value.clone()));
    }
    if let Some(seconds) = failure.retry_after_seconds() {
        answer.insert_header((RETRY_AFTER, seconds.to_string()));
    }
    if failure.status == StatusCode::UNAUTHORIZED {
        answer.insert_header(("WWW-Authenticate", "Bearer realm=\"sandbox-broker\""));
    }
    let answer = answer.json(failure.body(request_id));
    ServiceResponse::new(response.into_parts().0, answer)
}

/// The metric, the log line and the journal's entry of an answered request.
fn report<B>(response: &ServiceResponse<B>, code: Option<&'static str>, request_id: &str, began: Instant, span: &Span) {
    let request = response.request();
    let status = response.status();
    let endpoint = request.match_pattern().unwrap_or_else(|| UNMATCHED.to_owned());
    let action = Endpoint::find(request.method(), &endpoint).map_or(UNMATCHED, |endpoint| endpoint.action);
    let latency = began.elapsed();
    metrics::histogram!(
        "broker_request_latency_seconds",
        "method" => method_label(request.method()),
        "endpoint" => endpoint.clone(),
        "status" => status.as_str().to_owned(),
    )
    .record(latency.as_secs_f64());
    let admitted = request.extensions().get::<RequestContext>().cloned();
    let outcome = admitted.as_ref().and_then(|fields| fields.outcome);
    let outcome = outcome.unwrap_or(if status.is_success() { "ok" } else { "error" });
    if let (Some(fields), Some(state)) = (&admitted, request.app_data::<web::Data<AppState>>()) {
        state.live.requested(state.clock.now(), action, fields, outcome, code);
    }
    let RequestContext { track_id, sandbox_id, operator, .. } = admitted.unwrap_or_default();
    let latency_ms = latency.as_secs_f64() * 1000.0;
    let (method, status) = (request.method().as_str(), status.as_u16());
    span.record("http.response.status_code", status);
    macro_rules! log_line {
        ($level:ident) => {
            tracing::$level!(
                event = "request",
                request_id,
                method,
                endpoint,
                status,
                action,
                outcome,
                code,
                latency_ms,
                track_id,
                sandbox_id,
                operator,
                "request"
            )
        };
    }
    if status >= 500 { log_line!(warn) } else { log_line!(info) }
}

/// A label must not be whatever a client makes up.
fn method_label(method: &actix_web::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}
