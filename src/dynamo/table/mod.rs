//! The table: its names, its form, and why it cannot be used. [`create`] makes it, [`open`] checks it at every start.
//! Terraform makes the same one. The other modules are the commands for operators: [`adopt`] takes over a table of an
//! older form, [`unadopt`] gives it back, [`check`] finds and repairs torn items, [`reshard`] changes the number of
//! shards, [`old_index`] deletes the index of the older form.

pub mod adopt;
pub mod check;
pub mod create;
mod describe;
mod expression;
mod heartbeats;
mod index;
mod items;
pub mod old_index;
pub mod open;
mod plan;
pub mod progress;
mod repair;
pub mod reshard;
pub mod schema;
mod survey;
pub mod unadopt;

use broker_actors::error::Cause;
use broker_actors::ports::StoreError;
use broker_actors::sandbox::ShardCount;

pub use self::index::MissingIndex;
pub use self::repair::RepairReport;
pub use self::survey::{ItemCounts, Named};

/// The attribute by which DynamoDB expires items.
pub const TTL_ATTRIBUTE: &str = "ttl";

/// The names of the table and its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableNames {
    /// The table.
    pub table: String,
    /// The index by status. Where an index of this name has the key of an older form, the broker uses the one that
    /// `table adopt` makes beside it; see [`TableNames::status_index_beside`].
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
    /// The name of the sharded status index beside an index of an older form. DynamoDB cannot change an index's key.
    pub fn status_index_beside(&self) -> String {
        format!("{}Sharded", self.status_index)
    }
}

/// The form of a table that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableForm {
    /// The number of shards of the status index.
    pub shards: ShardCount,
    /// The status index.
    pub status_index: String,
    /// The index by track, unless the table was made without it.
    pub track_index: Option<String>,
    /// The index by idempotency key, unless the table was made without it.
    pub idempotency_index: Option<String>,
}

/// An index of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexKeys {
    /// The attribute of the hash key, a string.
    pub hash: &'static str,
    /// The attribute of the range key, a number.
    pub range: &'static str,
}

/// The key of the status index.
pub const STATUS_INDEX: IndexKeys = IndexKeys { hash: "status_shard", range: "shard_at" };
/// The key of the index by track.
pub const TRACK_INDEX: IndexKeys = IndexKeys { hash: "allocated_to_track", range: "allocated_at" };
/// The key of the index by idempotency key.
pub const IDEMPOTENCY_INDEX: IndexKeys = IndexKeys { hash: "idempotency_key", range: "allocated_at" };

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It does not exist.
    #[error("the table `{0}` does not exist; make it with `sandbox-broker table create` or Terraform")]
    Missing(String),
    /// It holds items of an older form, or of another program.
    #[error(
        "the table `{0}` is not adopted by this version; stop everything that writes to it, then run `sandbox-broker \
         table adopt` to see what adoption would change, and `sandbox-broker table adopt --yes` to do it"
    )]
    NotAdopted(String),
    /// A newer version made or changed it.
    #[error("the table `{table}` has the form {form}, which is newer than this version of the broker; use a newer one")]
    Newer {
        /// Its name.
        table: String,
        /// Its form.
        form: u64,
    },
    /// `table reshard` was interrupted.
    #[error(
        "the table `{table}` is being resharded to {shards} shards; run `sandbox-broker table reshard --shards {shards} \
         --yes` again until it ends"
    )]
    Resharding {
        /// Its name.
        table: String,
        /// The new number of shards.
        shards: u64,
    },
    /// It is not what the broker needs.
    #[error("the table `{table}` is not the broker's: {difference}; use another DDB_TABLE_NAME or rebuild the table")]
    Different {
        /// Its name.
        table: String,
        /// What differs.
        difference: String,
    },
    /// It did not become active in time.
    #[error("the table `{table}` is not active after {seconds} s; run the same command again to go on waiting")]
    NotActive {
        /// Its name.
        table: String,
        /// The time that it was given.
        seconds: u64,
    },
    /// DynamoDB does not answer, or it refuses.
    #[error("the DynamoDB request {request} failed")]
    Failed {
        /// The request.
        request: &'static str,
        /// The reason.
        source: Cause,
    },
    /// Its items cannot be read or written.
    #[error("the items of the table cannot be read or written")]
    Items(#[from] StoreError),
    /// Brokers are running on it.
    #[error(
        "brokers are running on the table `{table}`: {}; stop them and run this again (after a crash, {seconds} s from \
         now), or skip this check with --force",
        .replicas.join(", ")
    )]
    InUse {
        /// Its name.
        table: String,
        /// The brokers, by the names in their heartbeats.
        replicas: Vec<String>,
        /// When the last of their heartbeats ends.
        seconds: u64,
    },
    /// Holdings have no end, and the length of a lab is not known.
    #[error(
        "{holdings} holdings of the table `{table}` have no end; set LAB_DURATION_HOURS to the hours that the old service \
         gave a lab (48 unless it was set there), so that they end when they would have"
    )]
    LabDurationNeeded {
        /// Its name.
        table: String,
        /// The number of these holdings.
        holdings: u64,
    },
    /// DynamoDB expires its items by another attribute.
    #[error(
        "the table `{table}` expires items by the attribute `{attribute}`, not by `ttl`; switch its TTL off, wait an hour \
         as DynamoDB requires, and run this again"
    )]
    OtherTtl {
        /// Its name.
        table: String,
        /// The attribute.
        attribute: String,
    },
    /// Another program kept changing items while they were to be written.
    #[error(
        "{count} items of the table `{table}` could not be written, because another program kept changing them \
         (the first is {first}); run this again, best when the other program has stopped"
    )]
    Busy {
        /// Its name.
        table: String,
        /// The number of items.
        count: u64,
        /// One of them.
        first: String,
    },
    /// Another process changed the schema item meanwhile.
    #[error("another process changed the item CTRL#schema of the table `{0}` meanwhile; run this again")]
    SchemaChanged(String),
    /// The schema item cannot be read.
    #[error("the item CTRL#schema of the table `{table}` cannot be read: {reason}")]
    UnreadableSchema {
        /// The table's name.
        table: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TableError {
    /// Whether an operator has to change the table or the settings first. Otherwise the same may succeed later.
    pub fn needs_operator(&self) -> bool {
        !matches!(
            self,
            Self::Failed { .. } | Self::Items(_) | Self::NotActive { .. } | Self::Busy { .. } | Self::SchemaChanged(_)
        )
    }
}
