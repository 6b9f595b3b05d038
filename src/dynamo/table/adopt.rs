//! `table adopt`: takes over a table of the Python broker, or of this broker's first form.
//!
//! It adds what the table lacks, then what its items lack: holdings first, then the rest, and the schema item last, so
//! that no broker starts before every holder has a claim. It deletes nothing but claims without a holding. It can be
//! stopped and run again at any time, and a second run repairs what the old service wrote in between.

use std::collections::BTreeMap;
use std::time::Duration;

use broker_actors::ports::Clock;
use broker_actors::sandbox::ShardCount;

use super::create::{CreateOptions, create_table, enable_recovery, enable_ttl, recovery};
use super::describe::{check_key, describe, has_ttl, old_status_index};
use super::heartbeats::refuse_if_in_use;
use super::index::{MissingIndex, WAITING, add_index, missing_indexes, wait_until_unchanged};
use super::items::Items;
use super::open::usable;
use super::plan::PlanContext;
use super::progress::{Progress, Unwatched};
use super::repair::{Repair, RepairReport, describe_second};
use super::schema::{FORM, Schema, read_schema, replace_schema};
use super::survey::{ItemCounts, Named, Survey, Tear, TornClaim};
use super::{TableError, TableNames};
use crate::dynamo::DynamoClient;

/// How to adopt.
#[derive(Clone, Copy, Debug)]
pub struct AdoptOptions {
    /// The number of shards of the status index. A table that is adopted already keeps its own.
    pub shards: ShardCount,
    /// How long the old service held a sandbox. Needed where holdings have no end.
    pub lab_duration: Option<Duration>,
    /// Whether the indexes by track and by idempotency key are made where they are missing.
    pub lookup_indexes: bool,
    /// Adopt although brokers are running.
    pub force: bool,
}

/// What adoption found, and what it would do.
#[derive(Clone, Debug)]
pub struct AdoptionReport {
    /// The items.
    pub counts: ItemCounts,
    /// Sandboxes that are held.
    pub holders: u64,
    /// Those of them that are past their end. The broker ends them.
    pub overdue: u64,
    /// The number of shards that the table has or gets.
    pub shards: ShardCount,
    /// Whether the table has been adopted before.
    pub is_adopted: bool,
    /// Indexes to make.
    pub indexes: Vec<MissingIndex>,
    /// The status index of the older form, which may go once the broker runs.
    pub old_index: Option<String>,
    /// Whether TTL is to be enabled.
    pub enables_ttl: bool,
    /// Whether point-in-time recovery is to be enabled.
    pub enables_recovery: bool,
    /// Attributes to add, and to how many sandboxes.
    pub attributes: BTreeMap<&'static str, u64>,
    /// Sandboxes whose place in the status index is to be corrected.
    pub misplaced: Named,
    /// Claims to make.
    pub new_claims: u64,
    /// Claims to correct.
    pub corrected_claims: u64,
    /// Claims without a holding, to be deleted.
    pub orphaned_claims: u64,
    /// Second holdings under a key. They get no claim.
    pub second_holdings: Named,
    /// Holdings without an end, for which the length of a lab is needed.
    pub without_end: Named,
    /// Items that cannot be read. They are left as they are.
    pub unreadable: Named,
}

impl AdoptionReport {
    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        let claims = self.new_claims + self.corrected_claims + self.orphaned_claims;
        let is_complete = self.indexes.is_empty() && !self.enables_ttl && !self.enables_recovery;
        let has_items = !self.attributes.is_empty() || !self.misplaced.is_empty() || claims > 0;
        !self.is_adopted || !is_complete || has_items || !self.without_end.is_empty()
    }
}

/// The adoption of one table.
#[derive(Clone, Copy)]
pub struct Adoption<'a> {
    client: &'a DynamoClient,
    names: &'a TableNames,
    options: AdoptOptions,
    clock: &'a dyn Clock,
}

impl<'a> Adoption<'a> {
    /// Prepares the adoption.
    pub fn new(client: &'a DynamoClient, names: &'a TableNames, options: AdoptOptions, clock: &'a dyn Clock) -> Self {
        Self { client, names, options, clock }
    }

    /// Finds out what is to be done, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the table cannot be adopted.
    pub async fn examine(&self, progress: &dyn Progress) -> Result<AdoptionReport, TableError> {
        let tables = self.client.for_tables();
        let found = describe(&tables, self.names).await?;
        check_key(self.names, &found)?;
        let schema = self.schema().await?;
        let survey = self.survey(schema, progress).await?;
        let tears = survey.tears();
        let count = |is_meant: fn(&Tear) -> bool| tears.iter().filter(|tear| is_meant(tear)).count() as u64;
        let mut second_holdings = Named::default();
        for tear in &tears {
            if let Tear::SecondHolding { key, sandbox_id, holder } = tear {
                second_holdings.add(describe_second(sandbox_id, key, holder));
            }
        }
        let is_new = |tear: &Tear| matches!(tear, Tear::Claim { kind: TornClaim::Missing, .. });
        let indexes = missing_indexes(self.names, &found, self.wants_lookup_indexes(schema))?;
        let gets_beside = indexes.iter().find_map(|index| index.beside.clone());
        Ok(AdoptionReport {
            holders: survey.holders(),
            overdue: survey.overdue,
            shards: self.shards(schema),
            is_adopted: is_current(schema),
            old_index: gets_beside.or_else(|| old_status_index(self.names, &found)),
            indexes,
            enables_ttl: !has_ttl(&tables, self.names).await?,
            enables_recovery: recovery(&tables, self.names).await.is_none(),
            new_claims: count(is_new),
            corrected_claims: count(|tear| matches!(tear, Tear::Claim { kind, .. } if *kind != TornClaim::Missing)),
            orphaned_claims: count(|tear| matches!(tear, Tear::Orphan { .. })),
            second_holdings,
            attributes: survey.missing,
            misplaced: survey.misplaced,
            without_end: survey.without_end,
            unreadable: survey.unreadable,
            counts: survey.counts,
        })
    }

