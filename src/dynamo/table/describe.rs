//! What DynamoDB says about the table.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    IndexStatus, KeySchemaElement, KeyType, ProjectionType, TableDescription, TableStatus, TimeToLiveStatus,
};
use broker_actors::error::cause;
use tokio::time::{sleep, timeout};

use super::{IndexKeys, STATUS_INDEX, TTL_ATTRIBUTE, TableError, TableNames};

/// How long a new table or index may take to become active.
pub(super) const ACTIVATION_TIMEOUT: Duration = Duration::from_secs(300);

/// The time between two looks at a table that is being made.
const ACTIVATION_POLL: Duration = Duration::from_secs(1);

pub(super) async fn describe(client: &Client, names: &TableNames) -> Result<TableDescription, TableError> {
    let answer = client.describe_table().table_name(&names.table).send().await;
    match answer {
        Ok(answer) => answer.table.ok_or_else(|| TableError::Missing(names.table.clone())),
        Err(error) if error.code() == Some("ResourceNotFoundException") => {
            Err(TableError::Missing(names.table.clone()))
        }
        Err(error) => Err(failed("DescribeTable", error)),
    }
}

/// Waits until the table and all its indexes are active.
pub(super) async fn wait_until_active(client: &Client, names: &TableNames) -> Result<(), TableError> {
    let wait = async {
        loop {
            let found = describe(client, names).await?;
            let indexes_active = found
                .global_secondary_indexes()
                .iter()
                .all(|index| index.index_status().is_none_or(|status| *status == IndexStatus::Active));
            if found.table_status() == Some(&TableStatus::Active) && indexes_active {
                return Ok(());
            }
            sleep(ACTIVATION_POLL).await;
        }
    };
    let waited = timeout(ACTIVATION_TIMEOUT, wait).await;
    waited.unwrap_or_else(|_| {
        let (table, seconds) = (names.table.clone(), ACTIVATION_TIMEOUT.as_secs());
        Err(TableError::NotActive { table, seconds })
    })
}

/// Whether DynamoDB expires items by [`TTL_ATTRIBUTE`].
pub(super) async fn has_ttl(client: &Client, names: &TableNames) -> Result<bool, TableError> {
    Ok(ttl_attribute(client, names).await?.as_deref() == Some(TTL_ATTRIBUTE))
}

/// The attribute by which DynamoDB expires items; `None` if it does not.
pub(super) async fn ttl_attribute(client: &Client, names: &TableNames) -> Result<Option<String>, TableError> {
    let found = client.describe_time_to_live().table_name(&names.table).send().await;
    let found = found.map_err(|error| failed("DescribeTimeToLive", error))?;
    let ttl = found.time_to_live_description();
    let is_on = matches!(
        ttl.and_then(|ttl| ttl.time_to_live_status()),
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
    );
    Ok(ttl.filter(|_| is_on).and_then(|ttl| ttl.attribute_name()).map(str::to_owned))
}

/// The key of the index with this name, if there is one.
pub(super) fn index_keys<'a>(found: &'a TableDescription, name: &str) -> Option<&'a [KeySchemaElement]> {
    let index = found.global_secondary_indexes().iter().find(|index| index.index_name() == Some(name))?;
    Some(index.key_schema())
}

/// The sharded status index: under its own name, or beside one of an older form.
pub(super) fn status_index(names: &TableNames, found: &TableDescription) -> Option<String> {
    let is_sharded = |name: &String| {
        index_keys(found, name).is_some_and(|keys| is_keyed_by(keys, STATUS_INDEX.hash, STATUS_INDEX.range))
    };
    [names.status_index.clone(), names.status_index_beside()].into_iter().find(is_sharded)
}

/// The status index of an older form, if the sharded one stands beside it.
pub(super) fn old_status_index(names: &TableNames, found: &TableDescription) -> Option<String> {
    let has_old = index_keys(found, &names.status_index).is_some();
    (has_old && status_index(names, found) == Some(names.status_index_beside())).then(|| names.status_index.clone())
}

/// Checks the index with this name. `Ok(false)` if there is none.
pub(super) fn check_index(
    names: &TableNames,
    found: &TableDescription,
    name: &str,
    expected: &IndexKeys,
) -> Result<bool, TableError> {
    let different = |difference: String| TableError::Different { table: names.table.clone(), difference };
    let Some(index) = found.global_secondary_indexes().iter().find(|index| index.index_name() == Some(name)) else {
        return Ok(false);
    };
    if !is_keyed_by(index.key_schema(), expected.hash, expected.range) {
        let keys = describe_keys(index.key_schema());
        let IndexKeys { hash, range } = expected;
        return Err(different(format!("the key of its index `{name}` is {keys}, not {hash} + {range}")));
    }
    let projection = index.projection().and_then(|projection| projection.projection_type());
    if projection.is_some_and(|projection| *projection != ProjectionType::All) {
        return Err(different(format!("its index `{name}` does not project all attributes")));
    }
    Ok(true)
}

/// Checks the key of the table itself.
pub(super) fn check_key(names: &TableNames, found: &TableDescription) -> Result<(), TableError> {
    let keys = found.key_schema();
    if is_keyed_by(keys, "PK", "SK") {
        return Ok(());
    }
    let difference = format!("its key is {}, not PK + SK", describe_keys(keys));
    Err(TableError::Different { table: names.table.clone(), difference })
}

pub(super) fn is_keyed_by(keys: &[KeySchemaElement], hash: &str, range: &str) -> bool {
    let has =
        |name: &str, kind: KeyType| keys.iter().any(|key| key.attribute_name() == name && *key.key_type() == kind);
    keys.len() == 2 && has(hash, KeyType::Hash) && has(range, KeyType::Range)
}

fn describe_keys(keys: &[KeySchemaElement]) -> String {
    keys.iter().map(KeySchemaElement::attribute_name).collect::<Vec<_>>().join(" + ")
}

pub(super) fn failed<E>(request: &'static str, error: SdkError<E, HttpResponse>) -> TableError
where
    E: std::error::Error + Send + Sync + 'static,
{
    TableError::Failed { request, source: cause(error) }
}
