//! Brings items into this version's form, and claims in line with holdings. Adoption and `table check` write only here.
//!
//! Each decision is taken on a fresh read and written on condition of all that was read, so it is right whatever other
//! writers do meanwhile, and the work may be stopped and run again at any point.

use std::collections::HashSet;
use std::time::Duration;

use broker_actors::sandbox::{ClaimKey, SandboxId};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use tokio::time::sleep;

use super::TableError;
use super::items::Items;
use super::plan::{
    Plan, PlanContext, StoredClaim, Unplannable, claim_write, held_under, not_held_check, plan, text_in,
};
use super::progress::Progress;
use super::survey::{Kind, Named, Survey, Tear, TornClaim, describe, kind_of, name_of, rightful};
use crate::dynamo::item::{Item, PK, SK, claim_key, sandbox_key};

/// Items that are written concurrently.
const CONCURRENCY: usize = 16;

/// How often an item is read again because another writer changed it between read and write.
const MAX_ROUNDS: u32 = 8;

/// The wait before that, up to twice as long.
const ROUND_WAIT: Duration = Duration::from_millis(25);

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Sandboxes that were written, some of them together with their claims.
    pub sandboxes: u64,
    /// Claims that were made or corrected.
    pub claims: u64,
    /// Claims without a holding that were deleted.
    pub deleted_claims: u64,
    /// Second holdings under a key. They have no claim.
    pub second_holdings: Named,
    /// Items that could not be brought into form, with the reason.
    pub left: Named,
    /// Items that other writers changed faster than they could be written.
    pub busy: Named,
}

impl RepairReport {
    /// Whether nothing was written and nothing is left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of one item.
enum Outcome {
    Unchanged,
    Written { with_claim: bool },
    ClaimDeleted,
    SecondHolding(String),
    Left(String),
    Busy(String),
}

/// The writes over one table.
pub(super) struct Repair<'a> {
    pub(super) items: Items<'a>,
    pub(super) context: PlanContext,
}

