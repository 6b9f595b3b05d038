//! [`SandboxStore`] on DynamoDB: sandboxes and claims here, the rest in [`super::coordination`].

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Delete, Put, ReturnValuesOnConditionCheckFailure, Select, TransactWriteItem, Update,
};
use broker_actors::actor::ActorName;
use broker_actors::error::cause;
use broker_actors::ports::{
    ClaimOutcome, Cursor, Listing, Lookup, Page, PageRequest, PreDeleteRecord, SandboxStore, StoreError, WriteOutcome,
};
use broker_actors::sandbox::{Claim, ClaimKey, ConditionalUpdate, ReplicaId, Sandbox, SandboxId, Shard, ShardCount};
use uuid::Uuid;

use super::call::{CallError, call, call_throttled};
use super::client::DynamoClient;
use super::cursor;
use super::errors::{CONDITION_FAILED, Kind, THROTTLED, is_throttled};
use super::item::{
    Change, Item, PK, SK, UpdateParts, claim_item, claim_key, control_key, number, pre_delete_record, read_changes,
    read_claim, read_sandbox, replica_key, sandbox_item, sandbox_key, status_shard, text, time, update_of,
};
use super::readability::Readability;
use super::table::TableForm;

/// Connections that are open before the broker is ready.
const WARM_CONNECTIONS: usize = 8;

/// The table, through the SDK.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    pub(super) client: Arc<DynamoClient>,
    pub(super) table: String,
    form: TableForm,
    /// The largest page of a listing, in items. Claims wait behind a page where the store does one thing at a time, as
    /// the embedded engine does: about a millisecond for 100.
    page_limit: u32,
    /// The largest page of a count. Counting is cheaper than listing.
    count_limit: u32,
    /// Clones share it, so that a readiness check knows what the listings met.
    readability: Arc<Readability>,
}

impl DynamoStore {
    /// Uses this table.
    pub fn new(client: Arc<DynamoClient>, table: impl Into<String>, form: TableForm) -> Self {
        let readability = Arc::default();
        Self { client, table: table.into(), form, page_limit: 1000, count_limit: 10_000, readability }
    }

    /// Reads in small pages, for a store that does one thing at a time.
    #[must_use]
    pub fn with_small_pages(self) -> Self {
        Self { page_limit: 100, count_limit: 500, ..self }
    }

    /// Opens a few connections to the service, so that the first claims need not wait for name resolution and TLS.
    pub async fn open_connections(&self) {
        let reads = (0..WARM_CONNECTIONS).map(|_| self.get_item(control_key(ActorName::PoolManager)));
        // A store that does not answer shows in the readiness check.
        let _ = futures_util::future::join_all(reads).await;
    }

    /// The last move of a sandbox to each status, in the order of time; none if there is no such sandbox.
    ///
    /// # Errors
    ///
    /// As every read of the store.
    pub async fn changes(&self, sandbox_id: &SandboxId) -> Result<Vec<Change>, StoreError> {
        let item = self.get_item(sandbox_key(sandbox_id)).await?;
        item.map_or(Ok(Vec::new()), |item| read_changes(&item))
    }

    fn sandbox_update(&self, update: &ConditionalUpdate) -> Update {
        let UpdateParts { update: expression, condition, names, values } = update_of(update, self.form.shards);
        Update::builder()
            .table_name(&self.table)
            .set_key(Some(sandbox_key(&update.sandbox_id)))
            .update_expression(expression)
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("key and expression are set")
    }

