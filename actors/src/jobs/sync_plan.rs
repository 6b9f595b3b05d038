//! What a sync has to write: the differences between the CSP's listing and the table. One account is one sandbox in its
//! whole life (I9), whatever id it is listed under.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::ports::{CspListing, Presence};
use crate::sandbox::{AccountChanges, CspAccount, Event, Sandbox, SandboxId, Status, Timestamp};

/// A tombstone that is listed this long after its deletion is deleted again. Listings may lag, but not that long.
const UNDEAD_AFTER: Duration = Duration::from_secs(3600);

/// The parameters of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanSettings {
    pub(super) now: Timestamp,
    /// How old an account must be to be handed out.
    pub(super) min_age: Duration,
    /// How long a tombstone is kept.
    pub(super) deleted_retention: Duration,
}

/// The writes that bring the table in line.
#[derive(Debug)]
pub(super) struct SyncPlan {
    settings: PlanSettings,
    presence: Presence,
    /// The listed accounts by id. Several accounts may be listed under one.
    by_id: HashMap<SandboxId, Vec<CspAccount>>,
    /// The ids and accounts in the table.
    known_ids: HashSet<SandboxId>,
    known_accounts: HashMap<String, SandboxId>,
    /// Sandboxes that are available and listed with other attributes. They are checked once the whole table is known.
    changed: Vec<Sandbox>,
    pub(super) new: Vec<CspAccount>,
    pub(super) revived: Vec<(Sandbox, Event)>,
    pub(super) refreshed: Vec<(Sandbox, Event)>,
    pub(super) missing: Vec<Sandbox>,
    pub(super) failed_missing: Vec<Sandbox>,
    /// Held ones whose account is gone, has come back, or has been replaced.
    pub(super) observed: Vec<(Sandbox, Event)>,
    /// Tombstones that are listed, with what to do about those that need a write.
    pub(super) undead: Vec<(Sandbox, Option<Event>)>,
    pub(super) allocated_missing: Vec<SandboxId>,
    /// Held ones with other attributes in the listing.
    pub(super) held_changed: Vec<SandboxId>,
    /// Records of an account that is listed under another id too, or known under another id.
    pub(super) duplicates: Vec<CspAccount>,
    /// The available sandboxes in the table.
    pub(super) available: usize,
}

impl SyncPlan {
    pub(super) fn new(listing: CspListing, settings: PlanSettings) -> Self {
        let presence = listing.presence();
        let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
        for account in listing.accounts {
            by_id.entry(account.sandbox_id.clone()).or_default().push(account);
        }
        Self {
            settings,
            presence,
            by_id,
            known_ids: HashSet::new(),
            known_accounts: HashMap::new(),
            changed: Vec::new(),
            new: Vec::new(),
            revived: Vec::new(),
            refreshed: Vec::new(),
            missing: Vec::new(),
            failed_missing: Vec::new(),
            observed: Vec::new(),
            undead: Vec::new(),
            allocated_missing: Vec::new(),
            held_changed: Vec::new(),
            duplicates: Vec::new(),
            available: 0,
        }
    }

    /// Whether the listing proves anything to be gone.
    pub(super) fn is_conclusive(&self) -> bool {
        self.presence.is_conclusive()
    }

    /// Logs what an operator should know.
    pub(super) fn log(&self) {
        for sandbox_id in &self.allocated_missing {
            tracing::warn!(event = "allocated_missing", %sandbox_id, "an allocated sandbox is missing at the CSP");
        }
        for sandbox_id in &self.held_changed {
            tracing::warn!(event = "held_account_changed", %sandbox_id, "the CSP lists a held sandbox with other attributes");
        }
        for (Sandbox { sandbox_id, .. }, event) in &self.undead {
            let is_deleted_again = matches!(event, Some(Event::ListedAfterDeletion { .. }));
            tracing::warn!(event = "undead", %sandbox_id, is_deleted_again, "the CSP still lists a deleted sandbox");
        }
        for CspAccount { sandbox_id, external_id, .. } in &self.duplicates {
            tracing::warn!(event = "duplicate_account", %sandbox_id, external_id, "the account is known under another id");
        }
    }

    /// Compares a live sandbox of the table with the listing.
    pub(super) fn add_live(&mut self, sandbox: Sandbox) {
        self.know(&sandbox);
        self.available += usize::from(sandbox.status == Status::Available);
        match sandbox.status {
            Status::Available | Status::Stale if self.differs(&sandbox) => self.changed.push(sandbox),
            Status::Stale if self.presence.has(&sandbox) => {
                self.revived.push((sandbox, Event::Listed(AccountChanges::default())));
            }
            Status::Available if self.presence.lacks(&sandbox) => self.missing.push(sandbox),
            Status::DeletionFailed if self.presence.lacks(&sandbox) => self.failed_missing.push(sandbox),
            Status::Allocated | Status::PendingDeletion | Status::DeletionFailed => self.observe(sandbox),
            Status::Available | Status::Stale | Status::Quarantined | Status::Deleted => {}
        }
    }

    /// Whether the tombstones of the table matter: an account is listed that no live sandbox has, or under another id.
    pub(super) fn needs_tombstones(&self) -> bool {
        let is_known = |account: &CspAccount| {
            self.known_ids.contains(&account.sandbox_id) || self.known_accounts.contains_key(&account.external_id)
        };
        !self.changed.is_empty() || !self.by_id.values().flatten().all(is_known)
    }

