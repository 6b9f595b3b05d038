//! Reads and conditional writes of single items, for work over a whole table. All of it is safe to repeat: a write that
//! was executed although its answer was lost fails its own condition the second time, and its caller reads again.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Get, Put, TransactGetItem, TransactWriteItem, Update,
};
use broker_actors::error::{Chain, cause};
use broker_actors::ports::StoreError;
use tokio::time::sleep;
use uuid::Uuid;

use super::expression::Expression;
use crate::dynamo::DynamoClient;
use crate::dynamo::call::{CallError, call, call_throttled};
use crate::dynamo::errors::{CONDITION_FAILED, Kind, THROTTLED, is_throttled};
use crate::dynamo::item::{Item, PK, text};

/// The largest page of a scan, in items. The embedded engine does one thing at a time, so a page is not long.
const PAGE_ITEMS: i32 = 250;

/// The most pages of one scan (I8): a hundred million items.
const MAX_PAGES: u32 = 400_000;

/// Attempts of a request that is throttled, refused for now, or not answered.
const MAX_ATTEMPTS: u32 = 6;

/// The wait after the first of them. It doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest of these waits.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The items of one table.
#[derive(Clone, Copy)]
pub(super) struct Items<'a> {
    client: &'a DynamoClient,
    table: &'a str,
}

/// A conditional change of one item.
#[derive(Clone, Debug)]
pub(super) struct Write {
    action: Action,
    /// The item's key; for `Put`, the whole item.
    key: Item,
    expression: Expression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Put,
    Update,
    Delete,
    Check,
}

impl Write {
    /// Makes the item, or replaces all of it.
    pub(super) fn put(item: Item, expression: Expression) -> Self {
        Self { action: Action::Put, key: item, expression }
    }

    /// Updates the item, or makes it.
    pub(super) fn update(key: Item, expression: Expression) -> Self {
        Self { action: Action::Update, key, expression }
    }

    /// Deletes the item.
    pub(super) fn delete(key: Item, expression: Expression) -> Self {
        Self { action: Action::Delete, key, expression }
    }

    /// Changes nothing, but the other writes of its transaction are made only if its condition holds.
    pub(super) fn check(key: Item, expression: Expression) -> Self {
        Self { action: Action::Check, key, expression }
    }
}

impl<'a> Items<'a> {
    pub(super) fn new(client: &'a DynamoClient, table: &'a str) -> Self {
        Self { client, table }
    }

    /// Reads an item, consistently.
    pub(super) async fn get(&self, key: &Item) -> Result<Option<Item>, StoreError> {
        let send = |client: Client| {
            client.get_item().table_name(self.table).set_key(Some(key.clone())).consistent_read(true).send()
        };
        with_retries(async || Ok(call(self.client, Kind::Read, send).await?.item)).await
    }

    /// Reads two items as they are at one moment.
    pub(super) async fn get_pair(&self, keys: [&Item; 2]) -> Result<[Option<Item>; 2], StoreError> {
        let gets = keys.map(|key| {
            let get = Get::builder().table_name(self.table).set_key(Some(key.clone()));
            TransactGetItem::builder().get(get.build().expect("key and table are set")).build()
        });
        let send = |client: Client| client.transact_get_items().set_transact_items(Some(gets.to_vec())).send();
        let mut found = with_retries(async || Ok(call(self.client, Kind::Read, send).await?))
            .await?
            .responses
            .unwrap_or_default()
            .into_iter()
            .map(|response| response.item.filter(|item| !item.is_empty()));
        Ok([found.next().flatten(), found.next().flatten()])
    }