    /// Executes all writes or none. `Err` has the reason of each.
    pub(super) async fn transact<const N: usize>(
        &self,
        writes: [TransactWriteItem; N],
    ) -> Result<Result<(), [Verdict; N]>, StoreError> {
        // One token for all attempts: DynamoDB executes them once and repeats the answer.
        let token = Uuid::new_v4().to_string();
        let send = |client: aws_sdk_dynamodb::Client| {
            let request =
                client.transact_write_items().set_transact_items(Some(writes.to_vec())).client_request_token(&token);
            request.send()
        };
        match call_throttled(&self.client, Kind::Write, send, is_throttled).await {
            Ok(_) => Ok(Ok(())),
            Err(CallError::Outcome {
                error: TransactWriteItemsError::TransactionCanceledException(cancelled), ..
            }) => verdicts(cancelled.cancellation_reasons()).map(Err),
            Err(error) => Err(error.into()),
        }
    }

    /// Updates a sandbox together with its claim.
    async fn write_with_claim(
        &self,
        claim: TransactWriteItem,
        update: &ConditionalUpdate,
    ) -> Result<WriteOutcome, StoreError> {
        match self.transact([claim, self.sandbox_write(update)]).await? {
            Ok(()) => Ok(WriteOutcome::Done),
            Err([_, Verdict::ConditionFailed(current)]) => {
                Ok(WriteOutcome::PreconditionFailed { current: current.as_ref().map(read_sandbox).transpose()? })
            }
            Err([Verdict::ConditionFailed(_), _]) => Ok(WriteOutcome::ClaimMismatch),
            Err([Verdict::Other(problem), _] | [_, Verdict::Other(problem)]) => {
                Err(StoreError::Rejected(cause(problem)))
            }
            Err(_) => Ok(WriteOutcome::Conflict),
        }
    }

    /// The write that creates a claim under a free key.
    pub(super) fn claim_put(&self, claim: &Claim) -> TransactWriteItem {
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(claim_item(claim)))
            .condition_expression(format!("attribute_not_exists({PK})"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("item and table are set");
        TransactWriteItem::builder().put(put).build()
    }

    pub(super) fn sandbox_write(&self, update: &ConditionalUpdate) -> TransactWriteItem {
        TransactWriteItem::builder().update(self.sandbox_update(update)).build()
    }

    pub(super) async fn get_item(&self, key: Item) -> Result<Option<Item>, StoreError> {
        let send = |client: aws_sdk_dynamodb::Client| {
            client.get_item().table_name(&self.table).set_key(Some(key.clone())).consistent_read(true).send()
        };
        Ok(call(&self.client, Kind::Read, send).await?.item)
    }
}

/// What the verdicts on claim and sandbox say about a claim.
pub(super) fn refused_claim(verdicts: [Verdict; 2]) -> Result<ClaimOutcome, StoreError> {
    match verdicts {
        [Verdict::ConditionFailed(Some(held)), _] => Ok(ClaimOutcome::AlreadyHeld(read_claim(&held)?)),
        [_, Verdict::ConditionFailed(current)] => {
            // An item that cannot be read is no candidate. The next one may be.
            let current = current.as_ref().and_then(|item| read_sandbox(item).ok());
            Ok(ClaimOutcome::CandidateChanged { current })
        }
        [Verdict::Other(problem), _] | [_, Verdict::Other(problem)] => Err(StoreError::Rejected(cause(problem))),
        [_, Verdict::Conflict] => Ok(ClaimOutcome::CandidateConflict),
        _ => Ok(ClaimOutcome::ClaimConflict),
    }
}

/// What a cancelled transaction says about one item.
#[derive(Debug)]
pub(super) enum Verdict {
    Passed,
    Conflict,
    /// With the item, unless there is none.
    ConditionFailed(Option<Item>),
    Throttled,
    /// What the adapter does not expect.
    Other(String),
}

fn verdicts<const N: usize>(reasons: &[CancellationReason]) -> Result<[Verdict; N], StoreError> {
    let verdicts: Vec<_> = reasons.iter().map(verdict).collect();
    <[Verdict; N]>::try_from(verdicts).map_err(|_| {
        let problem = format!("a transaction of {N} items was cancelled for {} reasons", reasons.len());
        StoreError::Rejected(cause(problem))
    })
}

fn verdict(reason: &CancellationReason) -> Verdict {
    match reason.code() {
        None | Some("None") => Verdict::Passed,
        Some(CONDITION_FAILED) => Verdict::ConditionFailed(reason.item().filter(|item| !item.is_empty()).cloned()),
        Some("TransactionConflict") => Verdict::Conflict,
        Some(code) if THROTTLED.contains(&code) => Verdict::Throttled,
        Some(code) => Verdict::Other(format!("the transaction was cancelled: {code} {:?}", reason.message())),
    }
}

#[async_trait]
impl SandboxStore for DynamoStore {
    fn shards(&self) -> ShardCount {
        self.form.shards
    }

