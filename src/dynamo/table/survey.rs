//! What is in a table: one consistent scan, from which adoption and check find what to do.

use std::collections::{BTreeMap, HashMap, HashSet};

use broker_actors::actor::ActorName;
use broker_actors::ports::StoreError;
use broker_actors::sandbox::{Claim, ClaimKey, SandboxId};
use serde::Serialize;

use super::items::Items;
use super::plan::{Plan, PlanContext, StoredClaim, Unplannable, held_under, number_in, plan, text_in};
use super::progress::Progress;
use super::{TableError, TableNames};
use crate::dynamo::item::{
    Item, META, PK, REPLICAS, SK, read_control, read_heartbeat, read_lease, read_stats, stats_key,
};

/// The most items that a report names, of each kind. It counts the others.
const MAX_NAMED: usize = 50;

/// The prefixes of the broker's own items beside sandboxes and claims. No other program has such items.
pub(super) const OWN_PREFIXES: [&str; 6] = ["TRACK#", "LEASE#", "CTRL#", "STATS#", "QUEUE#", "AUDIT#"];

/// What an item is, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Sandbox,
    Claim,
    /// Another item of the broker, with the prefix of its kind.
    Own(&'a str),
    /// An item of another program, with the prefix of its kind.
    Foreign(&'a str),
}

pub(super) fn kind_of(item: &Item) -> Kind<'_> {
    let (partition, sort) = (text_in(item, PK).unwrap_or_default(), text_in(item, SK).unwrap_or_default());
    let prefix = partition.find('#').map_or(partition, |end| &partition[..=end]);
    match prefix {
        "SBX#" if sort == "META" => Kind::Sandbox,
        "TRACK#" if sort.starts_with("CLAIM#") => Kind::Claim,
        prefix if OWN_PREFIXES.contains(&prefix) => Kind::Own(prefix),
        prefix => Kind::Foreign(prefix),
    }
}

