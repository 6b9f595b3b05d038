//! `table reshard`: changes the number of shards of the status index while no broker runs. The schema item says that it
//! is going on, so that no broker starts meanwhile, also after an interruption.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_actors::ports::{Clock, StoreError};
use broker_actors::sandbox::{SandboxId, ShardCount, Status};
use futures_util::{TryStreamExt as _, stream};
use tokio::time::sleep;

use super::expression::Expression;
use super::heartbeats::refuse_if_in_use;
use super::items::{Items, Write};
use super::open::usable;
use super::plan::text_in;
use super::progress::Progress;
use super::schema::{Schema, read_schema, replace_schema};
use super::survey::{Kind, Named, kind_of, name_of};
use super::{TableError, TableNames};
use crate::dynamo::DynamoClient;
use crate::dynamo::item::{Item, sandbox_key, status_shard, text};

/// Items that are written concurrently.
const CONCURRENCY: usize = 16;

/// How often an item is read again because it changed between read and write.
const MAX_ROUNDS: u32 = 8;

/// The wait before that.
const ROUND_WAIT: Duration = Duration::from_millis(50);

/// The time from a broker's read of the schema item to its first heartbeat. A broker that starts while the mark is
/// written is then seen by its heartbeat.
const START_TIME: Duration = Duration::from_secs(2);

/// What resharding has to do, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReshardReport {
    /// The number of shards before.
    pub from: ShardCount,
    /// The number that an interrupted run was writing.
    pub interrupted: Option<ShardCount>,
    /// The number of shards after.
    pub to: ShardCount,
    /// Sandboxes in the table.
    pub sandboxes: u64,
    /// Those of them that are in another shard.
    pub moved: u64,
    /// Items that are in no shard, because another program wrote them or they cannot be read.
    pub left: Named,
}

impl ReshardReport {
    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        self.from != self.to || self.interrupted.is_some() || self.moved > 0
    }
}

/// The resharding of one table.
#[derive(Clone, Copy)]
pub struct Reshard<'a> {
    client: &'a DynamoClient,
    names: &'a TableNames,
    to: ShardCount,
    clock: &'a dyn Clock,
}

impl<'a> Reshard<'a> {
    /// Prepares it.
    pub fn new(client: &'a DynamoClient, names: &'a TableNames, to: ShardCount, clock: &'a dyn Clock) -> Self {
        Self { client, names, to, clock }
    }

    /// Counts what would move, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the table is not adopted, or DynamoDB fails.
    pub async fn examine(&self, progress: &dyn Progress) -> Result<ReshardReport, TableError> {
        let schema = self.schema().await?;
        self.scan(schema, progress, false).await
    }

    /// Moves the sandboxes. `force` skips the check that no broker runs.
    ///
    /// # Errors
    ///
    /// If brokers run, or DynamoDB fails. The table then stays marked, and the next run goes on from there.
    pub async fn execute(&self, force: bool, progress: &dyn Progress) -> Result<ReshardReport, TableError> {
        let (items, schema) = (self.items(), self.schema().await?);
        let marked = Schema { resharding_to: Some(self.to), ..schema };
        replace_schema(&items, self.names, Some(schema), marked).await?;
        if !force {
            sleep(START_TIME).await;
            if let Err(error) = refuse_if_in_use(&items, self.names, self.clock.now()).await {
                replace_schema(&items, self.names, Some(marked), schema).await?;
                return Err(error);
            }
        }
        let report = self.scan(schema, progress, true).await?;
        let new = Schema { shards: self.to, resharding_to: None, ..schema };
        replace_schema(&items, self.names, Some(marked), new).await?;
        Ok(report)
    }

    fn items(&self) -> Items<'a> {
        Items::new(self.client, &self.names.table)
    }

    async fn schema(&self) -> Result<Schema, TableError> {
        let schema = read_schema(&self.client.for_tables(), self.names).await?;
        match usable(self.names, schema) {
            Err(TableError::Resharding { .. }) => {
                schema.ok_or_else(|| TableError::NotAdopted(self.names.table.clone()))
            }
            schema => schema,
        }
    }

    async fn scan(&self, schema: Schema, progress: &dyn Progress, writes: bool) -> Result<ReshardReport, TableError> {
        let Schema { shards: from, resharding_to: interrupted, .. } = schema;
        let mut report =
            ReshardReport { from, interrupted, to: self.to, sandboxes: 0, moved: 0, left: Named::default() };
        progress.start(if writes { "Moving sandboxes" } else { "Reading the table" }, None);
        let mut scan = self.items().scan();
        let moved = AtomicU64::new(0);
        while let Some(page) = scan.next().await? {
            progress.advance(page.len() as u64);
            let mut misplaced = Vec::new();
            for item in page.into_iter().filter(|item| kind_of(item) == Kind::Sandbox) {
                report.sandboxes += 1;
                match self.target(&item) {
                    Some((_, wanted)) if text_in(&item, "status_shard") == Some(&wanted) => {}
                    Some(_) => misplaced.push(item),
                    None => report.left.add(name_of(&item)),
                }
            }
            if !writes {
                report.moved += misplaced.len() as u64;
                continue;
            }
            let work = misplaced.into_iter().map(Ok::<_, TableError>);
            stream::iter(work)
                .try_for_each_concurrent(CONCURRENCY, |item| async {
                    moved.fetch_add(u64::from(self.place(item).await?), Ordering::Relaxed);
                    Ok(())
                })
                .await?;
        }
        report.moved += moved.into_inner();
        Ok(report)
    }

    /// A sandbox and the shard key that its item must have; `None` if the item is not adopted or cannot be read.
    fn target(&self, item: &Item) -> Option<(SandboxId, String)> {
        text_in(item, "status_shard")?;
        let status = Status::from_name(text_in(item, "status")?)?;
        let sandbox_id = SandboxId::new(text_in(item, "sandbox_id")?);
        let wanted = status_shard(status, self.to.shard_of(&sandbox_id));
        Some((sandbox_id, wanted))
    }

    /// Puts a sandbox into its shard. Returns whether that was needed.
    async fn place(&self, item: Item) -> Result<bool, TableError> {
        let mut read = Some(item);
        for _ in 0..MAX_ROUNDS {
            let Some((sandbox_id, wanted)) = read.as_ref().and_then(|item| self.target(item)) else { return Ok(false) };
            let item = read.take().unwrap_or_default();
            if text_in(&item, "status_shard") == Some(&wanted) {
                return Ok(false);
            }
            let mut expression = Expression::default();
            for name in ["status", "status_shard", "epoch"] {
                expression.require_as_in(&item, name);
            }
            expression.set("status_shard", text(wanted));
            let key = sandbox_key(&sandbox_id);
            if self.items().write(&[Write::update(key.clone(), expression)]).await? {
                return Ok(true);
            }
            sleep(ROUND_WAIT).await;
            read = self.items().get(&key).await?;
        }
        let error = "an item changes faster than it can be moved; is a broker running?";
        Err(StoreError::Throttled(broker_actors::error::cause(error)).into())
    }
}