    async fn claim(&self, update: &ConditionalUpdate, claim: &Claim) -> Result<ClaimOutcome, StoreError> {
        match self.transact([self.claim_put(claim), self.sandbox_write(update)]).await? {
            Ok(()) => Ok(ClaimOutcome::Claimed),
            Err(verdicts) => refused_claim(verdicts),
        }
    }

    async fn find_claim(&self, key: &ClaimKey) -> Result<Option<Claim>, StoreError> {
        self.get_item(claim_key(key)).await?.as_ref().map(read_claim).transpose()
    }

    async fn end_claim(&self, update: &ConditionalUpdate, key: &ClaimKey) -> Result<WriteOutcome, StoreError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(claim_key(key)))
            .condition_expression(format!("attribute_not_exists({PK}) OR sandbox_id = :sandbox_id"))
            .expression_attribute_values(":sandbox_id", text(update.sandbox_id.as_str()))
            .build()
            .expect("key and table are set");
        self.write_with_claim(TransactWriteItem::builder().delete(delete).build(), update).await
    }

    async fn renew_claim(&self, update: &ConditionalUpdate, renewed: &Claim) -> Result<WriteOutcome, StoreError> {
        // A renewed holding is no standby: only an activation ends one, and a standby cannot be renewed.
        let (activation, activated_at) = match renewed.lab.activated_at {
            Some(at) => (", activated_at = :activated_at", Some((":activated_at".to_owned(), time(at)))),
            None => ("", None),
        };
        let values = [
            (":expires_at".to_owned(), time(renewed.expires_at)),
            (":epoch".to_owned(), number(renewed.epoch.0)),
            (":sandbox_id".to_owned(), text(renewed.sandbox_id.as_str())),
        ];
        let renewal = Update::builder()
            .table_name(&self.table)
            .set_key(Some(claim_key(&renewed.claim_key)))
            .update_expression(format!("SET expires_at = :expires_at, epoch = :epoch{activation} REMOVE standby"))
            .condition_expression("sandbox_id = :sandbox_id")
            .set_expression_attribute_values(Some(values.into_iter().chain(activated_at).collect()))
            .build()
            .expect("key and expression are set");
        self.write_with_claim(TransactWriteItem::builder().update(renewal).build(), update).await
    }

    async fn delete_claim(&self, claim: &Claim) -> Result<bool, StoreError> {
        let send = |client: aws_sdk_dynamodb::Client| {
            let request = client
                .delete_item()
                .table_name(&self.table)
                .set_key(Some(claim_key(&claim.claim_key)))
                .condition_expression("sandbox_id = :sandbox_id AND epoch = :epoch")
                .expression_attribute_values(":sandbox_id", text(claim.sandbox_id.as_str()))
                .expression_attribute_values(":epoch", number(claim.epoch.0))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            request.send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) => Ok(true),
            Err(CallError::Outcome {
                error: DeleteItemError::ConditionalCheckFailedException(failure),
                was_unanswered,
            }) => {
                // An attempt without an answer may have deleted it.
                Ok(was_unanswered && failure.item().is_none_or(Item::is_empty))
            }
            Err(CallError::Outcome { error: DeleteItemError::TransactionConflictException(_), .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.get_item(sandbox_key(sandbox_id)).await?.as_ref().map(read_sandbox).transpose()
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let item = sandbox_item(sandbox, self.form.shards);
        let send = |client: aws_sdk_dynamodb::Client| {
            let request = client
                .put_item()
                .table_name(&self.table)
                .set_item(Some(item.clone()))
                .condition_expression(format!("attribute_not_exists({PK})"))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            request.send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) => Ok(true),
            Err(CallError::Outcome {
                error: PutItemError::ConditionalCheckFailedException(failure),
                was_unanswered,
            }) => {
                // An attempt without an answer may have created it.
                Ok(was_unanswered && failure.item() == Some(&item))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn update(&self, update: &ConditionalUpdate) -> Result<WriteOutcome, StoreError> {
        let UpdateParts { update: expression, condition, names, values } = update_of(update, self.form.shards);
        let send = |client: aws_sdk_dynamodb::Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(sandbox_key(&update.sandbox_id)))
                .update_expression(&expression)
                .condition_expression(&condition)
                .set_expression_attribute_names(Some(names.clone()))
                .set_expression_attribute_values(Some(values.clone()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            request.send()
        };
        let (error, was_unanswered) = match call(&self.client, Kind::Write, send).await {
            Ok(_) => return Ok(WriteOutcome::Done),
            Err(CallError::Outcome { error, was_unanswered }) => (error, was_unanswered),
            Err(CallError::Failed(error)) => return Err(error),
        };
        match error {
            UpdateItemError::TransactionConflictException(_) => Ok(WriteOutcome::Conflict),
            UpdateItemError::ConditionalCheckFailedException(failure) => {
                let current = failure.item().filter(|item| !item.is_empty()).map(read_sandbox).transpose()?;
                // An attempt without an answer may have made the change.
                if was_unanswered && current.as_ref().is_some_and(|current| update.is_result(current)) {
                    return Ok(WriteOutcome::Done);
                }
                Ok(WriteOutcome::PreconditionFailed { current })
            }
            error => Err(StoreError::Rejected(cause(error))),
        }
    }

    async fn list(&self, request: &PageRequest) -> Result<Page, StoreError> {
        let PageRequest { listing, shard, limit, after } = request;
        let (partition, condition) = (status_shard(listing.status, *shard), position_condition(listing));
        let start = after.as_ref().map(|after| cursor::read_listing(after, &partition)).transpose()?;
        let limit = limit.unwrap_or(self.page_limit).clamp(1, self.page_limit);
        let send = |client: aws_sdk_dynamodb::Client| {
            let query = client
                .query()
                .table_name(&self.table)
                .index_name(&self.form.status_index)
                .key_condition_expression(condition)
                .set_expression_attribute_values(Some(position_values(listing, &partition)))
                .limit(i32::try_from(limit).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start.clone());
            query.send()
        };
        let answer = call(&self.client, Kind::Read, send).await?;
        let is_whole = (listing.from, listing.until) == (None, None);
        let sandboxes = self.readability.read(answer.items(), is_whole);
        Ok(Page { sandboxes, next: answer.last_evaluated_key().map(cursor::of_listing).transpose()? })
    }

    async fn count(&self, listing: Listing, shard: Shard) -> Result<u64, StoreError> {
        let (partition, condition) = (status_shard(listing.status, shard), position_condition(&listing));
        let (mut count, mut start) = (0, None);
        loop {
            let send = |client: aws_sdk_dynamodb::Client| {
                let query = client
                    .query()
                    .table_name(&self.table)
                    .index_name(&self.form.status_index)
                    .select(Select::Count)
                    .limit(i32::try_from(self.count_limit).unwrap_or(i32::MAX))
                    .key_condition_expression(condition)
                    .set_expression_attribute_values(Some(position_values(&listing, &partition)))
                    .set_exclusive_start_key(start.clone());
                query.send()
            };
            let answer = call(&self.client, Kind::Read, send).await?;
            count += u64::try_from(answer.count()).unwrap_or(0);
            match answer.last_evaluated_key {
                Some(next) => start = Some(next),
                None => return Ok(count),
            }
        }
    }

    async fn find(&self, lookup: &Lookup, limit: u32, after: Option<&Cursor>) -> Result<Page, StoreError> {
        let (index, attribute, value) = match lookup {
            Lookup::Track(track) => (&self.form.track_index, "allocated_to_track", track.as_str()),
            Lookup::Key(key) => (&self.form.idempotency_index, "idempotency_key", key.as_str()),
        };
        let index = index.as_ref().ok_or_else(|| StoreError::NoIndex(format!("by {attribute}")))?;
        let start = after.map(|after| cursor::read_lookup(after, attribute, value)).transpose()?;
        let send = |client: aws_sdk_dynamodb::Client| {
            let query = client
                .query()
                .table_name(&self.table)
                .index_name(index)
                .key_condition_expression(format!("{attribute} = :value"))
                .expression_attribute_values(":value", text(value))
                .scan_index_forward(false)
                .limit(i32::try_from(limit.clamp(1, self.page_limit)).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start.clone());
            query.send()
        };
        let answer = call(&self.client, Kind::Read, send).await?;
        let sandboxes = self.readability.read(answer.items(), false);
        Ok(Page { sandboxes, next: answer.last_evaluated_key().map(cursor::of_lookup).transpose()? })
    }

    async fn record_pre_delete(&self, record: &PreDeleteRecord) -> Result<(), StoreError> {
        let (key, attributes) = pre_delete_record(record);
        let (sets, removals): (Vec<_>, Vec<_>) = attributes.iter().partition(|(_, value)| value.is_some());
        let sets: Vec<_> = sets.iter().map(|(name, _)| format!("#{name} = :{name}")).collect();
        let mut update = format!("SET {}", sets.join(", "));
        if !removals.is_empty() {
            let removals: Vec<_> = removals.iter().map(|(name, _)| format!("#{name}")).collect();
            update += &format!(" REMOVE {}", removals.join(", "));
        }
        let send = |client: aws_sdk_dynamodb::Client| {
            let mut request =
                client.update_item().table_name(&self.table).set_key(Some(key.clone())).update_expression(&update);
            for (name, value) in &attributes {
                request = request.expression_attribute_names(format!("#{name}"), *name);
                if let Some(value) = value {
                    request = request.expression_attribute_values(format!(":{name}"), value.clone());
                }
            }
            request.send()
        };
        call(&self.client, Kind::Write, send).await?;
        Ok(())
    }

    async fn check(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        if let Some(problem) = self.readability.problem() {
            return Err(StoreError::Rejected(cause(problem)));
        }
        let send = |client: aws_sdk_dynamodb::Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(replica_key(replica)))
                .update_expression("ADD checks :one")
                .condition_expression(format!("attribute_exists({SK})"))
                .expression_attribute_values(":one", number(1));
            request.send()
        };
        match call(&self.client, Kind::Write, send).await {
            // Without a heartbeat item there is nothing to write to, but the table has answered.
            Ok(_) | Err(CallError::Outcome { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The condition of a listing on the keys of the status index.
fn position_condition(listing: &Listing) -> &'static str {
    match (listing.from, listing.until) {
        (None, None) => "status_shard = :partition",
        (Some(_), None) => "status_shard = :partition AND shard_at >= :from",
        (None, Some(_)) => "status_shard = :partition AND shard_at <= :until",
        (Some(_), Some(_)) => "status_shard = :partition AND shard_at BETWEEN :from AND :until",
    }
}

/// The values in it.
fn position_values(listing: &Listing, partition: &str) -> Item {
    let bounds = [(":from", listing.from), (":until", listing.until)];
    let bounds = bounds.into_iter().filter_map(|(name, at)| Some((name.to_owned(), time(at?))));
    bounds.chain([(":partition".to_owned(), text(partition))]).collect()
}
