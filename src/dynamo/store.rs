//! [`SandboxStore`] on DynamoDB: sandboxes and claims here, the rest in [`super::coordination`].

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Delete, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure, Select,
    TransactWriteItem, Update,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker_actors::actor::ActorName;
use broker_actors::error::cause;
use broker_actors::ports::{ClaimOutcome, Cursor, Listing, MAX_PAGE, Page, SandboxStore, StoreError, WriteOutcome};
use broker_actors::sandbox::{Claim, ClaimKey, ConditionalUpdate, Sandbox, SandboxId, Status};

use super::errors::{Kind, store_error};
use super::item::{
    Item, PK, UpdateParts, claim_item, claim_key, control_key, number, read_claim, read_sandbox, sandbox_item,
    sandbox_key, text, time, update_of,
};
use super::table::TableNames;

/// The longest id of a sandbox in a cursor; the CSP's are a number's digits.
const MAX_ID_BYTES: usize = 256;

/// So many sandboxes are counted by one request. Claims wait behind it where the store does one thing at a time, as the
/// embedded engine does; behind this many for a few milliseconds.
const MAX_COUNTED: i32 = 500;

/// The table, behind the SDK.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    pub(super) client: Client,
    pub(super) names: TableNames,
}

/// How a transaction ended that wrote nothing: what is wrong with each item, in the order of the request.
enum Cancelled {
    Reasons(Vec<CancellationReason>),
    Failed(StoreError),
}

impl DynamoStore {
    /// Uses this table through this client.
    pub fn new(client: Client, names: TableNames) -> Self {
        Self { client, names }
    }

    fn sandbox_update(&self, write: &ConditionalUpdate) -> Update {
        let UpdateParts { update, condition, names, values } = update_of(&write.mutation, &write.precondition);
        Update::builder()
            .table_name(&self.names.table)
            .set_key(Some(sandbox_key(&write.sandbox_id)))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("key and expression are set")
    }

    /// Carries out both writes or neither. The claim comes first, the sandbox second.
    async fn transact(&self, claim: TransactWriteItem, sandbox: Update) -> Result<(), Cancelled> {
        let request = self
            .client
            .transact_write_items()
            .transact_items(claim)
            .transact_items(TransactWriteItem::builder().update(sandbox).build())
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let Err(error) = request.send().await else { return Ok(()) };
        match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                Err(Cancelled::Reasons(cancelled.cancellation_reasons().to_vec()))
            }
            // The same transaction, sent again by the SDK, is still being worked on.
            Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                Err(Cancelled::Failed(StoreError::OutcomeUnknown(cause("the transaction is in progress"))))
            }
            _ => Err(Cancelled::Failed(store_error(Kind::Write, error))),
        }
    }

    /// Changes a sandbox together with its claim.
    async fn write_with_claim(
        &self,
        claim: TransactWriteItem,
        write: &ConditionalUpdate,
    ) -> Result<WriteOutcome, StoreError> {
        let reasons = match self.transact(claim, self.sandbox_update(write)).await {
            Ok(()) => return Ok(WriteOutcome::Done),
            Err(Cancelled::Failed(error)) => return Err(error),
            Err(Cancelled::Reasons(reasons)) => reasons,
        };
        match verdicts(&reasons)? {
            [_, Verdict::ConditionFailed(found)] => {
                Ok(WriteOutcome::PreconditionFailed { current: found.map(read_sandbox).transpose()? })
            }
            [Verdict::ConditionFailed(_), _] => Ok(WriteOutcome::ClaimMismatch),
            [Verdict::Passed, Verdict::Passed] | [Verdict::Conflict, _] | [_, Verdict::Conflict] => {
                Ok(WriteOutcome::Conflict)
            }
        }
    }
}

/// What a cancelled transaction says of one item.
#[derive(Debug)]
enum Verdict<'a> {
    Passed,
    Conflict,
    ConditionFailed(Option<&'a Item>),
}

fn verdicts(reasons: &[CancellationReason]) -> Result<[Verdict<'_>; 2], StoreError> {
    let [claim, sandbox] = reasons else {
        return Err(StoreError::Rejected(cause(format!("a transaction of two items was cancelled for {reasons:?}"))));
    };
    Ok([verdict(claim)?, verdict(sandbox)?])
}

