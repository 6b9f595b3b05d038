//! A metered table, a connection to it that answers as a test says, and brokers on it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use aws_sdk_dynamodb::Config;
use aws_sdk_dynamodb::config::http::{HttpRequest, HttpResponse};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Credentials, HttpClient, Region, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use broker_actors::allocation::AllocateRequest;
use broker_actors::broker::Broker as Core;
use broker_actors::ports::SandboxStore;
use broker_actors::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, Holding, IdempotencyKey, LabTime, Owner, Sandbox, TrackId, UnixMillis,
};
use broker_actors::start::{BrokerSettings, Ports};
use broker_actors::testing::{FakeCsp, PausedClock, TestBroker};
use parking_lot::Mutex;
use sandbox_broker::dynamo::DynamoClient;
use sandbox_broker::dynamo::item::sandbox_item;
use serde_json::{Value, json};
use test_support::metering::{Lag, Limits, MeteringEngine, MeteringServer, MeteringSettings, Reply};
use test_support::{Broker, dynamo_store};

pub(crate) const TABLE: &str = "sandbox-broker-pool";

/// A connection to an engine in this process.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) engine: MeteringEngine,
    scripted: Arc<Mutex<VecDeque<Scripted>>>,
}

struct Scripted {
    operation: &'static str,
    status: u16,
    body: Value,
}

impl Connection {
    fn to(engine: MeteringEngine) -> Self {
        Self { engine, scripted: Arc::default() }
    }

    /// Answers the next requests of this operation with an error, without carrying them out.
    pub(crate) fn script(&self, operation: &'static str, times: usize, error: &str, details: &Value) {
        let mut body = details.clone();
        body["__type"] = json!(format!("com.amazonaws.dynamodb.v20120810#{error}"));
        let scripted = (0..times).map(|_| Scripted { operation, status: 400, body: body.clone() });
        self.scripted.lock().extend(scripted);
    }

    /// A transaction that is cancelled for these reasons.
    pub(crate) fn cancel(&self, times: usize, claim: Value, sandbox: Value) {
        let reasons = json!({ "CancellationReasons": [claim, sandbox] });
        self.script("TransactWriteItems", times, "TransactionCanceledException", &reasons);
    }

    pub(crate) fn end_script(&self) {
        self.scripted.lock().clear();
    }

    pub(crate) fn is_script_over(&self) -> bool {
        self.scripted.lock().is_empty()
    }

    async fn answer(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let scripted = {
            let mut scripted = self.scripted.lock();
            let is_next = scripted.front().is_some_and(|next| next.operation == operation);
            if is_next { scripted.pop_front() } else { None }
        };
        let reply = match scripted {
            Some(Scripted { status, body, .. }) => Reply::Json(status, body),
            None => {
                let body = serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap();
                self.engine.answer(&operation, body).await
            }
        };
        let (status, body) = match reply {
            Reply::Json(status, body) => (status, body.to_string()),
            Reply::Html(status) => (status, "<html></html>".to_owned()),
            Reply::Closed => return Err(ConnectorError::io("closed".into())),
            Reply::Silent => std::future::pending().await,
        };
        Ok(HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body)))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl HttpConnector for Connection {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().answer(request))
    }
}

impl HttpClient for Connection {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// A metered table with the store of one replica.
pub(crate) struct Table {
    pub(crate) connection: Connection,
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) csp: Arc<FakeCsp>,
}

