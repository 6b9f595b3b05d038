//! The schema item, `CTRL#schema`: the form of the table's items and the number of shards. A table without it is not the
//! broker's yet.

use aws_sdk_dynamodb::Client;
use broker_actors::sandbox::ShardCount;

use super::describe::failed;
use super::expression::Expression;
use super::items::{Items, Write};
use super::{TableError, TableNames};
use crate::dynamo::item::{Item, number, schema_key};

/// The form of the items that this version reads and writes.
pub const FORM: u64 = 2;

/// The schema item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The form of the items.
    pub form: u64,
    /// The number of shards of the status index.
    pub shards: ShardCount,
    /// The number of shards that an interrupted `table reshard` was writing.
    pub resharding_to: Option<ShardCount>,
}

/// Reads the schema item; `None` if there is none.
///
/// # Errors
///
/// If DynamoDB refuses, or the item cannot be read.
pub async fn read_schema(client: &Client, names: &TableNames) -> Result<Option<Schema>, TableError> {
    let request =
        client.get_item().table_name(&names.table).set_key(Some(schema_key())).consistent_read(true).send().await;
    let answer = request.map_err(|error| failed("GetItem", error))?;
    answer.item.map(|item| parse(names, &item)).transpose()
}

fn parse(names: &TableNames, item: &Item) -> Result<Schema, TableError> {
    let unreadable = |reason: String| TableError::UnreadableSchema { table: names.table.clone(), reason };
    let read = |name: &str| -> Result<Option<u64>, TableError> {
        let Some(value) = item.get(name) else { return Ok(None) };
        let value = value.as_n().ok().and_then(|value| value.parse().ok());
        value.map(Some).ok_or_else(|| unreadable(format!("{name} is not a whole number")))
    };
    let shards = |name: &str| -> Result<Option<ShardCount>, TableError> {
        let Some(count) = read(name)? else { return Ok(None) };
        let shards = u16::try_from(count).ok().and_then(ShardCount::new);
        shards.map(Some).ok_or_else(|| unreadable(format!("{name} is {count}, not 1 to {}", ShardCount::MAX)))
    };
    let missing = |name: &str| unreadable(format!("{name} is missing"));
    Ok(Schema {
        form: read("form")?.ok_or_else(|| missing("form"))?,
        shards: shards("shards")?.ok_or_else(|| missing("shards"))?,
        resharding_to: shards("resharding_to")?,
    })
}

/// Writes the schema item, unless there is one.
pub(super) async fn create_schema(client: &Client, names: &TableNames, shards: ShardCount) -> Result<(), TableError> {
    let mut item = schema_key();
    item.insert("form".to_owned(), number(FORM));
    item.insert("shards".to_owned(), number(shards.get().into()));
    let request = client
        .put_item()
        .table_name(&names.table)
        .set_item(Some(item))
        .condition_expression("attribute_not_exists(PK)")
        .send();
    match request.await {
        Ok(_) => Ok(()),
        // Another process was first.
        Err(error) if error.as_service_error().is_some_and(|error| error.is_conditional_check_failed_exception()) => {
            Ok(())
        }
        Err(error) => Err(failed("PutItem", error)),
    }
}

/// Writes the schema item, if it is still as it was read.
pub(super) async fn replace_schema(
    items: &Items<'_>,
    names: &TableNames,
    read: Option<Schema>,
    new: Schema,
) -> Result<(), TableError> {
    let mut expression = Expression::default();
    let expected = read.map(attributes).unwrap_or_default();
    for name in ["form", "shards", "resharding_to"] {
        expression.require_as_in(&expected, name);
    }
    let wanted = attributes(new);
    for (name, value) in &wanted {
        expression.set(name, value.clone());
    }
    if new.resharding_to.is_none() {
        expression.remove("resharding_to");
    }
    match items.write(&[Write::update(schema_key(), expression)]).await? {
        true => Ok(()),
        // The write was executed although its answer was lost, or another process wrote something else.
        false if items.get(&schema_key()).await?.is_some_and(|item| parse(names, &item).is_ok_and(|it| it == new)) => {
            Ok(())
        }
        false => Err(TableError::SchemaChanged(names.table.clone())),
    }
}

/// Deletes the schema item.
pub(super) async fn delete_schema(items: &Items<'_>) -> Result<(), TableError> {
    items.write(&[Write::delete(schema_key(), Expression::default())]).await?;
    Ok(())
}

fn attributes(schema: Schema) -> Item {
    let mut attributes = Item::from([
        ("form".to_owned(), number(schema.form)),
        ("shards".to_owned(), number(schema.shards.get().into())),
    ]);
    if let Some(shards) = schema.resharding_to {
        attributes.insert("resharding_to".to_owned(), number(shards.get().into()));
    }
    attributes
}
