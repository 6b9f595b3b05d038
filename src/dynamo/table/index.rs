//! Indexes that are added to a table or deleted from it. DynamoDB changes one index of a table at a time.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::{
    BillingMode, CreateGlobalSecondaryIndexAction, DeleteGlobalSecondaryIndexAction, GlobalSecondaryIndexUpdate,
    IndexStatus, Projection, ProjectionType, ProvisionedThroughput, TableDescription, TableStatus,
};
use tokio::time::{Instant, sleep};

use super::create::{attributes_of, key_schema};
use super::describe::{check_index, describe, failed, index_keys, status_index};
use super::progress::Progress;
use super::{IDEMPOTENCY_INDEX, IndexKeys, STATUS_INDEX, TRACK_INDEX, TableError, TableNames};

/// The longest that a change of an index may take. DynamoDB needs about five minutes for an empty one, and hours for one
/// of hundreds of millions of items.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// The time between two looks at an index that is being changed.
const CHANGE_POLL: Duration = Duration::from_secs(2);

/// The step's name while another change of the table goes on.
pub(super) const WAITING: &str = "Waiting until an earlier change of the table or its indexes is over";

/// An index that a table lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingIndex {
    /// The name that it gets.
    pub name: String,
    /// Its key.
    pub keys: IndexKeys,
    /// The index of an older form that has the name it would have had.
    pub beside: Option<String>,
}

/// The indexes that the table lacks, in the order in which they are made.
///
/// # Errors
///
/// If an index by track or by key has another key: DynamoDB cannot change it.
pub(super) fn missing_indexes(
    names: &TableNames,
    found: &TableDescription,
    lookup_indexes: bool,
) -> Result<Vec<MissingIndex>, TableError> {
    let mut missing = Vec::new();
    if status_index(names, found).is_none() {
        let is_taken = index_keys(found, &names.status_index).is_some();
        let name = if is_taken { names.status_index_beside() } else { names.status_index.clone() };
        if index_keys(found, &name).is_some() {
            let difference = format!("the key of its index `{name}` is not status_shard + shard_at");
            return Err(TableError::Different { table: names.table.clone(), difference });
        }
        let beside = is_taken.then(|| names.status_index.clone());
        missing.push(MissingIndex { name, keys: STATUS_INDEX, beside });
    }
    if lookup_indexes {
        for (name, keys) in [(&names.track_index, TRACK_INDEX), (&names.idempotency_index, IDEMPOTENCY_INDEX)] {
            if !check_index(names, found, name, &keys)? {
                missing.push(MissingIndex { name: name.clone(), keys, beside: None });
            }
        }
    }
    Ok(missing)
}

/// Makes an index and waits until it is active.
pub(super) async fn add_index(
    client: &Client,
    names: &TableNames,
    index: &MissingIndex,
    progress: &dyn Progress,
) -> Result<(), TableError> {
    let found = wait_until_unchanged(client, names, WAITING, progress).await?;
    let create = CreateGlobalSecondaryIndexAction::builder()
        .index_name(&index.name)
        .set_key_schema(Some(key_schema(&index.keys)))
        .projection(Projection::builder().projection_type(ProjectionType::All).build())
        .set_provisioned_throughput(provisioned_throughput(&found))
        .build()
        .expect("name, keys and projection are set");
    let request = client
        .update_table()
        .table_name(&names.table)
        .set_attribute_definitions(Some(attributes_of(&index.keys).to_vec()))
        .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(create).build())
        .send();
    request.await.map_err(|error| failed("UpdateTable", error))?;
    let step = format!("Making the index {}; that takes minutes, and longer for a large table", index.name);
    wait_until_unchanged(client, names, &step, progress).await.map(|_| ())
}

/// Deletes an index and waits until it is gone.
pub(super) async fn drop_index(
    client: &Client,
    names: &TableNames,
    index: &str,
    progress: &dyn Progress,
) -> Result<(), TableError> {
    wait_until_unchanged(client, names, WAITING, progress).await?;
    let delete = DeleteGlobalSecondaryIndexAction::builder().index_name(index).build().expect("the name is set");
    let request = client
        .update_table()
        .table_name(&names.table)
        .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().delete(delete).build())
        .send();
    match request.await {
        Ok(_) => {}
        // An earlier run deleted it.
        Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(()),
        Err(error) => return Err(failed("UpdateTable", error)),
    }
    wait_until_unchanged(client, names, &format!("Deleting the index {index}"), progress).await.map(|_| ())
}

/// Waits until nothing about the table is being changed. `step` says what the wait is for, if there is one.
pub(super) async fn wait_until_unchanged(
    client: &Client,
    names: &TableNames,
    step: &str,
    progress: &dyn Progress,
) -> Result<TableDescription, TableError> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    let mut is_waiting = false;
    loop {
        let found = describe(client, names).await?;
        let is_active = found.table_status().is_none_or(|status| *status == TableStatus::Active);
        let mut indexes = found.global_secondary_indexes().iter();
        if is_active && indexes.all(|index| index.index_status().is_none_or(|status| *status == IndexStatus::Active)) {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(TableError::NotActive { table: names.table.clone(), seconds: CHANGE_TIMEOUT.as_secs() });
        }
        if !std::mem::replace(&mut is_waiting, true) {
            progress.start(step, None);
        }
        sleep(CHANGE_POLL).await;
    }
}

/// A table with provisioned capacity needs some for each index: as much as it has itself.
fn provisioned_throughput(found: &TableDescription) -> Option<ProvisionedThroughput> {
    let mode = found.billing_mode_summary().and_then(|summary| summary.billing_mode());
    if mode == Some(&BillingMode::PayPerRequest) {
        return None;
    }
    let throughput = found.provisioned_throughput()?;
    let (reads, writes) = (throughput.read_capacity_units()?, throughput.write_capacity_units()?);
    if reads == 0 || writes == 0 {
        return None;
    }
    let throughput = ProvisionedThroughput::builder().read_capacity_units(reads).write_capacity_units(writes);
    Some(throughput.build().expect("both fields are set"))
}