fn verdict(reason: &CancellationReason) -> Result<Verdict<'_>, StoreError> {
    match reason.code() {
        None | Some("None") => Ok(Verdict::Passed),
        Some("ConditionalCheckFailed") => Ok(Verdict::ConditionFailed(reason.item().filter(|found| !found.is_empty()))),
        Some("TransactionConflict") => Ok(Verdict::Conflict),
        Some(code @ ("ThrottlingError" | "ProvisionedThroughputExceeded")) => {
            Err(StoreError::Throttled(cause(format!("the transaction was cancelled: {code}"))))
        }
        Some(code) => {
            Err(StoreError::Rejected(cause(format!("the transaction was cancelled: {code} {:?}", reason.message()))))
        }
    }
}

#[async_trait]
impl SandboxStore for DynamoStore {
    async fn claim(&self, write: &ConditionalUpdate, claim: &Claim) -> Result<ClaimOutcome, StoreError> {
        let put = Put::builder()
            .table_name(&self.names.table)
            .set_item(Some(claim_item(claim)))
            .condition_expression(format!("attribute_not_exists({PK})"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("item and table are set");
        let put = TransactWriteItem::builder().put(put).build();
        let reasons = match self.transact(put, self.sandbox_update(write)).await {
            Ok(()) => return Ok(ClaimOutcome::Claimed),
            Err(Cancelled::Failed(error)) => return Err(error),
            Err(Cancelled::Reasons(reasons)) => reasons,
        };
        match verdicts(&reasons)? {
            [Verdict::ConditionFailed(Some(held)), _] => Ok(ClaimOutcome::AlreadyHeld(read_claim(held)?)),
            [_, Verdict::ConditionFailed(found)] => {
                Ok(ClaimOutcome::CandidateChanged { current: found.map(read_sandbox).transpose()? })
            }
            _ => Ok(ClaimOutcome::Conflict),
        }
    }

    async fn find_claim(&self, key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.get_item(claim_key(key)).await?.as_ref().map(read_claim).transpose()
    }

    async fn end_claim(&self, write: &ConditionalUpdate, key: &ClaimKey) -> Result<WriteOutcome, StoreError> {
        let delete = Delete::builder()
            .table_name(&self.names.table)
            .set_key(Some(claim_key(key)))
            .condition_expression(format!("attribute_not_exists({PK}) OR sandbox_id = :sandbox_id"))
            .expression_attribute_values(":sandbox_id", text(write.sandbox_id.as_str()))
            .build()
            .expect("key and table are set");
        self.write_with_claim(TransactWriteItem::builder().delete(delete).build(), write).await
    }

    async fn renew_claim(&self, write: &ConditionalUpdate, renewed: &Claim) -> Result<WriteOutcome, StoreError> {
        let update = Update::builder()
            .table_name(&self.names.table)
            .set_key(Some(claim_key(&renewed.claim_key)))
            .update_expression("SET expires_at = :expires_at, epoch = :epoch, #ttl = :ttl")
            .condition_expression("sandbox_id = :sandbox_id")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":expires_at", time(renewed.expires_at))
            .expression_attribute_values(":epoch", number(renewed.epoch.0))
            .expression_attribute_values(":ttl", time(renewed.ttl()))
            .expression_attribute_values(":sandbox_id", text(renewed.sandbox_id.as_str()))
            .build()
            .expect("key and expression are set");
        self.write_with_claim(TransactWriteItem::builder().update(update).build(), write).await
    }

    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.get_item(sandbox_key(sandbox_id)).await?.as_ref().map(read_sandbox).transpose()
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let request = self
            .client
            .put_item()
            .table_name(&self.names.table)
            .set_item(Some(sandbox_item(sandbox)))
            .condition_expression(format!("attribute_not_exists({PK})"));
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failure(&error) => Ok(false),
            Err(error) => Err(store_error(Kind::Write, error)),
        }
    }

    async fn update(&self, write: &ConditionalUpdate) -> Result<WriteOutcome, StoreError> {
        let UpdateParts { update, condition, names, values } = update_of(&write.mutation, &write.precondition);
        let request = self
            .client
            .update_item()
            .table_name(&self.names.table)
            .set_key(Some(sandbox_key(&write.sandbox_id)))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = request.send().await else { return Ok(WriteOutcome::Done) };
        match error.as_service_error() {
            Some(refusal) if refusal.is_transaction_conflict_exception() => Ok(WriteOutcome::Conflict),
            Some(aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
                failure,
            )) => {
                let found = failure.item().filter(|found| !found.is_empty());
                Ok(WriteOutcome::PreconditionFailed { current: found.map(read_sandbox).transpose()? })
            }
            _ => Err(store_error(Kind::Write, error)),
        }
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let start = listing.after.as_ref().map(|cursor| read_cursor(cursor, listing.status)).transpose()?;
        let mut request = self
            .client
            .query()
            .table_name(&self.names.table)
            .index_name(&self.names.status_index)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":status", text(listing.status.as_str()))
            .limit(i32::try_from(listing.limit.clamp(1, MAX_PAGE)).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start);
        request = match listing.allocated_until {
            None => request.key_condition_expression("#status = :status"),
            Some(until) => request
                .key_condition_expression("#status = :status AND allocated_at <= :until")
                .expression_attribute_values(":until", time(until)),
        };
        let answer = request.send().await.map_err(|error| store_error(Kind::Read, error))?;
        let sandboxes = answer.items().iter().filter_map(readable).collect();
        Ok(Page { sandboxes, next: answer.last_evaluated_key().map(write_cursor).transpose()? })
    }

    async fn count(&self, status: Status) -> Result<u64, StoreError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.names.table)
            .index_name(&self.names.status_index)
            .select(Select::Count)
            .limit(MAX_COUNTED)
            .key_condition_expression("#status = :status")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":status", text(status.as_str()))
            .into_paginator()
            .send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| store_error(Kind::Read, error))?;
            count += u64::try_from(page.count()).unwrap_or(0);
        }
        Ok(count)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.get_item(control_key(ActorName::PoolManager)).await.map(|_| ())
    }
}