    /// All items of the table, consistently, in pages. They are not all read at one moment.
    pub(super) fn scan(&self) -> Scan<'a> {
        Scan { items: *self, start: None, pages_left: MAX_PAGES, is_over: false }
    }

    /// All items of a partition.
    pub(super) async fn partition(&self, partition: &str) -> Result<Vec<Item>, StoreError> {
        let (mut items, mut start) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let send = |client: Client| {
                let query = client
                    .query()
                    .table_name(self.table)
                    .key_condition_expression(format!("{PK} = :partition"))
                    .expression_attribute_values(":partition", text(partition))
                    .consistent_read(true)
                    .set_exclusive_start_key(start.clone());
                query.send()
            };
            let page = with_retries(async || Ok(call(self.client, Kind::Read, send).await?)).await?;
            items.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
        Err(StoreError::TooLong)
    }

    /// Executes all of the writes or none. `false` if a condition does not hold, or another writer was busy with one of
    /// the items: then nothing is written, and the items have to be read again.
    pub(super) async fn write(&self, writes: &[Write]) -> Result<bool, StoreError> {
        with_retries(async || match writes {
            [Write { action: Action::Update, key, expression }] => self.update_one(key, expression).await,
            [Write { action: Action::Delete, key, expression }] => self.delete_one(key, expression).await,
            writes => self.transact(writes).await,
        })
        .await
    }

    async fn update_one(&self, key: &Item, expression: &Expression) -> Result<bool, StoreError> {
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(self.table)
                .set_key(Some(key.clone()))
                .update_expression(expression.update())
                .set_condition_expression(expression.condition())
                .set_expression_attribute_names(expression.names())
                .set_expression_attribute_values(expression.values());
            request.send()
        };
        is_written(call(self.client, Kind::Write, send).await.map(|_| ()))
    }

    async fn delete_one(&self, key: &Item, expression: &Expression) -> Result<bool, StoreError> {
        let send = |client: Client| {
            let request = client
                .delete_item()
                .table_name(self.table)
                .set_key(Some(key.clone()))
                .set_condition_expression(expression.condition())
                .set_expression_attribute_names(expression.names())
                .set_expression_attribute_values(expression.values());
            request.send()
        };
        is_written(call(self.client, Kind::Write, send).await.map(|_| ()))
    }

    async fn transact(&self, writes: &[Write]) -> Result<bool, StoreError> {
        let writes: Vec<_> = writes.iter().map(|write| self.transact_item(write)).collect();
        // One token for all attempts: DynamoDB executes them once and repeats the answer.
        let token = Uuid::new_v4().to_string();
        let send = |client: Client| {
            let request =
                client.transact_write_items().set_transact_items(Some(writes.clone())).client_request_token(&token);
            request.send()
        };
        match call_throttled(self.client, Kind::Write, send, is_throttled).await {
            Ok(_) => Ok(true),
            Err(CallError::Outcome {
                error: TransactWriteItemsError::TransactionCanceledException(cancelled), ..
            }) => {
                let mut reasons = cancelled.cancellation_reasons().iter().filter_map(CancellationReason::code);
                let may_pass = |code: &str| {
                    matches!(code, "None" | CONDITION_FAILED | "TransactionConflict") || THROTTLED.contains(&code)
                };
                match reasons.all(may_pass) {
                    true => Ok(false),
                    false => Err(StoreError::Rejected(cause(cancelled))),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn transact_item(&self, write: &Write) -> TransactWriteItem {
        let Write { action, key, expression } = write;
        let item = TransactWriteItem::builder();
        let complete = "key, table and expression are set";
        match action {
            Action::Put => item.put(
                Put::builder()
                    .table_name(self.table)
                    .set_item(Some(key.clone()))
                    .set_condition_expression(expression.condition())
                    .set_expression_attribute_names(expression.names())
                    .set_expression_attribute_values(expression.values())
                    .build()
                    .expect(complete),
            ),
            Action::Update => item.update(
                Update::builder()
                    .table_name(self.table)
                    .set_key(Some(key.clone()))
                    .update_expression(expression.update())
                    .set_condition_expression(expression.condition())
                    .set_expression_attribute_names(expression.names())
                    .set_expression_attribute_values(expression.values())
                    .build()
                    .expect(complete),
            ),
            Action::Delete => item.delete(
                Delete::builder()
                    .table_name(self.table)
                    .set_key(Some(key.clone()))
                    .set_condition_expression(expression.condition())
                    .set_expression_attribute_names(expression.names())
                    .set_expression_attribute_values(expression.values())
                    .build()
                    .expect(complete),
            ),
            Action::Check => item.condition_check(
                ConditionCheck::builder()
                    .table_name(self.table)
                    .set_key(Some(key.clone()))
                    .set_condition_expression(expression.condition())
                    .set_expression_attribute_names(expression.names())
                    .set_expression_attribute_values(expression.values())
                    .build()
                    .expect(complete),
            ),
        }
        .build()
    }
}

/// The pages of a scan.
pub(super) struct Scan<'a> {
    items: Items<'a>,
    start: Option<Item>,
    pages_left: u32,
    is_over: bool,
}

impl Scan<'_> {
    /// The next page; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLong`] if there are more than [`MAX_PAGES`].
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Item>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        self.pages_left = self.pages_left.checked_sub(1).ok_or(StoreError::TooLong)?;
        let send = |client: Client| {
            let scan = client
                .scan()
                .table_name(self.items.table)
                .consistent_read(true)
                .limit(PAGE_ITEMS)
                .set_exclusive_start_key(self.start.clone());
            scan.send()
        };
        let page = with_retries(async || Ok(call(self.items.client, Kind::Read, send).await?)).await?;
        self.is_over = page.last_evaluated_key.is_none();
        self.start = page.last_evaluated_key;
        Ok(Some(page.items.unwrap_or_default()))
    }
}

/// Whether a conditional write of one item was executed.
fn is_written<E>(answer: Result<(), CallError<E>>) -> Result<bool, StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let is_refusal =
        |error: &E| matches!(error.code(), Some("ConditionalCheckFailedException" | "TransactionConflictException"));
    match answer {
        Ok(()) => Ok(true),
        Err(CallError::Outcome { error, .. }) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Repeats a request that may succeed later. Work over a whole table writes as fast as it can, so it is throttled now and
/// then, and one lost answer among a hundred thousand must not end it.
async fn with_retries<T>(attempt: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..MAX_ATTEMPTS {
        match attempt().await {
            Err(error) if may_pass(&error) => {}
            answer => return answer,
        }
        sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    attempt().await
}

/// Whether the same request may succeed a little later.
fn may_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Throttled(_) | StoreError::OutcomeUnknown(_) => true,
        // A missing permission or table stays missing.
        StoreError::Unavailable(source) => {
            let reason = Chain(&**source).to_string();
            !["AccessDenied", "ResourceNotFound"].iter().any(|code| reason.contains(code))
        }
        _ => false,
    }
}
