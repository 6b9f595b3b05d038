//! The engine behind HTTP on a port of the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::dynamo_server::create_table;

use super::engine::{MeteringEngine, Reply};
use super::error::ServiceError;
use super::faults::FaultRule;
use super::settings::MeteringSettings;

const TARGET_PREFIX: &str = "DynamoDB_20120810.";

/// A running server. It has a thread of its own and stops when it is dropped.
pub struct MeteringServer {
    engine: MeteringEngine,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The connection is closed instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed on purpose")]
struct Closed;

impl MeteringServer {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// If no port can be bound.
    pub fn start(settings: MeteringSettings) -> Self {
        Self::start_on(0, settings)
    }

    /// Starts a server on this port.
    ///
    /// # Panics
    /// If the port cannot be bound.
    pub fn start_on(port: u16, settings: MeteringSettings) -> Self {
        let engine = MeteringEngine::new(settings);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port can be bound");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel();
        let served = engine.clone();
        let thread = std::thread::Builder::new().name("metering-server".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                tokio::select! {
                    () = serve(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { engine, address, stop: Some(stop), thread: Some(thread.expect("a thread can be started")) }
    }

    /// The endpoint for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes the broker's table, with these flags of `table create`.
    ///
    /// # Panics
    /// If the program fails.
    pub async fn create_table(&self, flags: &[&str]) {
        create_table(&self.url(), flags).await;
    }

    /// The engine, through which faults and limits are changed and counters are read while the server runs.
    pub fn engine(&self) -> &MeteringEngine {
        &self.engine
    }
}

impl Drop for MeteringServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread has ended if it does not listen.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, engine: MeteringEngine) {
    let listener = TcpListener::from_std(listener).expect("the socket is non-blocking");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let engine = engine.clone();
        let service = service_fn(move |request| {
            let engine = engine.clone();
            // A request goes on when its client goes away, as it does in the service.
            let answering = tokio::spawn(answer(engine, request));
            async move { answering.await.map_err(|_| Closed)? }
        });
        // Connections that are closed on purpose end with an error.
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(engine: MeteringEngine, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let Some(operation) = target.and_then(|target| target.strip_prefix(TARGET_PREFIX)) else {
        return Ok(control(&engine, &parts.method, parts.uri.path(), &body));
    };
    let reply = match serde_json::from_slice(&body) {
        Ok(request) => engine.answer(operation, request).await,
        Err(error) => {
            let error = ServiceError::unreadable(&error);
            Reply::Json(error.status, error.body)
        }
    };
    match reply {
        Reply::Json(status, body) => Ok(response(status, "application/x-amz-json-1.0", body.to_string())),
        Reply::Html(status) => Ok(response(status, "text/html", format!("<html><body>{status}</body></html>"))),
        Reply::Closed => Err(Closed),
        Reply::Silent => std::future::pending().await,
    }
}

/// For scripts: `GET` and `DELETE /counters`, `POST` and `DELETE /faults`.
fn control(engine: &MeteringEngine, method: &Method, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
    let json = |status: u16, body: Value| response(status, "application/json", body.to_string());
    match (method.as_str(), path) {
        ("GET", "/counters") => json(200, json!(engine.counters())),
        ("DELETE", "/counters") => {
            engine.reset_counters();
            json(200, json!({}))
        }
        ("POST", "/faults") => match serde_json::from_slice::<FaultRule>(body) {
            Ok(rule) => {
                engine.add_fault(rule);
                json(200, json!({}))
            }
            Err(error) => json(400, json!({ "error": error.to_string() })),
        },
        ("DELETE", "/faults") => {
            engine.clear_faults();
            json(200, json!({}))
        }
        _ => json(404, json!({ "error": "neither an operation of DynamoDB nor /counters nor /faults" })),
    }
}

fn response(status: u16, content_type: &str, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header("content-type", content_type)
        .body(Full::new(Bytes::from(body)))
        .expect("the parts are valid")
}
