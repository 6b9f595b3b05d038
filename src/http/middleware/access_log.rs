//! What is recorded of every answered request: its span, the latency metric, one log line, and the journal's entry.

use std::num::NonZeroU32;
use std::sync::LazyLock;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, web};
use broker_actors::error::Chain;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::auth::{self, Role};
use super::request_id;
use crate::http::api::events::EventFeed;
use crate::http::error::ApiError;
use crate::http::request_context::RequestContext;
use crate::http::routes;
use crate::stats_history::StatsHistory;
use crate::telemetry;

/// The endpoint and the action of a request that no endpoint answers.
const UNMATCHED: &str = "unmatched";

/// The middleware.
pub(crate) async fn record<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let started = Instant::now();
    let span = telemetry::request_span(&request);
    let response = next.call(request).instrument(span.clone()).await?;
    span.record("http.response.status_code", response.status().as_u16());
    record_answer(&response, started);
    Ok(response)
}

fn record_answer<B>(response: &ServiceResponse<B>, started: Instant) {
    let request = response.request();
    let status = response.status();
    let matched = request.match_pattern();
    let row = matched.as_deref().and_then(|path| routes::find(request.method(), path));
    let action = row.map_or(UNMATCHED, |endpoint| endpoint.action);
    let endpoint = matched.unwrap_or_else(|| UNMATCHED.to_owned());
    let latency = started.elapsed().as_secs_f64();
    metrics::histogram!(
        "broker_request_latency_seconds",
        "method" => method_label(request.method()),
        "endpoint" => endpoint.clone(),
        "status" => status.as_str().to_owned(),
    )
    .record(latency);

    let extensions = response.response().extensions();
    let failure = extensions.get::<ApiError>();
    let code = failure.map(|failure| failure.code().as_str());
    let caller = auth::caller(request);
    let token = caller.as_ref().map(|caller| caller.name());
    if let Some(token) = token {
        let outcome = outcome_by_token(status);
        metrics::counter!("broker_token_requests_total", "token" => token.to_owned(), "outcome" => outcome)
            .increment(1);
    }
    if row.is_some_and(|row| row.role == Role::Track) {
        count_for_track(request, action, status, code);
    }
    let context = RequestContext::of(request);
    let outcome = context.as_ref().and_then(|context| context.outcome);
    let outcome = outcome.unwrap_or(if status.is_success() { "ok" } else { "error" });
    if let (true, Some(context)) = (row.is_some_and(|endpoint| endpoint.audited), &context)
        && let Some(feed) = request.app_data::<web::Data<EventFeed>>()
    {
        feed.record_request(action, context, token, outcome, code);
    }

    let RequestContext { track_id, instruqt_track_id, sandbox_id, operator, waited, .. } = context.unwrap_or_default();
    let error = failure.and_then(ApiError::cause).map(|cause| Chain(&**cause).to_string());
    let (request_id, latency_ms) = (request_id::of(request), latency * 1000.0);
    let waited_ms = waited.map(|waited| waited.as_secs_f64() * 1000.0);
    let (method, status) = (request.method().as_str(), status.as_u16());
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
                error,
                latency_ms,
                waited_ms,
                token,
                track_id,
                instruqt_track_id,
                sandbox_id,
                operator,
                "request"
            )
        };
    }
    let is_routine = row.is_some_and(|endpoint| matches!(endpoint.role, Role::Probe | Role::Public));
    match status {
        // A defect, or an item of the table that cannot be read.
        500 => log_line!(error),
        501.. => log_line!(warn),
        // Probes come all the time, and a page needs a dozen files.
        ..400 if is_routine => log_line!(debug),
        // Anyone can send any number of requests to paths that do not exist.
        404 if row.is_none() && UNMATCHED_LINES.check().is_err() => log_line!(debug),
        _ => log_line!(info),
    }
}

/// The lines at level info of requests that no endpoint answers: some at once, then one a second.
static UNMATCHED_LINES: LazyLock<DefaultDirectRateLimiter> = LazyLock::new(|| {
    let burst = NonZeroU32::new(20).expect("it is not zero");
    RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(burst))
});

fn outcome_by_token(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "limited",
        StatusCode::FORBIDDEN => "forbidden",
        status if status.is_server_error() => "failed",
        status if status.is_client_error() => "refused",
        _ => "ok",
    }
}

/// Counts the answers to tracks that alerts and charts show.
fn count_for_track(request: &HttpRequest, action: &str, status: StatusCode, code: Option<&'static str>) {
    let Some(history) = request.app_data::<web::Data<StatsHistory>>() else { return };
    if status.is_server_error() {
        metrics::counter!("broker_track_failures_total", "code" => code.unwrap_or("none")).increment(1);
        history.counters.count_error();
    } else if action == "allocate" && status.is_success() {
        history.counters.count_allocation();
    }
}

/// The method, as a label that clients cannot make up.
fn method_label(method: &Method) -> &'static str {
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
