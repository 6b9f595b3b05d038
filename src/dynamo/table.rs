//! The table's shape: made by `sandbox-broker table create` and by the embedded store, checked at every start.
//! Terraform makes the same one.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
    PointInTimeRecoverySpecification, Projection, ProjectionType, ScalarAttributeType, TableDescription, TableStatus,
    TimeToLiveSpecification, TimeToLiveStatus,
};

/// How long a new table, with its indexes, may take to become active.
const ACTIVATION_TIMEOUT: Duration = Duration::from_secs(300);

/// Between two looks at a table that is being made.
const ACTIVATION_POLL: Duration = Duration::from_secs(1);

/// The attribute by which DynamoDB expires items.
const TTL_ATTRIBUTE: &str = "ttl";

/// The range key of every index.
const INDEX_RANGE: &str = "allocated_at";

/// What the table and its indexes are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableNames {
    /// The table.
    pub table: String,
    /// The index by `status`.
    pub status_index: String,
    /// The index by `allocated_to_track`.
    pub track_index: String,
    /// The index by `idempotency_key`.
    pub idempotency_index: String,
}

impl Default for TableNames {
    fn default() -> Self {
        Self {
            table: "sandbox-broker-pool".to_owned(),
            status_index: "StatusIndex".to_owned(),
            track_index: "TrackIndex".to_owned(),
            idempotency_index: "IdempotencyIndex".to_owned(),
        }
    }
}

impl TableNames {
    fn indexes(&self) -> [(&str, &'static str); 3] {
        [
            (&self.status_index, "status"),
            (&self.track_index, "allocated_to_track"),
            (&self.idempotency_index, "idempotency_key"),
        ]
    }
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It does not exist.
    #[error("the table `{0}` does not exist; make it with `sandbox-broker table create` or Terraform")]
    Missing(String),
    /// It is not what the broker needs.
    #[error("the table `{table}` is not the broker's: {difference}; use another DDB_TABLE_NAME or rebuild the table")]
    Different {
        /// Its name.
        table: String,
        /// What differs.
        difference: String,
    },
    /// It did not become active in time.
    #[error("the table `{table}` is not active after {} s", ACTIVATION_TIMEOUT.as_secs())]
    NotActive {
        /// Its name.
        table: String,
    },
    /// DynamoDB does not answer, or refuses.
    #[error("DynamoDB does not do what is asked ({request}): {reason}")]
    Failed {
        /// What was asked.
        request: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Makes the table with its indexes, TTL and point-in-time recovery, or completes it; tells whether it was missing.
pub async fn create_table(client: &Client, names: &TableNames) -> Result<bool, TableError> {
    let is_new = match describe(client, names).await {
        Ok(found) => {
            check_shape(names, &found)?;
            false
        }
        Err(TableError::Missing(_)) => {
            send_create(client, names).await?;
            true
        }
        Err(error) => return Err(error),
    };
    wait_until_active(client, names).await?;
    enable_ttl(client, names).await?;
    if is_new {
        enable_recovery(client, names).await;
    }
    Ok(is_new)
}

/// Proves that the table is there and has the keys and indexes that the broker needs.
pub async fn check_table(client: &Client, names: &TableNames) -> Result<(), TableError> {
    check_shape(names, &describe(client, names).await?)
}

async fn describe(client: &Client, names: &TableNames) -> Result<TableDescription, TableError> {
    let answer = client.describe_table().table_name(&names.table).send().await;
    match answer {
        Ok(answer) => answer.table.ok_or_else(|| TableError::Missing(names.table.clone())),
        Err(error) if error.code() == Some("ResourceNotFoundException") => {
            Err(TableError::Missing(names.table.clone()))
        }
        Err(error) => Err(failed("DescribeTable", &error)),
    }
}

async fn send_create(client: &Client, names: &TableNames) -> Result<(), TableError> {
    let mut request = client
        .create_table()
        .table_name(&names.table)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key_element("PK", KeyType::Hash))
        .key_schema(key_element("SK", KeyType::Range))
        .attribute_definitions(attribute("PK", ScalarAttributeType::S))
        .attribute_definitions(attribute("SK", ScalarAttributeType::S))
        .attribute_definitions(attribute(INDEX_RANGE, ScalarAttributeType::N));
    for (index, hash) in names.indexes() {
        let index = GlobalSecondaryIndex::builder()
            .index_name(index)
            .key_schema(key_element(hash, KeyType::Hash))
            .key_schema(key_element(INDEX_RANGE, KeyType::Range))
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
            .expect("name and keys are set");
        request =
            request.global_secondary_indexes(index).attribute_definitions(attribute(hash, ScalarAttributeType::S));
    }
    match request.send().await {
        Ok(_) => Ok(()),
        // Another replica was first.
        Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
        Err(error) => Err(failed("CreateTable", &error)),
    }
}

async fn wait_until_active(client: &Client, names: &TableNames) -> Result<(), TableError> {
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
            tokio::time::sleep(ACTIVATION_POLL).await;
        }
    };
    let waited = tokio::time::timeout(ACTIVATION_TIMEOUT, wait).await;
    waited.unwrap_or_else(|_| Err(TableError::NotActive { table: names.table.clone() }))
}

