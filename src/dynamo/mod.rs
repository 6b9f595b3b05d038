//! DynamoDB: the adapter of [`broker_actors::ports::SandboxStore`], on the service itself ([`connect`]), on anything
//! that speaks its protocol (`DDB_ENDPOINT_URL`), or on an engine inside the process ([`embedded`]).

mod coordination;
pub mod embedded;
mod errors;
pub mod item;
mod store;
pub mod table;

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, Region, RuntimeComponents};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemInput, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemInput, GetItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::query::{QueryInput, QueryOutput};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsOutput;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemInput, UpdateItemOutput};
use aws_sdk_dynamodb::types::{ConsumedCapacity, ReturnConsumedCapacity};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{Input, Output};
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
    let config = aws_sdk_dynamodb::config::Builder::from(&loader.load().await).interceptor(RequestMetrics).build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// Counts every request that goes out, repetitions too, and what DynamoDB says that each consumed.
#[derive(Debug)]
struct RequestMetrics;

/// For each operation that the adapter uses: asks for the consumed capacity, and reads it.
macro_rules! capacity_of {
    ($($input:ty => $output:ty),* $(,)?) => {
        fn ask_for_capacity(input: &mut Input) {
            $(if let Some(input) = input.downcast_mut::<$input>() {
                input.return_consumed_capacity = Some(ReturnConsumedCapacity::Total);
            })*
        }

        fn consumed_by(output: &Output) -> Option<f64> {
            $(if let Some(output) = output.downcast_ref::<$output>() {
                return consumed(output.consumed_capacity.iter());
            })*
            // The one operation that may concern several tables.
            let output = output.downcast_ref::<TransactWriteItemsOutput>()?;
            consumed(output.consumed_capacity.iter().flatten())
        }
    };
}

capacity_of! {
    GetItemInput => GetItemOutput,
    PutItemInput => PutItemOutput,
    UpdateItemInput => UpdateItemOutput,
    DeleteItemInput => DeleteItemOutput,
    QueryInput => QueryOutput,
}

fn consumed<'a>(capacities: impl Iterator<Item = &'a ConsumedCapacity>) -> Option<f64> {
    capacities.filter_map(|capacity| capacity.capacity_units).reduce(|sum, units| sum + units)
}

fn operation_in(config: &ConfigBag) -> String {
    config.load::<Metadata>().map_or("unknown", Metadata::name).to_owned()
}

impl Intercept for RequestMetrics {
    fn name(&self) -> &'static str {
        "RequestMetrics"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        ask_for_capacity(context.input_mut());
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        metrics::counter!("broker_dynamodb_requests_total", "operation" => operation_in(config)).increment(1);
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(units) = context.output_or_error().ok().and_then(consumed_by) {
            metrics::histogram!("broker_dynamodb_consumed_capacity_units", "operation" => operation_in(config))
                .record(units);
        }
        Ok(())
    }
}
