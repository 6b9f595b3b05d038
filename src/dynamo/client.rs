//! The SDK client: for the service itself, for a server at an endpoint, or for the embedded engine.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{Config, IdentityCache, Region};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::limit::RequestLimit;
use super::request_metrics::RequestMetrics;
use crate::tls;

/// A connection that is not established by then will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// DynamoDB answers within milliseconds. An attempt that takes longer is lost.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests that create or change tables may take longer.
const TABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The shortest time between two renewals of the credentials, so that a missing permission does not ask for new ones with
/// every request.
const RENEWAL_GAP: Duration = Duration::from_secs(10);

/// A client whose cached credentials can be dropped.
#[derive(Debug)]
pub struct DynamoClient {
    current: Mutex<Current>,
    limit: RequestLimit,
}

#[derive(Debug)]
struct Current {
    client: Client,
    renewed_at: Option<Instant>,
}

impl DynamoClient {
    /// Uses this client.
    pub fn new(client: Client) -> Self {
        Self { current: Mutex::new(Current { client, renewed_at: None }), limit: RequestLimit::new() }
    }

    /// A client for the service in `region`, or for the server at `endpoint_url`. Without either, the SDK's default chain
    /// decides.
    pub async fn connect(region: Option<String>, endpoint_url: Option<String>) -> Self {
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT);
        let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .http_client(tls::aws_client())
            .timeout_config(timeouts.build())
            .retry_config(RetryConfig::disabled());
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(endpoint_url) = endpoint_url {
            loader = loader.endpoint_url(endpoint_url);
        }
        let config = aws_sdk_dynamodb::config::Builder::from(&loader.load().await).interceptor(RequestMetrics);
        Self::new(Client::from_conf(config.build()))
    }

    /// The client with the current credentials.
    pub fn current(&self) -> Client {
        self.current.lock().client.clone()
    }

    /// The same for requests that create or change tables: it waits longer, and the SDK repeats what fails.
    pub fn for_tables(&self) -> Client {
        let config = self.current().config().to_builder();
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(TABLE_TIMEOUT);
        Client::from_conf(config.timeout_config(timeouts.build()).retry_config(RetryConfig::standard()).build())
    }

    /// Drops the cached credentials, so that the next request fetches them again. Returns `false` if that was done a
    /// moment ago.
    pub(super) fn renew_credentials(&self) -> bool {
        let mut current = self.current.lock();
        if current.renewed_at.is_some_and(|at| at.elapsed() < RENEWAL_GAP) {
            return false;
        }
        tracing::warn!(event = "credentials_renewed", "DynamoDB refuses the credentials; fetching them again");
        let config: Config = current.client.config().to_builder().identity_cache(IdentityCache::lazy().build()).build();
        *current = Current { client: Client::from_conf(config), renewed_at: Some(Instant::now()) };
        true
    }

    pub(super) fn limit(&self) -> &RequestLimit {
        &self.limit
    }
}
