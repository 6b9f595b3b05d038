//! The check at every start: the table is there, has the form that this version needs, and is adopted.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::{AttributeValue, TableDescription};
use broker_actors::error::Chain;

use super::describe::{check_index, check_key, describe, has_ttl, index_keys, status_index};
use super::schema::{FORM, Schema, read_schema};
use super::{IDEMPOTENCY_INDEX, STATUS_INDEX, TRACK_INDEX, TableError, TableForm, TableNames};

/// Checks the table and returns its form. What the process may not ask is not checked, and logged.
///
/// # Errors
///
/// See [`TableError`].
pub async fn open_table(client: &Client, names: &TableNames) -> Result<TableForm, TableError> {
    let found = match describe(client, names).await {
        Ok(found) => {
            check_key(names, &found)?;
            Some(found)
        }
        Err(error) if is_denied(&error) => {
            let error = Chain(&error).to_string();
            tracing::warn!(event = "table_not_checked", error, "the table's keys and indexes were not checked");
            None
        }
        Err(error) => return Err(error),
    };
    let schema = usable(names, read_schema(client, names).await?)?;
    let indexes = match found {
        Some(found) => Indexes::of(names, &found)?,
        None => Indexes::probe(client, names).await?,
    };
    match has_ttl(client, names).await {
        Ok(true) => {}
        Ok(false) => {
            let message = "DynamoDB does not expire items by the attribute ttl; run `sandbox-broker table create`";
            tracing::warn!(event = "ttl_off", table = names.table, "{message}");
        }
        Err(error) => {
            let error = Chain(&error).to_string();
            tracing::warn!(event = "table_not_checked", error, "the table's TTL was not checked");
        }
    }
    let Indexes { status_index, track_index, idempotency_index } = indexes;
    Ok(TableForm { shards: schema.shards, status_index, track_index, idempotency_index })
}

/// The schema, if this version can use the table.
pub(super) fn usable(names: &TableNames, schema: Option<Schema>) -> Result<Schema, TableError> {
    let table = || names.table.clone();
    match schema {
        None => Err(TableError::NotAdopted(table())),
        Some(Schema { form, .. }) if form > FORM => Err(TableError::Newer { table: table(), form }),
        Some(Schema { form, .. }) if form < FORM => Err(TableError::NotAdopted(table())),
        Some(Schema { resharding_to: Some(shards), .. }) => {
            Err(TableError::Resharding { table: table(), shards: shards.get().into() })
        }
        Some(schema) => Ok(schema),
    }
}

fn is_denied(error: &TableError) -> bool {
    let TableError::Failed { source, .. } = error else { return false };
    Chain(&**source).to_string().contains("AccessDenied")
}

/// The indexes to use.
struct Indexes {
    status_index: String,
    track_index: Option<String>,
    idempotency_index: Option<String>,
}

impl Indexes {
    fn of(names: &TableNames, found: &TableDescription) -> Result<Self, TableError> {
        let lookup_index = |name: &String, keys| -> Result<_, TableError> {
            Ok(check_index(names, found, name, keys)?.then(|| name.clone()))
        };
        Ok(Self {
            status_index: Self::status_index(names, found)?,
            track_index: lookup_index(&names.track_index, &TRACK_INDEX)?,
            idempotency_index: lookup_index(&names.idempotency_index, &IDEMPOTENCY_INDEX)?,
        })
    }

    fn status_index(names: &TableNames, found: &TableDescription) -> Result<String, TableError> {
        if let Some(name) = status_index(names, found) {
            check_index(names, found, &name, &STATUS_INDEX)?;
            return Ok(name);
        }
        if index_keys(found, &names.status_index).is_some() {
            return Err(TableError::NotAdopted(names.table.clone()));
        }
        let difference = format!("it has no index `{}`", names.status_index);
        Err(TableError::Different { table: names.table.clone(), difference })
    }

    /// For a role that may not describe the table: a query shows which of the two status indexes has the key.
    async fn probe(client: &Client, names: &TableNames) -> Result<Self, TableError> {
        let beside = names.status_index_beside();
        for name in [&names.status_index, &beside] {
            let query = client
                .query()
                .table_name(&names.table)
                .index_name(name)
                .key_condition_expression("status_shard = :partition")
                .expression_attribute_values(":partition", AttributeValue::S("available#00".to_owned()))
                .limit(1)
                .send()
                .await;
            match query {
                Ok(_) => {
                    let status_index = name.clone();
                    let (track_index, idempotency_index) = (names.track_index.clone(), names.idempotency_index.clone());
                    return Ok(Self {
                        status_index,
                        track_index: Some(track_index),
                        idempotency_index: Some(idempotency_index),
                    });
                }
                Err(error) if error.code() == Some("ValidationException") => {}
                Err(error) if error.code() == Some("ResourceNotFoundException") => {
                    return Err(TableError::Missing(names.table.clone()));
                }
                Err(error) => return Err(super::describe::failed("Query", error)),
            }
        }
        Err(TableError::NotAdopted(names.table.clone()))
    }
}
