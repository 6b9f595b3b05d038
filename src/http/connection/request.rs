//! Reports to the connection's state what its request is doing.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use actix_http::ConnectionType;
use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, RETRY_AFTER, TRANSFER_ENCODING};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpResponse};
use futures_util::{Stream as _, stream};
use tokio::task::yield_now;

use super::Limits;
use super::answer::PiecewiseBody;
use super::cutoff::Cutoff;
use super::state::ConnectionState;
use crate::http::error::{ApiError, ErrorCode, ErrorForm};
use crate::http::middleware::request_id;
use crate::http::middleware::security_headers::SECURITY_HEADERS;

/// The middleware around the whole application.
pub(super) async fn track<B: MessageBody + 'static>(
    limits: Limits,
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<PiecewiseBody<RequestInProgress>>, Error> {
    let state = request.conn_data::<Rc<ConnectionState>>().expect("every connection shares its state");
    let state = Rc::clone(state);
    let (is_head, has_body) = (request.method() == Method::HEAD, has_body(request.headers()));
    let is_pipelined = state.start_request(has_body);
    let in_progress = RequestInProgress(Rc::clone(&state));
    if has_body {
        let payload = watched(request.take_payload(), Rc::clone(&state));
        request.set_payload(payload);
    }
    if is_pipelined {
        // One connection with many requests must not starve the others on this worker.
        yield_now().await;
    }
    if state.is_for_probes() && !(limits.is_probe)(request.path()) {
        Cutoff::TooMany.count(1);
        let refusal = ServiceResponse::new(request.into_parts().0, too_many(limits.error_form));
        return Ok(finished(refusal, is_head, &state, in_progress));
    }
    let response = next.call(request).await?;
    Ok(finished(response, is_head, &state, in_progress))
}

fn too_many(form: ErrorForm) -> HttpResponse {
    let error = ApiError::from(ErrorCode::TooManyConnections);
    let request_id = request_id::new();
    let mut answer = HttpResponse::build(error.code().status());
    for (name, value) in SECURITY_HEADERS {
        answer.insert_header((name, value));
    }
    if let Some(seconds) = error.retry_after_seconds() {
        answer.insert_header((RETRY_AFTER, seconds));
    }
    let body = error.body(&request_id, form);
    answer.insert_header(("x-request-id", &*request_id)).json(body)
}

/// The answer, as the connection sends it.
fn finished<B: MessageBody + 'static>(
    mut response: ServiceResponse<B>,
    is_head: bool,
    state: &ConnectionState,
    in_progress: RequestInProgress,
) -> ServiceResponse<PiecewiseBody<RequestInProgress>> {
    if state.start_answer() || state.is_for_probes() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    response.map_body(|_, body| {
        if is_head {
            PiecewiseBody::without_content(&body.boxed(), in_progress)
        } else {
            PiecewiseBody::new(body.boxed(), in_progress)
        }
    })
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// The same payload, whose end the connection's state learns of.
fn watched(mut payload: Payload, state: Rc<ConnectionState>) -> Payload {
    let watched = stream::poll_fn(move |context| {
        let next = Pin::new(&mut payload).poll_next(context);
        if matches!(next, Poll::Ready(None)) {
            state.body_read();
        }
        next
    });
    Payload::Stream { payload: Box::pin(watched) }
}

/// A request that is handled or whose answer is being sent. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct RequestInProgress(Rc<ConnectionState>);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.end_request();
    }
}