async fn enable_ttl(client: &Client, names: &TableNames) -> Result<(), TableError> {
    let found = client.describe_time_to_live().table_name(&names.table).send().await;
    let found = found.map_err(|error| failed("DescribeTimeToLive", &error))?;
    let status = found.time_to_live_description().and_then(|ttl| ttl.time_to_live_status());
    if matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
        return Ok(());
    }
    let specification = TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name(TTL_ATTRIBUTE)
        .build()
        .expect("both fields are set");
    let request = client.update_time_to_live().table_name(&names.table).time_to_live_specification(specification);
    request.send().await.map(|_| ()).map_err(|error| failed("UpdateTimeToLive", &error))
}

/// Emulators know no backups, and the broker works without; so a refusal is only worth a line.
async fn enable_recovery(client: &Client, names: &TableNames) {
    let specification = PointInTimeRecoverySpecification::builder()
        .point_in_time_recovery_enabled(true)
        .build()
        .expect("the field is set");
    let request =
        client.update_continuous_backups().table_name(&names.table).point_in_time_recovery_specification(specification);
    if let Err(error) = request.send().await {
        tracing::info!(table = names.table, code = error.code(), "point-in-time recovery could not be switched on");
    }
}

fn check_shape(names: &TableNames, found: &TableDescription) -> Result<(), TableError> {
    let different = |difference: String| TableError::Different { table: names.table.clone(), difference };
    let keys = found.key_schema();
    if !is_keyed_by(keys, "PK", "SK") {
        return Err(different(format!("its key is {}, not PK + SK", describe_keys(keys))));
    }
    let indexes: BTreeMap<_, _> = found
        .global_secondary_indexes()
        .iter()
        .filter_map(|index| Some((index.index_name()?, (index.key_schema(), index.projection()?))))
        .collect();
    for (name, hash) in names.indexes() {
        let Some((keys, projection)) = indexes.get(name) else {
            return Err(different(format!("it has no index `{name}`")));
        };
        if !is_keyed_by(keys, hash, INDEX_RANGE) {
            let keys = describe_keys(keys);
            return Err(different(format!("the key of its index `{name}` is {keys}, not {hash} + {INDEX_RANGE}")));
        }
        if projection.projection_type() != Some(&ProjectionType::All) {
            return Err(different(format!("its index `{name}` does not project all attributes")));
        }
    }
    Ok(())
}

fn is_keyed_by(keys: &[KeySchemaElement], hash: &str, range: &str) -> bool {
    let has =
        |name: &str, kind: KeyType| keys.iter().any(|key| key.attribute_name() == name && *key.key_type() == kind);
    keys.len() == 2 && has(hash, KeyType::Hash) && has(range, KeyType::Range)
}

fn describe_keys(keys: &[KeySchemaElement]) -> String {
    keys.iter().map(KeySchemaElement::attribute_name).collect::<Vec<_>>().join(" + ")
}

fn key_element(name: &str, kind: KeyType) -> KeySchemaElement {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("both fields are set")
}

fn attribute(name: &str, kind: ScalarAttributeType) -> AttributeDefinition {
    AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().expect("both fields are set")
}

fn failed<E, R>(request: &'static str, error: &aws_sdk_dynamodb::error::SdkError<E, R>) -> TableError
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    TableError::Failed { request, reason: DisplayErrorContext(error).to_string() }
}