/// Reads an item that replicas coordinate by, as the store does.
fn read_own(item: &Item) -> Result<(), StoreError> {
    let (partition, sort) = (text_in(item, PK).unwrap_or_default(), text_in(item, SK).unwrap_or_default());
    if partition == REPLICAS {
        return read_heartbeat(item).map(|_| ());
    }
    if has_key(item, &stats_key()) {
        return read_stats(item).map(|_| ());
    }
    // The schema item has its own reader, and what is unknown here is of a newer version.
    match partition.split_once('#') {
        Some(("CTRL", name)) if sort == META && ActorName::from_name(name).is_some() => read_control(item).map(|_| ()),
        Some(("LEASE", name)) if sort == META => match ActorName::from_name(name) {
            Some(job) => read_lease(job, item).map(|_| ()),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn has_key(item: &Item, key: &Item) -> bool {
    key.iter().all(|(name, value)| item.get(name) == Some(value))
}

/// An item's key, for reports.
pub(super) fn name_of(item: &Item) -> String {
    format!("{}/{}", text_in(item, PK).unwrap_or("?"), text_in(item, SK).unwrap_or("?"))
}

/// Items that a report is about: all are counted, the first are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// The first 50, each with what is to be said about it.
    pub first: Vec<String>,
}

impl Named {
    pub(super) fn add(&mut self, name: impl Into<String>) {
        self.count += 1;
        if self.first.len() < MAX_NAMED {
            self.first.push(name.into());
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The number of items of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ItemCounts {
    /// All sandboxes.
    pub sandboxes: u64,
    /// Sandboxes by status.
    pub by_status: BTreeMap<String, u64>,
    /// Claims.
    pub claims: u64,
    /// Other items of the broker, by the prefix of their keys.
    pub own: BTreeMap<String, u64>,
    /// Items of other programs, by the prefix of their keys.
    pub foreign: BTreeMap<String, u64>,
}

impl ItemCounts {
    pub(super) fn add(&mut self, item: &Item) {
        let counter = match kind_of(item) {
            Kind::Sandbox => {
                self.sandboxes += 1;
                self.by_status.entry(text_in(item, "status").unwrap_or("without status").to_owned())
            }
            Kind::Claim => {
                self.claims += 1;
                return;
            }
            Kind::Own(prefix) => self.own.entry(prefix.to_owned()),
            Kind::Foreign(prefix) => self.foreign.entry(prefix.to_owned()),
        };
        *counter.or_default() += 1;
    }
}

/// What the scan found. Holdings and claims are kept, because they have to be paired; the rest is counted.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) counts: ItemCounts,
    /// The holdings under each key, the earliest first.
    pub(super) holdings: HashMap<ClaimKey, Vec<Plan>>,
    pub(super) claims: HashMap<ClaimKey, StoredClaim>,
    /// Keys of holdings for which there is no plan. Their claims are left alone.
    unplanned: HashSet<ClaimKey>,
    /// Attributes that are missing, and on how many sandboxes.
    pub(super) missing: BTreeMap<&'static str, u64>,
    /// Sandboxes that another program wrote: they lack what every item of this version has.
    pub(super) incomplete: Named,
    /// Sandboxes that are complete, but not where the status index must have them.
    pub(super) misplaced: Named,
    /// Holdings that are past their end.
    pub(super) overdue: u64,
    /// Holdings without an end, for which the length of a lab has to be known.
    pub(super) without_end: Named,
    pub(super) unreadable: Named,
}

impl Survey {
    /// Reads the whole table.
    pub(super) async fn read(
        items: &Items<'_>,
        names: &TableNames,
        context: &PlanContext,
        progress: &dyn Progress,
    ) -> Result<Self, TableError> {
        let mut survey = Self::default();
        progress.start(&format!("Reading the table {}", names.table), None);
        let mut scan = items.scan();
        while let Some(page) = scan.next().await? {
            progress.advance(page.len() as u64);
            for item in &page {
                survey.add(item, context);
            }
        }
        for holdings in survey.holdings.values_mut() {
            holdings.sort_by_cached_key(|plan| (plan.sandbox.allocated_at, plan.sandbox.sandbox_id.clone()));
        }
        Ok(survey)
    }

    fn add(&mut self, item: &Item, context: &PlanContext) {
        self.counts.add(item);
        match kind_of(item) {
            Kind::Sandbox => self.add_sandbox(item, context),
            Kind::Claim => {
                if let Some(claim) = StoredClaim::read(item) {
                    self.claims.insert(claim.key.clone(), claim);
                }
            }
            Kind::Own(_) => {
                if let Err(StoreError::Corrupt { key, reason }) = read_own(item) {
                    self.unreadable.add(format!("{key}: {reason}"));
                }
            }
            Kind::Foreign(_) => {}
        }
    }

    fn add_sandbox(&mut self, item: &Item, context: &PlanContext) {
        let plan = match plan(item, context) {
            Ok(plan) => plan,
            Err(problem) => {
                self.unplanned.extend(held_under(item));
                match problem {
                    Unplannable::NoEnd => self.without_end.add(name_of(item)),
                    Unplannable::Unreadable(reason) => self.unreadable.add(format!("{}: {reason}", name_of(item))),
                }
                return;
            }
        };
        for change in plan.changes.iter().filter(|change| !change.is_correction) {
            *self.missing.entry(change.name).or_default() += 1;
        }
        if plan.is_incomplete() {
            self.incomplete.add(name_of(item));
        } else if !plan.changes.is_empty() {
            self.misplaced.add(describe_place(item, &plan));
        }
        let Some(claim) = plan.claim() else { return };
        self.overdue += u64::from(claim.expires_at <= context.now.seconds());
        self.holdings.entry(claim.claim_key).or_default().push(plan);
    }

    /// The number of holdings.
    pub(super) fn holders(&self) -> u64 {
        self.holdings.values().map(|holdings| holdings.len() as u64).sum()
    }

    /// What is wrong between holdings and claims.
    pub(super) fn tears(&self) -> Vec<Tear> {
        let mut tears = Vec::new();
        for (key, holdings) in &self.holdings {
            let stored = self.claims.get(key);
            let rightful = rightful(holdings, stored);
            for (index, plan) in holdings.iter().enumerate() {
                let sandbox_id = plan.sandbox.sandbox_id.clone();
                let Some(claim) = plan.claim() else { continue };
                if index != rightful {
                    let holder = holdings[rightful].sandbox.sandbox_id.clone();
                    tears.push(Tear::SecondHolding { key: key.clone(), sandbox_id, holder });
                } else if let Some(kind) = TornClaim::find(&claim, stored) {
                    tears.push(Tear::Claim { key: key.clone(), sandbox_id, kind });
                }
            }
        }
        for (key, claim) in &self.claims {
            if !self.holdings.contains_key(key) && !self.unplanned.contains(key) {
                tears.push(Tear::Orphan { key: key.clone(), sandbox_id: claim.sandbox_id() });
            }
        }
        tears.sort_unstable();
        tears
    }
}

/// The index of the holding that the claim belongs to: the one that has it, or else the earliest.
pub(super) fn rightful(holdings: &[Plan], stored: Option<&StoredClaim>) -> usize {
    let claimed = stored.and_then(StoredClaim::sandbox_id);
    holdings.iter().position(|plan| Some(&plan.sandbox.sandbox_id) == claimed.as_ref()).unwrap_or(0)
}

/// What is wrong with the claim of a holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TornClaim {
    Missing,
    /// It belongs to a sandbox that is not held under its key.
    OfAnother,
    Unreadable,
    OtherEpoch,
    OtherEnd,
    /// It has a `ttl`, by which DynamoDB would delete it.
    Expiring,
    OtherContent,
}

impl TornClaim {
    /// Compares the claim of a holding with the stored one; `None` if it is right.
    pub(super) fn find(claim: &Claim, stored: Option<&StoredClaim>) -> Option<Self> {
        let Some(stored) = stored else { return Some(Self::Missing) };
        let Ok(content) = &stored.content else { return Some(Self::Unreadable) };
        if stored.is(claim) {
            None
        } else if content.sandbox_id != claim.sandbox_id {
            Some(Self::OfAnother)
        } else if content.epoch != claim.epoch {
            Some(Self::OtherEpoch)
        } else if content.expires_at != claim.expires_at {
            Some(Self::OtherEnd)
        } else if stored.has_ttl {
            Some(Self::Expiring)
        } else {
            Some(Self::OtherContent)
        }
    }
}

/// A claim and a holding that do not fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tear {
    /// The claim of a holding is not what it should be.
    Claim { key: ClaimKey, sandbox_id: SandboxId, kind: TornClaim },
    /// A claim whose sandbox is not held under its key.
    Orphan { key: ClaimKey, sandbox_id: Option<SandboxId> },
    /// A second holding under a key. Only `holder` can have the claim.
    SecondHolding { key: ClaimKey, sandbox_id: SandboxId, holder: SandboxId },
}

/// Where a sandbox is in the status index, and where it should be, for reports.
fn describe_place(item: &Item, plan: &Plan) -> String {
    let (name, status) = (name_of(item), plan.sandbox.status);
    match plan.changes.iter().find(|change| change.name == "status_shard") {
        Some(_) => {
            let stored = text_in(item, "status_shard").unwrap_or("nothing");
            format!("{name}: it is {status}, but in the index as {stored}")
        }
        None => {
            let stored = number_in(item, "shard_at").map_or_else(|| "no number".to_owned(), |at| at.to_string());
            format!("{name}: its shard_at is {stored}, not {}", plan.sandbox.shard_at.0)
        }
    }
}

/// A claim's key, for reports.
pub(super) fn describe(key: &ClaimKey) -> String {
    format!("TRACK#{}/CLAIM#{}", key.track, key.key)
}
