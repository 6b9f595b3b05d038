//! `table create`: makes the table with its indexes, TTL and point-in-time recovery, or completes it.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType,
    PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, Projection, ProjectionType, ScalarAttributeType,
    TimeToLiveSpecification, WarmThroughput,
};
use broker_actors::sandbox::ShardCount;
use tokio::time::{Instant, sleep};

use super::describe::{describe, failed, ttl_attribute, wait_until_active};
use super::open::open_table;
use super::schema::{create_schema, read_schema};
use super::{IDEMPOTENCY_INDEX, IndexKeys, STATUS_INDEX, TRACK_INDEX, TTL_ATTRIBUTE, TableError, TableNames};

/// How long DynamoDB may take until point-in-time recovery can be enabled on a new table.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(900);

/// The time between two attempts to enable it.
const RECOVERY_POLL: Duration = Duration::from_secs(10);

/// How to make the table.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The number of shards of a new table.
    pub shards: ShardCount,
    /// Whether it gets the indexes by track and by idempotency key. Without them an allocation costs 6 write units instead
    /// of 8, and operators cannot search by student or key.
    pub lookup_indexes: bool,
    /// Write units a second that the table and its indexes must take at once.
    pub warm_write: Option<i64>,
    /// Read units a second that they must give at once.
    pub warm_read: Option<i64>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { shards: ShardCount::default(), lookup_indexes: true, warm_write: None, warm_read: None }
    }
}

/// What became of point-in-time recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It is on.
    On,
    /// The server does not have it. Emulators do not, and the broker works without.
    Unsupported,
}

/// The result of `table create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Whether the table was missing.
    pub is_new: bool,
    /// Point-in-time recovery.
    pub recovery: Recovery,
}

/// Makes the table, or completes it. `progress` is told what takes long.
///
/// # Errors
///
/// See [`TableError`]. A table of an older form is left alone.
pub async fn create_table(
    client: &Client,
    names: &TableNames,
    options: &CreateOptions,
    progress: impl Fn(&str),
) -> Result<Created, TableError> {
    let is_new = match describe(client, names).await {
        Ok(_) => false,
        Err(TableError::Missing(_)) => {
            send_create(client, names, options).await?;
            true
        }
        Err(error) => return Err(error),
    };
    wait_until_active(client, names).await?;
    // A table without items is a new one too: Terraform made it, or an earlier run ended before this.
    if is_new || (read_schema(client, names).await?.is_none() && is_empty(client, names).await?) {
        create_schema(client, names, options.shards).await?;
    }
    open_table(client, names).await?;
    enable_ttl(client, names).await?;
    let recovery = enable_recovery(client, names, progress).await?;
    Ok(Created { is_new, recovery })
}

async fn is_empty(client: &Client, names: &TableNames) -> Result<bool, TableError> {
    let found = client.scan().table_name(&names.table).limit(1).consistent_read(true).send().await;
    Ok(found.map_err(|error| failed("Scan", error))?.count() == 0)
}

/// The indexes of a table, by name.
fn indexes<'a>(names: &'a TableNames, options: &CreateOptions) -> Vec<(&'a str, IndexKeys)> {
    let mut indexes = vec![(names.status_index.as_str(), STATUS_INDEX)];
    if options.lookup_indexes {
        indexes.push((&names.track_index, TRACK_INDEX));
        indexes.push((&names.idempotency_index, IDEMPOTENCY_INDEX));
    }
    indexes
}

async fn send_create(client: &Client, names: &TableNames, options: &CreateOptions) -> Result<(), TableError> {
    let mut request = client
        .create_table()
        .table_name(&names.table)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key_element("PK", KeyType::Hash))
        .key_schema(key_element("SK", KeyType::Range))
        .set_warm_throughput(warm_throughput(options));
    let mut attributes = vec![attribute("PK", ScalarAttributeType::S), attribute("SK", ScalarAttributeType::S)];
    for (name, keys) in indexes(names, options) {
        request = request.global_secondary_indexes(index(name, &keys, options));
        for attribute in attributes_of(&keys) {
            if !attributes.contains(&attribute) {
                attributes.push(attribute);
            }
        }
    }
    match request.set_attribute_definitions(Some(attributes)).send().await {
        Ok(_) => Ok(()),
        // Another process was first.
        Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
        Err(error) => Err(failed("CreateTable", error)),
    }
}

