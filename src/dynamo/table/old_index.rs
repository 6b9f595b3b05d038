//! `table drop-old-index`: deletes the status index of the older form, beside which the sharded one stands.

use super::describe::{describe, index_keys, old_status_index};
use super::index::drop_index;
use super::open::open_table;
use super::progress::Progress;
use super::{TableError, TableNames};
use crate::dynamo::DynamoClient;

/// The old index of a table that is adopted; `None` if it has none.
///
/// # Errors
///
/// If the table cannot be used: the sharded index must be in use before the old one may go.
pub async fn find_old_index(client: &DynamoClient, names: &TableNames) -> Result<Option<String>, TableError> {
    let tables = client.for_tables();
    open_table(&tables, names).await?;
    Ok(old_status_index(names, &describe(&tables, names).await?))
}

/// Deletes the old index, if there is one, and waits until it is gone.
///
/// # Errors
///
/// As [`find_old_index`], or if DynamoDB fails.
pub async fn drop_old_index(
    client: &DynamoClient,
    names: &TableNames,
    progress: &dyn Progress,
) -> Result<Option<String>, TableError> {
    let Some(index) = find_old_index(client, names).await? else { return Ok(None) };
    drop_index(&client.for_tables(), names, &index, progress).await?;
    let found = describe(&client.for_tables(), names).await?;
    if index_keys(&found, &index).is_some() {
        let difference = format!("its index `{index}` is still there after its deletion");
        return Err(TableError::Different { table: names.table.clone(), difference });
    }
    Ok(Some(index))
}