    /// Adopts the table.
    ///
    /// # Errors
    ///
    /// If the table cannot be adopted, or DynamoDB fails. What was written so far stays, and the next run goes on from
    /// there.
    pub async fn execute(&self, progress: &dyn Progress) -> Result<RepairReport, TableError> {
        let (tables, items) = (self.client.for_tables(), self.items());
        let schema = self.schema().await?;
        if !is_current(schema) && !self.options.force {
            refuse_if_in_use(&items, self.names, self.clock.now()).await?;
        }
        let found = wait_until_unchanged(&tables, self.names, WAITING, progress).await?;
        check_key(self.names, &found)?;
        for index in missing_indexes(self.names, &found, self.wants_lookup_indexes(schema))? {
            add_index(&tables, self.names, &index, progress).await?;
        }
        enable_ttl(&tables, self.names).await?;
        enable_recovery(&tables, self.names, |text| progress.start(text, None)).await?;

        let survey = self.survey(schema, progress).await?;
        if !survey.without_end.is_empty() {
            let (table, holdings) = (self.names.table.clone(), survey.without_end.count);
            return Err(TableError::LabDurationNeeded { table, holdings });
        }
        let report = Repair { items, context: self.context(schema) }.run(&survey, progress).await?;
        if let Some(first) = report.busy.first.first() {
            let (table, count, first) = (self.names.table.clone(), report.busy.count, first.clone());
            return Err(TableError::Busy { table, count, first });
        }
        if !is_current(schema) {
            let new = Schema { form: FORM, shards: self.options.shards, resharding_to: None };
            replace_schema(&items, self.names, schema, new).await?;
        }
        Ok(report)
    }

    fn items(&self) -> Items<'a> {
        Items::new(self.client, &self.names.table)
    }

    /// The schema item, unless it forbids adoption.
    async fn schema(&self) -> Result<Option<Schema>, TableError> {
        let schema = read_schema(&self.client.for_tables(), self.names).await?;
        match usable(self.names, schema) {
            Ok(_) | Err(TableError::NotAdopted(_)) => Ok(schema),
            Err(error) => Err(error),
        }
    }

    async fn survey(&self, schema: Option<Schema>, progress: &dyn Progress) -> Result<Survey, TableError> {
        Survey::read(&self.items(), self.names, &self.context(schema), progress).await
    }

    fn context(&self, schema: Option<Schema>) -> PlanContext {
        let (now, lab_duration) = (self.clock.now_millis(), self.options.lab_duration);
        PlanContext { now, lab_duration, shards: self.shards(schema) }
    }

    fn shards(&self, schema: Option<Schema>) -> ShardCount {
        schema.filter(|_| is_current(schema)).map_or(self.options.shards, |schema| schema.shards)
    }

    /// A table that is adopted may have been made without them.
    fn wants_lookup_indexes(&self, schema: Option<Schema>) -> bool {
        self.options.lookup_indexes && !is_current(schema)
    }
}

fn is_current(schema: Option<Schema>) -> bool {
    schema.is_some_and(|schema| schema.form == FORM)
}

/// Makes the table of an embedded store, or brings it to this version's form. No other process can use it meanwhile.
///
/// # Errors
///
/// See [`TableError`].
pub async fn create_or_adopt(
    client: &DynamoClient,
    names: &TableNames,
    lab_duration: Duration,
    clock: &dyn Clock,
) -> Result<(), TableError> {
    let options = CreateOptions::default();
    match create_table(&client.for_tables(), names, &options, |_| {}).await {
        Ok(_) => return Ok(()),
        Err(TableError::NotAdopted(_)) => {}
        Err(error) => return Err(error),
    }
    let options = AdoptOptions {
        shards: options.shards,
        lab_duration: Some(lab_duration),
        lookup_indexes: options.lookup_indexes,
        // The lock on the data directory shows that no other broker runs, whatever the last heartbeat says.
        force: true,
    };
    let adoption = Adoption::new(client, names, options, clock);
    tracing::info!(event = "table_upgrade", table = names.table, "the table has an older form; upgrading it");
    let report = adoption.execute(&Unwatched).await?;
    for item in report.left.first.iter().chain(&report.second_holdings.first) {
        tracing::warn!(event = "table_upgrade_left", item, "an item was not fully upgraded");
    }
    let RepairReport { sandboxes, claims, deleted_claims, .. } = report;
    tracing::info!(event = "table_upgraded", sandboxes, claims, deleted_claims, "the table is upgraded");
    Ok(())
}
