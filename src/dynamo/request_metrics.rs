//! Counts every request to DynamoDB, and what it consumes.

use aws_sdk_dynamodb::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemInput, BatchGetItemOutput};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemInput, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemInput, GetItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::query::{QueryInput, QueryOutput};
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsError, TransactWriteItemsInput, TransactWriteItemsOutput,
};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemInput, UpdateItemOutput};
use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{Error, Input, Output};
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use super::item::Item;

/// The unit of writes, in bytes.
const WRITE_UNIT_BYTES: usize = 1024;

/// Counts every attempt, and the capacity units of each: what DynamoDB says, and by its rules where it says nothing, for
/// failed conditions and cancelled transactions.
#[derive(Debug)]
pub(super) struct RequestMetrics;

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
                // One table's capacity, or a list of several tables'.
                let units = output.consumed_capacity.iter().flat_map(each).filter_map(|of_table| of_table.capacity_units);
                return units.reduce(|sum, units| sum + units);
            })*
            None
        }
    };
}

capacity_of! {
    GetItemInput => GetItemOutput,
    BatchGetItemInput => BatchGetItemOutput,
    PutItemInput => PutItemOutput,
    UpdateItemInput => UpdateItemOutput,
    DeleteItemInput => DeleteItemOutput,
    QueryInput => QueryOutput,
    TransactWriteItemsInput => TransactWriteItemsOutput,
}

/// A table's capacity, or a list of them.
trait Capacities {
    fn all(&self) -> &[ConsumedCapacity];
}

impl Capacities for ConsumedCapacity {
    fn all(&self) -> &[ConsumedCapacity] {
        std::slice::from_ref(self)
    }
}

impl Capacities for Vec<ConsumedCapacity> {
    fn all(&self) -> &[ConsumedCapacity] {
        self
    }
}

fn each(capacities: &impl Capacities) -> &[ConsumedCapacity] {
    capacities.all()
}

/// The units of a refused write: those of the item that did not meet the condition; in a transaction twice those of each
/// item, and of at least one unit for one that is not returned.
fn consumed_by_refusal(error: &Error) -> Option<f64> {
    if let Some(PutItemError::ConditionalCheckFailedException(failure)) = error.downcast_ref() {
        return Some(units_of(failure.item()));
    }
    if let Some(UpdateItemError::ConditionalCheckFailedException(failure)) = error.downcast_ref() {
        return Some(units_of(failure.item()));
    }
    if let Some(DeleteItemError::ConditionalCheckFailedException(failure)) = error.downcast_ref() {
        return Some(units_of(failure.item()));
    }
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.downcast_ref() else {
        return None;
    };
    Some(cancelled.cancellation_reasons().iter().map(|reason| 2.0 * units_of(reason.item())).sum())
}

fn units_of(item: Option<&Item>) -> f64 {
    item.map_or(0, size_of).div_ceil(WRITE_UNIT_BYTES).max(1) as f64
}

/// About as many bytes as DynamoDB counts, for the types that the table uses.
fn size_of(item: &Item) -> usize {
    let of_value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number.len().div_ceil(2) + 1,
        _ => 1,
    };
    item.iter().map(|(name, value)| name.len() + of_value(value)).sum()
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
        let units = match context.output_or_error() {
            Ok(output) => consumed_by(output),
            Err(error) => error.as_operation_error().and_then(consumed_by_refusal),
        };
        if let Some(units) = units {
            metrics::histogram!("broker_dynamodb_consumed_capacity_units", "operation" => operation_in(config))
                .record(units);
        }
        Ok(())
    }
}
