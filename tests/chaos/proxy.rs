//! An HTTP proxy between a replica and DynamoDB that injects the faults of the nemesis and records commits.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::history::Timestamp;
use super::journal::{Journal, written_keys};
use super::nemesis::{Fault, Nemesis};

/// Longer than any timeout of a sender.
const HANG: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, io::Error>;

/// The server behind the proxies.
pub(crate) struct Origin {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// Locked during each write, so that writes are serialized.
    pub(crate) journal: Mutex<Journal>,
}

/// The proxy of one replica.
#[derive(Clone)]
struct Proxy {
    origin: Arc<Origin>,
    nemesis: Arc<Nemesis>,
}

/// A complete request.
struct DynamoRequest {
    operation: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Makes hyper close the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("connection reset")]
struct Reset;

/// Starts a proxy for the origin and returns its URL.
pub(crate) async fn start(origin: Arc<Origin>, nemesis: Arc<Nemesis>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(Proxy { origin, nemesis }.serve(listener));
    url
}

impl Proxy {
    async fn serve(self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A closed connection is reset, so that the sender notices it at once.
            stream.set_zero_linger().unwrap();
            let proxy = self.clone();
            let answer = service_fn(move |request| proxy.clone().answer(request));
            // The result is an error if the nemesis closed the connection.
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Reset)?.to_bytes();
        let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let request = DynamoRequest { operation, headers: parts.headers, body };
        match self.nemesis.draw() {
            None => complete(self.pass(request, Duration::ZERO).await?),
            Some(Fault::Delay(delay) | Fault::LateRequest(delay)) => complete(self.pass(request, delay).await?),
            Some(Fault::LateResponse(delay)) => {
                let answer = self.pass(request, Duration::ZERO).await?;
                sleep(delay).await;
                complete(answer)
            }
            Some(Fault::LostRequest) => Err(Reset),
            Some(Fault::Hang) => {
                sleep(HANG).await;
                Err(Reset)
            }
            Some(Fault::LostResponse) => {
                self.pass(request, Duration::ZERO).await?;
                Err(Reset)
            }
            Some(Fault::PartialResponse) => Ok(partial(self.pass(request, Duration::ZERO).await?)),
            Some(Fault::ErrorWithoutEffect) => Ok(internal_error()),
            Some(Fault::ErrorWithEffect) => {
                self.pass(request, Duration::ZERO).await?;
                Ok(internal_error())
            }
            Some(Fault::Throttle) => Ok(refusal("ProvisionedThroughputExceededException", &json!({}))),
            Some(Fault::Conflict) => Ok(conflict(&request.operation)),
        }
    }

    /// Passes the request on after a delay, even if its sender closes the connection meanwhile.
    async fn pass(&self, request: DynamoRequest, delay: Duration) -> Result<reqwest::Response, Reset> {
        let origin = Arc::clone(&self.origin);
        let passing = tokio::spawn(async move {
            sleep(delay).await;
            origin.pass(request).await
        });
        passing.await.unwrap().map_err(|_| Reset)
    }
}

impl Origin {
    async fn pass(&self, request: DynamoRequest) -> reqwest::Result<reqwest::Response> {
        let DynamoRequest { operation, mut headers, body } = request;
        headers.remove("host");
        let keys = written_keys(&operation, &body);
        let request = self.http.post(&self.url).headers(headers).body(body);
        if keys.is_empty() {
            return request.send().await;
        }
        let mut journal = self.journal.lock().await;
        let started = Timestamp::now();
        let answer = request.send().await;
        journal.record(started, keys);
        answer
    }
}

fn complete(answer: reqwest::Response) -> Result<Response<Body>, Reset> {
    let answer: http::Response<reqwest::Body> = answer.into();
    Ok(answer.map(|body| body.map_err(io::Error::other).boxed()))
}

fn partial(answer: reqwest::Response) -> Response<Body> {
    let first = Ok(Frame::data(Bytes::from_static(b"{\"Item\":{\"PK\":")));
    let frames = futures_util::stream::iter([first, Err(io::Error::other(Reset))]);
    Response::builder().status(answer.status()).body(StreamBody::new(frames).boxed()).unwrap()
}

fn error(status: StatusCode, code: &str, details: &Value) -> Response<Body> {
    let mut body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "injected" });
    for (name, value) in details.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    Response::builder().status(status).header("content-type", "application/x-amz-json-1.0").body(body.boxed()).unwrap()
}

fn internal_error() -> Response<Body> {
    error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", &json!({}))
}

fn refusal(code: &str, details: &Value) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, code, details)
}

/// The error of a conflicting transaction on the same item. Reads outside of transactions are throttled instead.
fn conflict(operation: &str) -> Response<Body> {
    match operation {
        "TransactWriteItems" => {
            let reasons = json!([{ "Code": "None" }, { "Code": "TransactionConflict", "Message": "injected" }]);
            refusal("TransactionCanceledException", &json!({ "CancellationReasons": reasons }))
        }
        "PutItem" | "UpdateItem" | "DeleteItem" => refusal("TransactionConflictException", &json!({})),
        _ => refusal("ThrottlingException", &json!({})),
    }
}