    /// Compares a tombstone of the table with the listing.
    pub(super) fn add_tombstone(&mut self, tombstone: Sandbox) {
        // The index may list a sandbox under two statuses while it changes.
        if self.known_ids.contains(&tombstone.sandbox_id) {
            return;
        }
        self.know(&tombstone);
        if self.presence.has(&tombstone) {
            let event = self.event_for_undead(&tombstone);
            self.undead.push((tombstone, event));
        }
    }

    /// Decides what needs the whole table: which accounts are new, and which changes are allowed.
    pub(super) fn complete(&mut self) {
        for sandbox in std::mem::take(&mut self.changed) {
            self.decide_change(sandbox);
        }
        let mut unknown: Vec<_> = self.by_id.drain().filter(|(id, _)| !self.known_ids.contains(id)).collect();
        unknown.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for account in unknown.into_iter().flat_map(|(_, accounts)| accounts) {
            let is_second = self.known_ids.contains(&account.sandbox_id);
            if is_second || self.known_accounts.contains_key(&account.external_id) {
                self.duplicates.push(account);
                continue;
            }
            self.known_ids.insert(account.sandbox_id.clone());
            self.known_accounts.insert(account.external_id.clone(), account.sandbox_id.clone());
            self.new.push(account);
        }
    }

    fn know(&mut self, sandbox: &Sandbox) {
        self.known_ids.insert(sandbox.sandbox_id.clone());
        for account in sandbox.accounts() {
            self.known_accounts.insert(account.to_owned(), sandbox.sandbox_id.clone());
        }
    }

    /// The listed record of the sandbox: of its own account, or else of another account under its id.
    fn listed(&self, sandbox: &Sandbox) -> Option<&CspAccount> {
        let accounts = self.by_id.get(&sandbox.sandbox_id)?;
        accounts.iter().find(|account| account.external_id == sandbox.external_id).or(accounts.first())
    }

    /// Another account that is listed under the sandbox's id, while its own is not.
    fn replacement(&self, sandbox: &Sandbox) -> Option<&str> {
        let listed = self.listed(sandbox)?;
        let is_other = listed.external_id != sandbox.external_id && !self.presence.has_account(&sandbox.external_id);
        is_other.then_some(listed.external_id.as_str())
    }

    fn changes(&self, sandbox: &Sandbox) -> AccountChanges {
        let Some(listed) = self.listed(sandbox) else { return AccountChanges::default() };
        let is_replaced = self.replacement(sandbox).is_some();
        if listed.external_id != sandbox.external_id && !is_replaced {
            return AccountChanges::default();
        }
        let PlanSettings { now, min_age, .. } = self.settings;
        AccountChanges {
            name: listed.name.clone().filter(|name| *name != sandbox.name),
            external_id: is_replaced.then(|| listed.external_id.clone()),
            sfdc_account_id: listed.sfdc_account_id.clone().filter(|id| Some(id) != sandbox.sfdc_account_id.as_ref()),
            created_at: listed.created_at.filter(|_| is_replaced),
            available_from: listed.available_from(min_age, now).filter(|_| is_replaced),
        }
    }

    fn differs(&self, sandbox: &Sandbox) -> bool {
        self.changes(sandbox) != AccountChanges::default()
    }

    /// An account that belongs to another sandbox is not taken over.
    fn decide_change(&mut self, sandbox: Sandbox) {
        let changes = self.changes(&sandbox);
        if let Some(external_id) = &changes.external_id {
            let owner = self.known_accounts.entry(external_id.clone()).or_insert_with(|| sandbox.sandbox_id.clone());
            if *owner != sandbox.sandbox_id {
                self.duplicates.extend(self.listed(&sandbox).cloned());
                if sandbox.status == Status::Available && self.presence.is_conclusive() {
                    self.missing.push(sandbox);
                }
                return;
            }
        }
        let list = if sandbox.status == Status::Stale { &mut self.revived } else { &mut self.refreshed };
        list.push((sandbox, Event::Listed(changes)));
    }

    fn observe(&mut self, sandbox: Sandbox) {
        let replaced_by = self.replacement(&sandbox).map(str::to_owned).or(sandbox.replaced_by.clone());
        let mut is_gone = sandbox.gone_at_provider;
        if sandbox.status == Status::Allocated {
            if self.presence.has_account(&sandbox.external_id) {
                is_gone = false;
            } else if self.presence.lacks(&sandbox) || self.replacement(&sandbox).is_some() {
                is_gone = true;
                self.allocated_missing.push(sandbox.sandbox_id.clone());
            }
        }
        if self.differs(&sandbox) {
            self.held_changed.push(sandbox.sandbox_id.clone());
        }
        if is_gone != sandbox.gone_at_provider || replaced_by != sandbox.replaced_by {
            self.observed.push((sandbox, Event::Observed { is_gone, replaced_by }));
        }
    }

    fn event_for_undead(&self, tombstone: &Sandbox) -> Option<Event> {
        let PlanSettings { now, deleted_retention, .. } = self.settings;
        if now.since(tombstone.deleted_at.unwrap_or(tombstone.updated_at)) >= UNDEAD_AFTER {
            let deletion_requested_at = tombstone.deletion_requested_at.unwrap_or(now);
            let replaced_by = self.replacement(tombstone).map(str::to_owned).or(tombstone.replaced_by.clone());
            return Some(Event::ListedAfterDeletion { deletion_requested_at, replaced_by });
        }
        let is_half_over = tombstone.ttl.is_none_or(|ttl| ttl.since(now) < deleted_retention / 2);
        is_half_over.then(|| Event::KeepTombstone { keep_until: now.plus(deleted_retention) })
    }
}
