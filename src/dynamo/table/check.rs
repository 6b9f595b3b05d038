//! `table check`: finds what is torn, and repairs it. It pairs claims with sandboxes by consistent reads, so it may run
//! beside brokers: what the scan finds is looked at once more, both items at one moment, before it is reported.

use broker_actors::ports::Clock;
use broker_actors::sandbox::SandboxId;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;

use super::items::Items;
use super::open::usable;
use super::plan::{PlanContext, StoredClaim, held_under, plan};
use super::progress::Progress;
use super::repair::{Repair, RepairReport, describe_second};
use super::schema::read_schema;
use super::survey::{Named, Survey, Tear, TornClaim, describe};
use super::{TableError, TableNames};
use crate::dynamo::DynamoClient;
use crate::dynamo::item::{claim_key, sandbox_key};

/// Findings that are confirmed concurrently.
const CONCURRENCY: usize = 16;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Sandboxes in the table.
    pub sandboxes: u64,
    /// Those of them that are held.
    pub holders: u64,
    /// Claims in the table.
    pub claims: u64,
    /// Claims whose sandbox is not held under their key. Their owners are told that they hold a sandbox.
    pub orphaned_claims: Named,
    /// Holdings without a claim. Their owners would get a second sandbox.
    pub missing_claims: Named,
    /// Claims that differ from their holding.
    pub different_claims: Named,
    /// Sandboxes that are in the status index under another status, shard or position than they should be.
    pub misplaced: Named,
    /// Sandboxes that another program wrote. The broker does not see them.
    pub incomplete: Named,
    /// Second holdings under a key. Not repaired: only an operator can tell which one the owner uses.
    pub second_holdings: Named,
    /// Holdings without an end. `table adopt` with LAB_DURATION_HOURS gives them one.
    pub without_end: Named,
    /// Items that cannot be read. Not repaired.
    pub unreadable: Named,
}

impl CheckReport {
    /// The number of items that a repair changes.
    pub fn repairable(&self) -> u64 {
        let Self { orphaned_claims, missing_claims, different_claims, misplaced, incomplete, .. } = self;
        [orphaned_claims, missing_claims, different_claims, misplaced, incomplete].iter().map(|found| found.count).sum()
    }

    /// The number of items that an operator has to look at.
    pub fn unrepairable(&self) -> u64 {
        self.second_holdings.count + self.without_end.count + self.unreadable.count
    }
}

/// The check of one table.
#[derive(Clone, Copy)]
pub struct TableCheck<'a> {
    client: &'a DynamoClient,
    names: &'a TableNames,
    clock: &'a dyn Clock,
}

impl<'a> TableCheck<'a> {
    /// Prepares the check.
    pub fn new(client: &'a DynamoClient, names: &'a TableNames, clock: &'a dyn Clock) -> Self {
        Self { client, names, clock }
    }

    /// Finds what is torn, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the table is not adopted, or DynamoDB fails.
    pub async fn examine(&self, progress: &dyn Progress) -> Result<CheckReport, TableError> {
        let context = self.context().await?;
        let survey = Survey::read(&self.items(), self.names, &context, progress).await?;
        let tears = survey.tears();
        let mut report = CheckReport {
            sandboxes: survey.counts.sandboxes,
            holders: survey.holders(),
            claims: survey.counts.claims,
            misplaced: survey.misplaced,
            incomplete: survey.incomplete,
            without_end: survey.without_end,
            unreadable: survey.unreadable,
            ..CheckReport::default()
        };
        if !tears.is_empty() {
            progress.start("Confirming what the scan found", Some(tears.len() as u64));
        }
        let confirmations = tears.into_iter().map(|tear| async { self.confirm(tear, &context).await });
        let mut confirmations = stream::iter(confirmations).buffered(CONCURRENCY);
        while let Some(tear) = confirmations.next().await {
            if let Some(tear) = tear? {
                report.add(&tear);
            }
            progress.advance(1);
        }
        Ok(report)
    }