fn index(name: &str, keys: &IndexKeys, options: &CreateOptions) -> GlobalSecondaryIndex {
    GlobalSecondaryIndex::builder()
        .index_name(name)
        .set_key_schema(Some(key_schema(keys)))
        .projection(Projection::builder().projection_type(ProjectionType::All).build())
        .set_warm_throughput(warm_throughput(options))
        .build()
        .expect("name and keys are set")
}

fn warm_throughput(options: &CreateOptions) -> Option<WarmThroughput> {
    if options.warm_write.is_none() && options.warm_read.is_none() {
        return None;
    }
    let warm = WarmThroughput::builder()
        .set_write_units_per_second(options.warm_write)
        .set_read_units_per_second(options.warm_read);
    Some(warm.build())
}

pub(super) fn key_schema(keys: &IndexKeys) -> Vec<KeySchemaElement> {
    vec![key_element(keys.hash, KeyType::Hash), key_element(keys.range, KeyType::Range)]
}

pub(super) fn attributes_of(keys: &IndexKeys) -> [AttributeDefinition; 2] {
    [attribute(keys.hash, ScalarAttributeType::S), attribute(keys.range, ScalarAttributeType::N)]
}

fn key_element(name: &str, kind: KeyType) -> KeySchemaElement {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("both fields are set")
}

fn attribute(name: &str, kind: ScalarAttributeType) -> AttributeDefinition {
    AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().expect("both fields are set")
}

/// Makes DynamoDB expire items, if it does not.
pub(super) async fn enable_ttl(client: &Client, names: &TableNames) -> Result<(), TableError> {
    match ttl_attribute(client, names).await? {
        Some(attribute) if attribute == TTL_ATTRIBUTE => return Ok(()),
        Some(attribute) => return Err(TableError::OtherTtl { table: names.table.clone(), attribute }),
        None => {}
    }
    let specification = TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name(TTL_ATTRIBUTE)
        .build()
        .expect("both fields are set");
    let request = client.update_time_to_live().table_name(&names.table).time_to_live_specification(specification);
    request.send().await.map(|_| ()).map_err(|error| failed("UpdateTimeToLive", error))
}

/// The state of point-in-time recovery; `None` if it is off, or the process may not ask.
pub(super) async fn recovery(client: &Client, names: &TableNames) -> Option<Recovery> {
    let found = client.describe_continuous_backups().table_name(&names.table).send().await;
    let status = match &found {
        Ok(found) => found
            .continuous_backups_description()
            .and_then(|backups| backups.point_in_time_recovery_description())
            .and_then(|recovery| recovery.point_in_time_recovery_status()),
        Err(error) if is_unknown_operation(error.code()) => return Some(Recovery::Unsupported),
        Err(_) => None,
    };
    (status == Some(&PointInTimeRecoveryStatus::Enabled)).then_some(Recovery::On)
}

/// Enables point-in-time recovery, if it is off. A new table takes up to ten minutes until that is possible.
pub(super) async fn enable_recovery(
    client: &Client,
    names: &TableNames,
    progress: impl Fn(&str),
) -> Result<Recovery, TableError> {
    if let Some(recovery) = recovery(client, names).await {
        return Ok(recovery);
    }
    let deadline = Instant::now() + RECOVERY_TIMEOUT;
    loop {
        let specification = PointInTimeRecoverySpecification::builder()
            .point_in_time_recovery_enabled(true)
            .build()
            .expect("the field is set");
        let request = client
            .update_continuous_backups()
            .table_name(&names.table)
            .point_in_time_recovery_specification(specification);
        match request.send().await {
            Ok(_) => return Ok(Recovery::On),
            Err(error) if is_unknown_operation(error.code()) => return Ok(Recovery::Unsupported),
            Err(error)
                if error.code() == Some("ContinuousBackupsUnavailableException") && Instant::now() < deadline =>
            {
                progress("waiting until point-in-time recovery can be enabled (up to 15 minutes)");
                sleep(RECOVERY_POLL).await;
            }
            Err(error) => return Err(failed("UpdateContinuousBackups", error)),
        }
    }
}

/// What emulators answer to operations that they do not have.
fn is_unknown_operation(code: Option<&str>) -> bool {
    matches!(code, Some("UnknownOperationException" | "UnsupportedOperation" | "NotImplemented"))
}
