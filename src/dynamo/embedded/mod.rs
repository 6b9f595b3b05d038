//! The embedded store: the SDK's requests, answered inside the process by a DynamoDB engine on SQLite.
//!
//! The SDK gets an HTTP connector that passes each request to the engine instead of a socket. The engine does one thing
//! at a time and blocks on the disk, so it has its own thread behind a bounded queue (`queue.rs`). SQLite runs in WAL mode
//! with full synchronization, so a write that was answered survives a power cut.

mod queue;

use std::fmt;
use std::fs::{File, TryLockError};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_dynamodb::config::http::{HttpRequest, HttpResponse};
use aws_sdk_dynamodb::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use self::queue::{Call, Receiver, Refused, Sender, queue};
use super::client::DynamoClient;
use super::request_metrics::RequestMetrics;

/// The file in the data directory.
const FILE_NAME: &str = "broker.db";

/// Keeps a second process out of the data directory.
const LOCK_NAME: &str = "broker.lock";

const TARGET_PREFIX: &str = "DynamoDB_20120810.";

/// Why the engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be used.
    #[error("the data directory {path} cannot be used: {source}; set BROKER_DATA_DIR to one that can be written")]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Another broker has it.
    #[error("another broker uses the data directory {0}; stop it or set BROKER_DATA_DIR to another one")]
    InUse(PathBuf),
    /// The engine failed.
    #[error("the embedded database cannot be opened: {0}")]
    Engine(#[from] DynoxideError),
    /// The thread could not be started.
    #[error("the embedded database's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// The engine, with its thread.
#[derive(Clone)]
pub struct EmbeddedEngine {
    queue: Arc<Sender>,
    database: Database,
    /// Held for as long as the data directory is in use.
    _lock: Option<Arc<File>>,
}

impl EmbeddedEngine {
    /// Opens the engine on a file in this directory, which is made if it is missing.
    pub fn on_disk(directory: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(unusable)?;
        let lock = File::create(directory.join(LOCK_NAME)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(directory.to_owned())),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let path = directory.join(FILE_NAME);
        let database = Database::new(&path.to_string_lossy())?;
        Self::start(database, Some(Arc::new(lock)))
    }

    /// Opens the engine in memory.
    pub fn in_memory() -> Result<Self, OpenError> {
        Self::start(Database::memory()?, None)
    }

    fn start(database: Database, lock: Option<Arc<File>>) -> Result<Self, OpenError> {
        let (sender, calls) = queue();
        let engine = database.clone();
        std::thread::Builder::new()
            .name("dynamodb-engine".to_owned())
            .spawn(move || serve(&engine, calls))
            .map_err(OpenError::Thread)?;
        Ok(Self { queue: Arc::new(sender), database, _lock: lock })
    }

    /// A client whose requests the engine answers. It signs nothing, times nothing out and repeats nothing: there is
    /// no network that could lose a request.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version_latest()
            .region(aws_sdk_dynamodb::config::Region::new("embedded"))
            .endpoint_url("http://embedded.invalid")
            .allow_no_auth()
            .retry_config(aws_sdk_dynamodb::config::retry::RetryConfig::disabled())
            .timeout_config(aws_sdk_dynamodb::config::timeout::TimeoutConfig::disabled())
            .stalled_stream_protection(aws_sdk_dynamodb::config::StalledStreamProtectionConfig::disabled())
            .http_client(SharedHttpClient::new(self.clone()))
            .interceptor(RequestMetrics)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// The client for the store.
    pub fn dynamo_client(&self) -> DynamoClient {
        DynamoClient::new(self.client())
    }

    /// Removes items whose TTL is over; blocks, a page at a time. Tells how many it removed.
    pub fn sweep_ttl(&self) -> Result<usize, DynoxideError> {
        self.database.sweep_ttl()
    }

    async fn answer(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let operation = request.headers().get("x-amz-target").and_then(|target| target.strip_prefix(TARGET_PREFIX));
        let operation = operation.unwrap_or_default().to_owned();
        let body = request.body().bytes().unwrap_or_default().to_vec();
        let (answer, answered) = oneshot::channel();
        let (status, body) = match self.queue.send(Call { operation, body, answer }) {
            Ok(()) => answered.await.map_err(|_| gone())?,
            Err(Refused::Full) => {
                (400, r#"{"__type":"ThrottlingException","message":"the embedded engine's queue is full"}"#.to_owned())
            }
            Err(Refused::Closed) => return Err(gone()),
        };
        let status = StatusCode::try_from(status).map_err(|error| ConnectorError::other(error.into(), None))?;
        Ok(HttpResponse::new(status, SdkBody::from(body)))
    }
}

impl fmt::Debug for EmbeddedEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EmbeddedEngine").finish_non_exhaustive()
    }
}

impl HttpConnector for EmbeddedEngine {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().answer(request))
    }
}

impl HttpClient for EmbeddedEngine {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

fn gone() -> ConnectorError {
    ConnectorError::other("the embedded engine's thread has ended".into(), None)
}

/// The engine's thread: one call after another.
fn serve(database: &Database, calls: Receiver) {
    calls.serve(|call| {
        let dispatched = std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(database, &call.operation, &call.body)));
        let answer = match dispatched {
            Ok(Ok(body)) => (200, body),
            Ok(Err(error)) => (error.status_code(), error.to_json()),
            Err(_) => {
                tracing::error!(event = "engine_panicked", operation = call.operation, "the embedded engine panicked");
                (500, r#"{"__type":"InternalServerError","message":"the embedded engine panicked"}"#.to_owned())
            }
        };
        // A caller that has gone away needs no answer; its request is executed all the same.
        let _ = call.answer.send(answer);
    });
}

fn dispatch(database: &Database, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
    match operation {
        "TransactGetItems" => answer(body, |request| database.transact_get_items(request)),
        "TransactWriteItems" => {
            answer(body, |mut request: dynoxide::actions::transact_write_items::TransactWriteItemsRequest| {
                // The engine keeps each token for ten minutes and looks through all of them at each transaction. Here
                // nothing is ever sent twice, so a token has no use.
                request.client_request_token = None;
                database.transact_write_items(request)
            })
        }
        "GetItem" => answer(body, |request| database.get_item(request)),
        "BatchGetItem" => answer(body, |request| database.batch_get_item(request)),
        "PutItem" => answer(body, |request| database.put_item(request)),
        "UpdateItem" => answer(body, |request| database.update_item(request)),
        "DeleteItem" => answer(body, |request| database.delete_item(request)),
        "Query" => answer(body, |request| database.query(request)),
        "CreateTable" => answer(body, |request| database.create_table(request)),
        "DescribeTable" => answer(body, |request| database.describe_table(request)),
        "UpdateTable" => answer(body, |request| database.update_table(request)),
        "Scan" => answer(body, |request| database.scan(request)),
        "UpdateTimeToLive" => answer(body, |request| database.update_time_to_live(request)),
        "DescribeTimeToLive" => answer(body, |request| database.describe_time_to_live(request)),
        other => Err(DynoxideError::UnsupportedCapability(other.to_owned())),
    }
}

fn answer<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    act: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request =
        serde_json::from_slice(body).map_err(|error| DynoxideError::SerializationException(error.to_string()))?;
    let response = act(request)?;
    serde_json::to_string(&response).map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}