impl DynamoStore {
    pub(super) async fn get_item(&self, key: Item) -> Result<Option<Item>, StoreError> {
        let request = self.client.get_item().table_name(&self.names.table).set_key(Some(key)).consistent_read(true);
        let answer = request.send().await.map_err(|error| store_error(Kind::Read, error))?;
        Ok(answer.item)
    }
}

pub(super) fn is_condition_failure<E, R>(error: &aws_sdk_dynamodb::error::SdkError<E, R>) -> bool
where
    E: aws_sdk_dynamodb::error::ProvideErrorMetadata,
{
    error.as_service_error().and_then(|refusal| refusal.code()) == Some("ConditionalCheckFailedException")
}

/// One item that somebody has spoilt by hand must not keep the others from being listed.
fn readable(item: &Item) -> Option<Sandbox> {
    read_sandbox(item)
        .inspect_err(|error| {
            metrics::counter!("broker_unreadable_items_total").increment(1);
            tracing::error!(%error, "an item was left out of a listing");
        })
        .ok()
}

/// A cursor is the index key at which the page ended: `allocated_at` and the sandbox's id. The status is the caller's.
fn write_cursor(last: &HashMap<String, aws_sdk_dynamodb::types::AttributeValue>) -> Result<Cursor, StoreError> {
    let unreadable = || StoreError::Rejected(cause("the index answered with an unknown form of key"));
    let allocated_at = last.get("allocated_at").and_then(|value| value.as_n().ok()).ok_or_else(unreadable)?;
    let partition = last.get(PK).and_then(|value| value.as_s().ok()).ok_or_else(unreadable)?;
    let sandbox_id = partition.strip_prefix("SBX#").ok_or_else(unreadable)?;
    Ok(Cursor(URL_SAFE_NO_PAD.encode(format!("{allocated_at}#{sandbox_id}"))))
}

fn read_cursor(cursor: &Cursor, status: Status) -> Result<Item, StoreError> {
    let bytes = URL_SAFE_NO_PAD.decode(&cursor.0).map_err(|_| StoreError::BadCursor)?;
    let cursor = String::from_utf8(bytes).map_err(|_| StoreError::BadCursor)?;
    let (allocated_at, sandbox_id) = cursor.split_once('#').ok_or(StoreError::BadCursor)?;
    let allocated_at: u64 = allocated_at.parse().map_err(|_| StoreError::BadCursor)?;
    // A longer key than DynamoDB takes would be an error of ours, not of the caller.
    if !(1..=MAX_ID_BYTES).contains(&sandbox_id.len()) {
        return Err(StoreError::BadCursor);
    }
    let mut start = sandbox_key(&SandboxId::new(sandbox_id));
    start.insert("status".to_owned(), text(status.as_str()));
    start.insert("allocated_at".to_owned(), number(allocated_at));
    Ok(start)
}
