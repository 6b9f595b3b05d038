//! DynamoDB: the adapter of [`broker_actors::ports::SandboxStore`], on the service itself ([`connect`]), on anything
//! that speaks its protocol (`DDB_ENDPOINT_URL`), or on an engine inside the process ([`embedded`]).

mod coordination;
pub mod embedded;
mod errors;
mod item;
mod store;
pub mod table;

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, Region, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

pub use self::store::DynamoStore;
pub use self::table::TableNames;

/// A connection that is not up by then is not coming.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// DynamoDB answers within milliseconds; an attempt that takes longer than this is lost.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// All attempts together; below the default budget of an allocation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);
/// The SDK's own repetitions, with its token bucket and jitter.
const MAX_ATTEMPTS: u32 = 3;

/// A client for the service in `region`, or for the server at `endpoint_url`; either may be left to the SDK's chain.
pub async fn connect(region: Option<String>, endpoint_url: Option<String>) -> aws_sdk_dynamodb::Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint_url) = endpoint_url {
        loader = loader.endpoint_url(endpoint_url);
    }
    let config = aws_sdk_dynamodb::config::Builder::from(&loader.load().await).interceptor(RequestCounter).build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// Counts every request that goes out, repetitions too.
#[derive(Debug)]
struct RequestCounter;

impl Intercept for RequestCounter {
    fn name(&self) -> &'static str {
        "RequestCounter"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("unknown", Metadata::name).to_owned();
        metrics::counter!("broker_dynamodb_requests_total", "operation" => operation).increment(1);
        Ok(())
    }
}
