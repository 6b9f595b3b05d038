//! Where the table is.

use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};
use url::Url;

use super::values::{http_url, one_of};
use crate::dynamo::TableNames;

/// Where the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A DynamoDB engine inside the process, on a file in BROKER_DATA_DIR
    Embedded,
    /// The same engine without a file: a restart loses everything
    Memory,
    /// Amazon DynamoDB, or the server at DDB_ENDPOINT_URL
    Dynamodb,
}

/// The table. `table create` takes only these.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct StoreSettings {
    /// Where the pool is stored [default: embedded; dynamodb if a setting of production is there, such as DDB_TABLE_NAME,
    /// CSP_BASE_URL or the variables of an ECS task]
    // The conditional defaults of other settings refer to this field's name. `config::environment` changes the default
    // for variables that are no settings.
    #[arg(
        long = "broker-store",
        env = "BROKER_STORE",
        default_value = "embedded",
        default_value_ifs(["table", "endpoint_url", "base_url"].map(|name| (name, ArgPredicate::IsPresent, "dynamodb"))),
        value_parser = one_of::<StoreKind>(),
    )]
    pub kind: StoreKind,
    /// Directory of the embedded store
    #[arg(long = "broker-data-dir", env = "BROKER_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Name of the table
    #[arg(long = "ddb-table-name", env = "DDB_TABLE_NAME", default_value = "sandbox-broker-pool")]
    pub table: String,
    /// Name of the index by status
    #[arg(long = "ddb-gsi1-name", env = "DDB_GSI1_NAME", default_value = "StatusIndex")]
    pub status_index: String,
    /// Name of the index by track
    #[arg(long = "ddb-gsi2-name", env = "DDB_GSI2_NAME", default_value = "TrackIndex")]
    pub track_index: String,
    /// Name of the index by idempotency key
    #[arg(long = "ddb-gsi3-name", env = "DDB_GSI3_NAME", default_value = "IdempotencyIndex")]
    pub idempotency_index: String,
    /// URL of another DynamoDB-compatible server [default: Amazon DynamoDB]
    #[arg(long = "ddb-endpoint-url", env = "DDB_ENDPOINT_URL", value_parser = http_url())]
    pub endpoint_url: Option<Url>,
    /// AWS region [default: as the AWS SDK finds it]
    #[arg(long = "aws-region", env = "AWS_REGION")]
    pub region: Option<String>,
}

impl StoreSettings {
    /// The names of the table and its indexes.
    pub fn table_names(&self) -> TableNames {
        TableNames {
            table: self.table.clone(),
            status_index: self.status_index.clone(),
            track_index: self.track_index.clone(),
            idempotency_index: self.idempotency_index.clone(),
        }
    }
}