impl Repair<'_> {
    /// Repairs what the survey found: the holdings first, then claims without a holding, then all other sandboxes.
    pub(super) async fn run(&self, survey: &Survey, progress: &dyn Progress) -> Result<RepairReport, TableError> {
        let mut report = RepairReport::default();
        self.holdings(survey, &mut report, progress).await?;
        self.orphans(survey, &mut report, progress).await?;
        if !survey.incomplete.is_empty() || !survey.misplaced.is_empty() {
            self.others(survey, &mut report, progress).await?;
        }
        Ok(report)
    }

    async fn holdings(
        &self,
        survey: &Survey,
        report: &mut RepairReport,
        progress: &dyn Progress,
    ) -> Result<(), TableError> {
        let torn: Vec<_> = survey
            .holdings
            .iter()
            .filter(|(key, holdings)| !is_right(holdings, survey.claims.get(*key)))
            .map(|(key, holdings)| in_turn(holdings, survey.claims.get(key)))
            .collect();
        if torn.is_empty() {
            return Ok(());
        }
        progress.start("Writing holdings and their claims", Some(torn.len() as u64));
        // Holdings under one key are written one after the other: the first gets the claim.
        let work = torn.into_iter().map(|sandboxes| async move {
            let mut outcomes = Vec::new();
            for sandbox_id in sandboxes {
                outcomes.push(self.sandbox(&sandbox_id, None).await?);
            }
            Ok::<_, TableError>(outcomes)
        });
        let mut work = stream::iter(work).buffer_unordered(CONCURRENCY);
        while let Some(outcomes) = work.next().await {
            outcomes?.into_iter().for_each(|outcome| report.add(outcome));
            progress.advance(1);
        }
        Ok(())
    }

    async fn orphans(
        &self,
        survey: &Survey,
        report: &mut RepairReport,
        progress: &dyn Progress,
    ) -> Result<(), TableError> {
        let orphans: Vec<_> = survey
            .tears()
            .into_iter()
            .filter_map(|tear| if let Tear::Orphan { key, .. } = tear { Some(key) } else { None })
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        progress.start("Deleting claims without a holding", Some(orphans.len() as u64));
        let work = orphans.into_iter().map(|key| async move { self.orphan(&key).await });
        let mut work = stream::iter(work).buffer_unordered(CONCURRENCY);
        while let Some(outcome) = work.next().await {
            report.add(outcome?);
            progress.advance(1);
        }
        Ok(())
    }

    async fn others(
        &self,
        survey: &Survey,
        report: &mut RepairReport,
        progress: &dyn Progress,
    ) -> Result<(), TableError> {
        let done: HashSet<&str> =
            survey.holdings.values().flatten().map(|plan| plan.sandbox.sandbox_id.as_str()).collect();
        progress.start("Writing the other sandboxes", Some(survey.counts.sandboxes));
        let mut scan = self.items.scan();
        while let Some(page) = scan.next().await? {
            let sandboxes: Vec<_> = page.into_iter().filter(|item| kind_of(item) == Kind::Sandbox).collect();
            progress.advance(sandboxes.len() as u64);
            let work = sandboxes
                .into_iter()
                .filter(|item| text_in(item, "sandbox_id").is_none_or(|sandbox_id| !done.contains(sandbox_id)))
                .map(|item| async move { self.found(item).await });
            let mut work = stream::iter(work).buffer_unordered(CONCURRENCY);
            while let Some(outcome) = work.next().await {
                report.add(outcome?);
            }
        }
        Ok(())
    }

    /// Repairs an item of the scan.
    async fn found(&self, item: Item) -> Result<Outcome, TableError> {
        match plan(&item, &self.context) {
            Ok(plan) => {
                let sandbox_id = plan.sandbox.sandbox_id.clone();
                if plan.changes.is_empty() && plan.claim().is_none() {
                    return Ok(Outcome::Unchanged);
                }
                self.sandbox(&sandbox_id, Some(item)).await
            }
            Err(problem) => Ok(Outcome::Left(left(&item, problem))),
        }
    }

    /// Repairs a sandbox, and its claim if it is held. `read` is the item, if it was read already.
    async fn sandbox(&self, sandbox_id: &SandboxId, mut read: Option<Item>) -> Result<Outcome, TableError> {
        let key = sandbox_key(sandbox_id);
        for _ in 0..MAX_ROUNDS {
            let item = match read.take() {
                Some(item) => Some(item),
                None => self.items.get(&key).await?,
            };
            // Another program may delete a sandbox meanwhile.
            let Some(item) = item else { return Ok(Outcome::Unchanged) };
            let plan = match plan(&item, &self.context) {
                Ok(plan) => plan,
                Err(problem) => return Ok(Outcome::Left(left(&item, problem))),
            };
            let (claim, other) = match plan.claim() {
                None => (None, None),
                Some(claim) => {
                    let stored = self.items.get(&claim_key(&claim.claim_key)).await?;
                    let stored = stored.as_ref().and_then(StoredClaim::read);
                    let torn = TornClaim::find(&claim, stored.as_ref());
                    let other = stored.as_ref().and_then(StoredClaim::sandbox_id);
                    let other = other.filter(|_| torn == Some(TornClaim::OfAnother));
                    if let Some(other) = &other
                        && self.is_held_under(other, &claim.claim_key).await?
                    {
                        return self.second_holding(&plan, &claim.claim_key, other).await;
                    }
                    (torn.map(|_| claim_write(&claim, stored.as_ref())), other.map(|id| (id, claim.claim_key)))
                }
            };
            let with_claim = claim.is_some();
            if !with_claim && plan.changes.is_empty() {
                return Ok(Outcome::Unchanged);
            }
            let mut writes = vec![plan.write()];
            writes.extend(claim);
            writes.extend(other.map(|(sandbox_id, key)| not_held_check(&sandbox_id, &key)));
            if self.items.write(&writes).await? {
                return Ok(Outcome::Written { with_claim });
            }
            sleep(ROUND_WAIT.mul_f64(1.0 + fastrand::f64())).await;
        }
        Ok(Outcome::Busy(describe_key(&key)))
    }

    /// Repairs the sandbox of a second holding under a key, without a claim.
    async fn second_holding(&self, plan: &Plan, key: &ClaimKey, holder: &SandboxId) -> Result<Outcome, TableError> {
        if !plan.changes.is_empty() && !self.items.write(&[plan.write()]).await? {
            return Ok(Outcome::Busy(describe_key(&sandbox_key(&plan.sandbox.sandbox_id))));
        }
        Ok(Outcome::SecondHolding(describe_second(&plan.sandbox.sandbox_id, key, holder)))
    }

    /// Deletes a claim whose sandbox is not held under it.
    async fn orphan(&self, key: &ClaimKey) -> Result<Outcome, TableError> {
        for _ in 0..MAX_ROUNDS {
            let stored = self.items.get(&claim_key(key)).await?;
            let Some(stored) = stored.as_ref().and_then(StoredClaim::read) else { return Ok(Outcome::Unchanged) };
            let mut writes = vec![stored.deletion()];
            if let Some(sandbox_id) = stored.sandbox_id() {
                if self.is_held_under(&sandbox_id, key).await? {
                    return Ok(Outcome::Unchanged);
                }
                writes.push(not_held_check(&sandbox_id, key));
            }
            if self.items.write(&writes).await? {
                return Ok(Outcome::ClaimDeleted);
            }
            sleep(ROUND_WAIT.mul_f64(1.0 + fastrand::f64())).await;
        }
        Ok(Outcome::Busy(describe(key)))
    }

    async fn is_held_under(&self, sandbox_id: &SandboxId, key: &ClaimKey) -> Result<bool, TableError> {
        let item = self.items.get(&sandbox_key(sandbox_id)).await?;
        Ok(item.as_ref().and_then(held_under).as_ref() == Some(key))
    }
}