impl Table {
    /// A table without limits and lag.
    pub(crate) async fn new() -> Self {
        Self::with_credentials(SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "test")))
            .await
    }

    /// A table that is used with these credentials.
    pub(crate) async fn with_credentials(credentials: SharedCredentialsProvider) -> Self {
        let connection = Connection::to(MeteringEngine::new(unlimited()));
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(credentials)
            .endpoint_url("http://metered.invalid")
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(1)).build())
            .http_client(SharedHttpClient::new(connection.clone()))
            .build();
        let client = DynamoClient::new(aws_sdk_dynamodb::Client::from_conf(config));
        let store = Arc::new(dynamo_store(client).await);
        connection.engine.reset_counters();
        Self { connection, store, clock: Arc::new(PausedClock::new()), csp: Arc::new(FakeCsp::default()) }
    }

    /// Puts available sandboxes into the table and the CSP, free of charge.
    pub(crate) fn fill(&mut self, count: u32) {
        self.csp = Arc::new(FakeCsp::with_accounts(count));
        let sandboxes = (1..=count).map(|number| json_of(&sandbox_item(&sandbox(number), self.store.shards())));
        self.connection.engine.load(TABLE, sandboxes);
    }

    /// Sets an attribute of a sandbox's item to a text, which makes it unreadable where a number belongs.
    pub(crate) async fn spoil(&self, sandbox: &Sandbox, attribute: &str) {
        let request = json!({
            "Key": key_of(sandbox),
            "UpdateExpression": "SET #attribute = :text",
            "ExpressionAttributeNames": { "#attribute": attribute },
            "ExpressionAttributeValues": { ":text": { "S": "yesterday" } },
        });
        self.write("UpdateItem", request).await;
    }

    /// Replaces a sandbox's item by that of a new sandbox.
    pub(crate) async fn repair(&self, sandbox: &Sandbox) {
        self.write("PutItem", json!({ "Item": json_of(&sandbox_item(sandbox, self.store.shards())) })).await;
    }

    /// Deletes a sandbox's item, as a restore may.
    pub(crate) async fn delete_sandbox(&self, sandbox: &Sandbox) {
        self.write("DeleteItem", json!({ "Key": key_of(sandbox) })).await;
    }

    async fn write(&self, operation: &str, mut request: Value) {
        request["TableName"] = json!(TABLE);
        let reply = self.connection.engine.answer(operation, request).await;
        assert!(matches!(reply, Reply::Json(200, _)), "{operation}: {reply:?}");
    }

    /// Deletes all items of sandboxes and claims, as a person would.
    pub(crate) async fn empty(&self) {
        let scan = json!({ "TableName": TABLE, "ProjectionExpression": "PK, SK" });
        let Reply::Json(200, found) = self.connection.engine.answer("Scan", scan).await else { panic!("no scan") };
        for key in found["Items"].as_array().unwrap() {
            let partition = key["PK"]["S"].as_str().unwrap();
            if partition.starts_with("SBX#") || partition.starts_with("TRACK#") {
                self.write("DeleteItem", json!({ "Key": key })).await;
            }
        }
    }

    /// A broker on this table, with all actors on the test's thread.
    pub(crate) async fn broker(&self, replica: &str) -> Core {
        self.broker_with(TestBroker::settings(replica)).await
    }

    pub(crate) async fn broker_with(&self, settings: BrokerSettings) -> Core {
        let ports =
            Ports { store: self.store.clone(), csp: self.csp.clone(), pre_delete: None, clock: self.clock.clone() };
        let here = Arbiter::current();
        Core::start(ports, settings, &here, &here).await.unwrap()
    }

    /// The requests of an operation since the counters were reset.
    pub(crate) fn requests(&self, operation: &str) -> u64 {
        self.connection.engine.counters().operation(operation).requests
    }

    /// The requests since the counters were reset, by operation.
    pub(crate) fn all_requests(&self) -> Vec<(String, u64)> {
        let counters = self.connection.engine.counters();
        counters.operations.into_iter().map(|(operation, counted)| (operation, counted.requests)).collect()
    }
}

/// The sandbox that a sync makes of the CSP's account with this number.
pub(crate) fn sandbox(number: u32) -> Sandbox {
    Sandbox::discovered(&FakeCsp::account(number), Duration::ZERO, UnixMillis(PausedClock::BEGIN_MILLIS.0 - 3_600_000))
}

/// A server without limits and lag, and the settings of a program that uses it.
pub(crate) struct Server {
    metering: MeteringServer,
    url: String,
}

impl Server {
    /// A server with the table.
    pub(crate) async fn start() -> Self {
        let metering = MeteringServer::start(unlimited());
        metering.create_table(&[]).await;
        Self { url: metering.url(), metering }
    }

    fn store(&self) -> [(&str, &str); 3] {
        [("CSP_MODE", "sim"), ("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", &self.url)]
    }

    /// A broker with a full pool.
    pub(crate) async fn broker(&self, settings: &[(&str, &str)]) -> Broker {
        let broker = Broker::start(&[&self.store()[..], settings].concat()).await;
        broker.sync("").await;
        broker
    }

    pub(crate) fn engine(&self) -> &MeteringEngine {
        self.metering.engine()
    }
}

/// Settings without limits and lag.
pub(crate) fn unlimited() -> MeteringSettings {
    MeteringSettings { limits: Limits::unlimited(), lag: Lag::none(), ..MeteringSettings::default() }
}

pub(crate) fn owner(track: &str) -> Owner {
    Owner::named(TrackId::new(track))
}

pub(crate) fn request(track: &str) -> AllocateRequest {
    let key = IdempotencyKey::new("key");
    AllocateRequest {
        owner: owner(track),
        track_name: None,
        key,
        name_prefix: None,
        lab_duration: None,
        standby: false,
        wait: None,
        quota: None,
    }
}

pub(crate) fn claim_key(track: &str) -> ClaimKey {
    ClaimKey { track: TrackId::new(track), key: IdempotencyKey::new("key") }
}

/// The writes with which a track claims a sandbox.
pub(crate) fn claim_of(sandbox: &Sandbox, track: &str) -> (ConditionalUpdate, Claim) {
    let now = PausedClock::BEGIN;
    let expires_at = now.plus(Duration::from_secs(4 * 3600));
    let holding = Holding {
        owner: owner(track),
        track_name: None,
        key: IdempotencyKey::new("key"),
        expires_at,
        lab: LabTime::default(),
    };
    sandbox.claim(holding, now).unwrap()
}

/// An item in DynamoDB's JSON.
pub(crate) fn json_of(item: &HashMap<String, AttributeValue>) -> Value {
    let of = |value: &AttributeValue| match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        other => panic!("the table has no {other:?}"),
    };
    item.iter().map(|(name, value)| (name.clone(), of(value))).collect()
}

fn key_of(sandbox: &Sandbox) -> Value {
    json!({ "PK": { "S": format!("SBX#{}", sandbox.sandbox_id) }, "SK": { "S": "META" } })
}

/// A reason of a cancelled transaction.
pub(crate) fn reason(code: &str) -> Value {
    json!({ "Code": code, "Message": "of the test" })
}
