//! The way to DynamoDB, with faults on it: an HTTP proxy that knows of each request whether it let it through.

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

/// Longer than any sender waits.
const SILENCE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, io::Error>;

/// What lies behind the proxies.
pub struct Origin {
    pub url: String,
    pub http: reqwest::Client,
    /// Held during each write, so that there is one at a time.
    pub journal: Mutex<Journal>,
}

/// The way of one replica.
#[derive(Clone)]
struct Way {
    origin: Arc<Origin>,
    nemesis: Arc<Nemesis>,
}

/// A request, read to its end.
struct Call {
    operation: String,
    headers: HeaderMap,
    body: Bytes,
}

/// The connection is to be cut without another word.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

/// Opens a way to the origin; tells its URL.
pub async fn open(origin: Arc<Origin>, nemesis: Arc<Nemesis>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(Way { origin, nemesis }.serve(listener));
    url
}

impl Way {
    async fn serve(self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // What is cut is reset, so that the sender learns of it in the middle of whatever it does.
            stream.set_zero_linger().unwrap();
            let way = self.clone();
            let answer = service_fn(move |request| way.clone().answer(request));
            // A connection that was cut on purpose ends with an error.
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let call = Call { operation, headers: parts.headers, body };
        match self.nemesis.draw() {
            None => whole(self.pass(call, Duration::ZERO).await?),
            Some(Fault::Delay(delay) | Fault::LateRequest(delay)) => whole(self.pass(call, delay).await?),
            Some(Fault::LateResponse(delay)) => {
                let answer = self.pass(call, Duration::ZERO).await?;
                sleep(delay).await;
                whole(answer)
            }
            Some(Fault::LostRequest) => Err(Cut),
            Some(Fault::Silence) => {
                sleep(SILENCE).await;
                Err(Cut)
            }
            Some(Fault::LostResponse) => {
                self.pass(call, Duration::ZERO).await?;
                Err(Cut)
            }
            Some(Fault::HalfResponse) => Ok(half(self.pass(call, Duration::ZERO).await?)),
            Some(Fault::ErrorBefore) => Ok(internal_error()),
            Some(Fault::ErrorAfter) => {
                self.pass(call, Duration::ZERO).await?;
                Ok(internal_error())
            }
            Some(Fault::Throttle) => Ok(refusal("ProvisionedThroughputExceededException", &json!({}))),
            Some(Fault::Conflict) => Ok(conflict(&call.operation)),
        }
    }

    /// Lets the request through, after a while. It arrives even if its sender goes away meanwhile.
    async fn pass(&self, call: Call, delay: Duration) -> Result<reqwest::Response, Cut> {
        let origin = Arc::clone(&self.origin);
        let passing = tokio::spawn(async move {
            sleep(delay).await;
            origin.pass(call).await
        });
        passing.await.unwrap().map_err(|_| Cut)
    }
}

impl Origin {
    async fn pass(&self, call: Call) -> reqwest::Result<reqwest::Response> {
        let Call { operation, mut headers, body } = call;
        headers.remove("host");
        let keys = written_keys(&operation, &body);
        let request = self.http.post(&self.url).headers(headers).body(body);
        if keys.is_empty() {
            return request.send().await;
        }
        let mut journal = self.journal.lock().await;
        let began = Timestamp::now();
        let answer = request.send().await;
        journal.note(began, keys);
        answer
    }
}

fn whole(answer: reqwest::Response) -> Result<Response<Body>, Cut> {
    let answer: http::Response<reqwest::Body> = answer.into();
    Ok(answer.map(|body| body.map_err(io::Error::other).boxed()))
}

fn half(answer: reqwest::Response) -> Response<Body> {
    let begun = Ok(Frame::data(Bytes::from_static(b"{\"Item\":{\"PK\":")));
    let frames = futures_util::stream::iter([begun, Err(io::Error::other(Cut))]);
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

/// What another transaction on the same item brings; reads outside of transactions do not meet it.
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