impl RepairReport {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Unchanged => {}
            Outcome::Written { with_claim } => {
                self.sandboxes += 1;
                self.claims += u64::from(with_claim);
            }
            Outcome::ClaimDeleted => self.deleted_claims += 1,
            Outcome::SecondHolding(text) => self.second_holdings.add(text),
            Outcome::Left(text) => self.left.add(text),
            Outcome::Busy(text) => self.busy.add(text),
        }
    }
}

/// Whether nothing is to be written for the holdings under a key.
fn is_right(holdings: &[Plan], stored: Option<&StoredClaim>) -> bool {
    let rightful = &holdings[rightful(holdings, stored)];
    let is_complete = holdings.iter().all(|plan| plan.changes.is_empty());
    is_complete && rightful.claim().is_some_and(|claim| TornClaim::find(&claim, stored).is_none())
}

/// The holdings under a key, the one that gets the claim first.
fn in_turn(holdings: &[Plan], stored: Option<&StoredClaim>) -> Vec<SandboxId> {
    let mut sandboxes: Vec<_> = holdings.iter().map(|plan| plan.sandbox.sandbox_id.clone()).collect();
    let first = sandboxes.remove(rightful(holdings, stored));
    sandboxes.insert(0, first);
    sandboxes
}

fn left(item: &Item, problem: Unplannable) -> String {
    match problem {
        Unplannable::NoEnd => format!("{}: it has no end; set LAB_DURATION_HOURS", name_of(item)),
        Unplannable::Unreadable(reason) => format!("{}: {reason}", name_of(item)),
    }
}

fn describe_key(key: &Item) -> String {
    format!("{}/{}", text_in(key, PK).unwrap_or("?"), text_in(key, SK).unwrap_or("?"))
}

/// A second holding, for reports.
pub(super) fn describe_second(sandbox_id: &SandboxId, key: &ClaimKey, holder: &SandboxId) -> String {
    format!("SBX#{sandbox_id}: track {} with key {} holds SBX#{holder} since earlier", key.track, key.key)
}
