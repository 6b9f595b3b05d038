//! An HTTP proxy between a replica and DynamoDB that injects the faults of the nemesis and counts requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::nemesis::{Fault, Nemesis};
use super::requests::RequestCounts;

/// Longer than any timeout of a sender.
const HANG: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, io::Error>;

/// The server behind the proxies.
pub(crate) struct Origin {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// The requests that replicas sent, whatever became of them.
    pub(crate) counts: RequestCounts,
}

/// The proxy of one replica.
#[derive(Clone)]
struct Proxy {
    origin: Arc<Origin>,
    nemesis: Arc<Nemesis>,
}

/// A complete request.
struct DynamoRequest {
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
        self.origin.counts.count(&operation, &body);
        let request = DynamoRequest { headers: parts.headers, body };
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
        let DynamoRequest { mut headers, body } = request;
        headers.remove("host");
        self.http.post(&self.url).headers(headers).body(body).send().await
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