    /// Repairs what can be repaired.
    ///
    /// # Errors
    ///
    /// As [`Self::examine`]. What was written so far stays.
    pub async fn repair(&self, progress: &dyn Progress) -> Result<RepairReport, TableError> {
        let context = self.context().await?;
        let survey = Survey::read(&self.items(), self.names, &context, progress).await?;
        Repair { items: self.items(), context }.run(&survey, progress).await
    }

    fn items(&self) -> Items<'a> {
        Items::new(self.client, &self.names.table)
    }

    async fn context(&self) -> Result<PlanContext, TableError> {
        let schema = usable(self.names, read_schema(&self.client.for_tables(), self.names).await?)?;
        Ok(PlanContext { now: self.clock.now_millis(), lab_duration: None, shards: schema.shards })
    }

    /// Looks at both items at one moment. `None` if nothing is wrong: a broker wrote one of them during the scan.
    async fn confirm(&self, tear: Tear, context: &PlanContext) -> Result<Option<Tear>, TableError> {
        let (key, sandbox_id) = match &tear {
            Tear::Claim { key, sandbox_id, .. } | Tear::SecondHolding { key, sandbox_id, .. } => (key, sandbox_id),
            Tear::Orphan { key, sandbox_id: Some(sandbox_id) } => (key, sandbox_id),
            Tear::Orphan { key, sandbox_id: None } => {
                let stored = self.items().get(&claim_key(key)).await?;
                let is_there = stored.as_ref().and_then(StoredClaim::read).is_some_and(|it| it.sandbox_id().is_none());
                return Ok(is_there.then_some(tear));
            }
        };
        let [sandbox, stored] = self.items().get_pair([&sandbox_key(sandbox_id), &claim_key(key)]).await?;
        let is_held = sandbox.as_ref().and_then(held_under).as_ref() == Some(key);
        let stored = stored.as_ref().and_then(StoredClaim::read);
        let of_sandbox = |stored: &StoredClaim| stored.sandbox_id().as_ref() == Some(sandbox_id);
        match tear {
            Tear::Orphan { .. } => Ok((!is_held && stored.as_ref().is_some_and(of_sandbox)).then_some(tear)),
            Tear::SecondHolding { .. } => Ok((is_held && !stored.as_ref().is_some_and(of_sandbox)).then_some(tear)),
            Tear::Claim { key, sandbox_id, .. } => {
                let claim = sandbox.and_then(|item| plan(&item, context).ok()).and_then(|plan| plan.claim());
                let claim = claim.filter(|claim| claim.claim_key == key);
                let kind = claim.and_then(|claim| TornClaim::find(&claim, stored.as_ref()));
                Ok(kind.map(|kind| Tear::Claim { key, sandbox_id, kind }))
            }
        }
    }
}

impl CheckReport {
    fn add(&mut self, tear: &Tear) {
        match tear {
            Tear::Orphan { key, sandbox_id } => {
                let sandbox = sandbox_id.as_ref().map_or("no sandbox", SandboxId::as_str);
                self.orphaned_claims.add(format!("{}: names {sandbox}, which is not held under it", describe(key)));
            }
            Tear::Claim { key, sandbox_id, kind: TornClaim::Missing } => {
                self.missing_claims.add(format!("SBX#{sandbox_id}: {} is missing", describe(key)));
            }
            Tear::Claim { key, sandbox_id, kind } => {
                let difference = match kind {
                    TornClaim::Missing | TornClaim::OtherContent => "has another name, path or start than",
                    TornClaim::OfAnother => "names another sandbox, which is not held under it, instead of",
                    TornClaim::Unreadable => "cannot be read, and belongs to",
                    TornClaim::OtherEpoch => "has another epoch than",
                    TornClaim::OtherEnd => "has another end than",
                    TornClaim::Expiring => "has a ttl, by which DynamoDB deletes it while it belongs to",
                };
                self.different_claims.add(format!("{}: {difference} SBX#{sandbox_id}", describe(key)));
            }
            Tear::SecondHolding { key, sandbox_id, holder } => {
                self.second_holdings.add(describe_second(sandbox_id, key, holder));
            }
        }
    }
}
