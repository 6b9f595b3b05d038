//! CspSync: brings the table in line with the CSP's listing. It writes only differences, so that a steady pool costs no
//! writes, and refuses a listing that would make too many sandboxes stale.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::concurrency::{all, for_each};
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::pool::Pool;
use crate::ports::{Clock, CspClient, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{CspAccount, Event, Sandbox, SandboxId, Status, Timestamp};

/// Differences that are written concurrently.
const CONCURRENCY: usize = 16;

/// Up to this many unknown accounts are looked up before they are created: they may be tombstones, which a sync does not
/// list. More are most likely a new pool, and a failed creation shows a tombstone as well.
const MAX_LOOKED_UP: usize = 1000;

/// The number of sandboxes that may become stale whatever their share of the pool.
const ALWAYS_ALLOWED_STALE: usize = 5;

/// What a sync did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Sandboxes in the CSP's listing.
    pub synced: u64,
    /// New ones, now available.
    pub added: u64,
    /// Stale ones that are listed again, now available.
    pub revived: u64,
    /// Available ones that are no longer listed, now stale.
    pub marked_stale: u64,
    /// deletion_failed ones that are no longer listed, now tombstones.
    pub confirmed_deleted: u64,
    /// Allocated ones that are no longer listed; not changed.
    pub allocated_missing: u64,
    /// Records that lack a required field.
    pub skipped: u64,
    /// Whether nothing was written because only a dry run was asked for.
    pub dry_run: bool,
}

/// The options of a manual sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncOptions {
    /// Report the differences and write nothing.
    pub dry_run: bool,
    /// Sync even if the mass-stale guard refuses the listing.
    pub force: bool,
}

/// The parameters of the job.
#[derive(Clone, Copy, Debug)]
pub struct SyncSettings {
    /// The largest share of the available sandboxes that one sync may make stale, in percent.
    pub max_stale_percent: u32,
    /// How long a tombstone is kept.
    pub deleted_retention: Duration,
}

/// The job.
#[derive(Clone)]
pub struct CspSync {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) csp: Arc<dyn CspClient>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Refreshed when the table has new available sandboxes.
    pub(crate) pool: Pool,
    pub(crate) settings: SyncSettings,
    pub(crate) options: SyncOptions,
}

/// The writes that bring the table in line.
#[derive(Debug, Default)]
struct SyncPlan {
    new: Vec<CspAccount>,
    revived: Vec<Sandbox>,
    missing: Vec<Sandbox>,
    confirmed_deleted: Vec<Sandbox>,
    allocated_missing: Vec<SandboxId>,
    /// The available sandboxes in the table.
    available: usize,
}

#[async_trait]
impl Job for CspSync {
    type Report = SyncReport;

    const NAME: ActorName = ActorName::CspSync;

    async fn run(&self, stop: &CancellationToken) -> Result<SyncReport, JobError> {
        // The CSP is read first: its listing is then at least as old as what the table says.
        let csp_listing = self.csp.list().await?;
        let listed = csp_listing.accounts.len();
        let plan = self.plan(csp_listing.accounts).await?;
        let mut report = SyncReport {
            synced: listed as u64,
            added: plan.new.len() as u64,
            revived: plan.revived.len() as u64,
            marked_stale: plan.missing.len() as u64,
            confirmed_deleted: plan.confirmed_deleted.len() as u64,
            allocated_missing: plan.allocated_missing.len() as u64,
            skipped: csp_listing.skipped,
            dry_run: self.options.dry_run,
        };
        if self.options.dry_run {
            return Ok(report);
        }
        if !self.options.force {
            self.guard(listed, &plan)?;
        }
        for sandbox_id in &plan.allocated_missing {
            tracing::warn!(event = "allocated_missing", %sandbox_id, "an allocated sandbox is missing at the CSP");
        }
        self.execute(plan, &mut report, stop).await?;
        metrics::counter!("broker_sync_sandboxes_synced_total").increment(report.synced);
        metrics::counter!("broker_sync_sandboxes_stale_total").increment(report.marked_stale);
        metrics::gauge!("broker_sync_allocated_missing").set(report.allocated_missing as f64);
        Ok(report)
    }

    fn measure(&self, outcome: &'static str, duration: Duration) {
        metrics::counter!("broker_sync_total", "outcome" => outcome).increment(1);
        metrics::histogram!("broker_sync_duration_seconds").record(duration.as_secs_f64());
    }
}

impl CspSync {
    /// The same job with other options.
    pub fn with_options(&self, options: SyncOptions) -> Self {
        Self { options, ..self.clone() }
    }

    /// Compares the table with the listed accounts.
    async fn plan(&self, accounts: Vec<CspAccount>) -> Result<SyncPlan, StoreError> {
        let mut accounts: HashMap<SandboxId, CspAccount> =
            accounts.into_iter().map(|account| (account.sandbox_id.clone(), account)).collect();
        // A lagging index may list a sandbox under two statuses, so a known account stays in `accounts` until the end.
        let mut known = HashSet::new();
        let mut plan = SyncPlan::default();
        for status in Status::LIVE {
            let mut pages = self.store.pages(Listing::of(status));
            while let Some(page) = pages.next().await? {
                for sandbox in page {
                    known.insert(sandbox.sandbox_id.clone());
                    let is_listed = accounts.contains_key(&sandbox.sandbox_id);
                    plan.add(sandbox, is_listed);
                }
            }
        }
        accounts.retain(|sandbox_id, _| !known.contains(sandbox_id));
        let mut new: Vec<_> = accounts.into_values().collect();
        new.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        plan.new = self.without_tombstones(new).await?;
        Ok(plan)
    }

    /// The accounts that have no item at all.
    async fn without_tombstones(&self, accounts: Vec<CspAccount>) -> Result<Vec<CspAccount>, StoreError> {
        if accounts.len() > MAX_LOOKED_UP {
            return Ok(accounts);
        }
        let mut new = Vec::new();
        let look_up = |account: CspAccount| async move {
            match self.store.get(&account.sandbox_id).await {
                Ok(found) => Ok(found.is_none().then_some(account)),
                // There is an item. It is reported where it is read, and must not stop the sync of the others.
                Err(StoreError::Corrupt { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        for_each(all(accounts), CONCURRENCY, &CancellationToken::new(), look_up, |account| new.extend(account)).await?;
        Ok(new)
    }

    fn guard(&self, listed: usize, plan: &SyncPlan) -> Result<(), JobError> {
        if listed == 0 {
            return Err(JobError::GuardRefused("the CSP lists no sandbox at all; nothing was changed".to_owned()));
        }
        let missing = plan.missing.len();
        let allowed = plan.available * self.settings.max_stale_percent as usize / 100;
        if missing > ALWAYS_ALLOWED_STALE && missing > allowed {
            return Err(JobError::GuardRefused(format!(
                "{missing} of {} available sandboxes are missing in the CSP's listing, more than {} %; nothing was changed",
                plan.available, self.settings.max_stale_percent
            )));
        }
        Ok(())
    }

    async fn execute(
        &self,
        plan: SyncPlan,
        report: &mut SyncReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let (millis, now) = (self.clock.now_millis(), self.clock.now());
        let keep_until = now.plus(self.settings.deleted_retention);
        let create = |account| async move { self.store.create(&Sandbox::discovered(&account, millis)).await };
        report.added = 0;
        let created =
            for_each(all(plan.new), CONCURRENCY, stop, create, |is_new| report.added += u64::from(is_new)).await;
        let missing = Event::Missing { keep_until };
        // What can be written is written, whatever fails.
        let (revived, marked_stale, confirmed) =
            (&mut report.revived, &mut report.marked_stale, &mut report.confirmed_deleted);
        let results = [
            created,
            self.apply_to_all(plan.revived, &Event::Listed, now, stop, revived).await,
            self.apply_to_all(plan.missing, &missing, now, stop, marked_stale).await,
            self.apply_to_all(plan.confirmed_deleted, &missing, now, stop, confirmed).await,
        ];
        let supply = report.added + report.revived;
        if supply > 0 {
            self.pool.request_refresh_of_own();
            // Other replicas see the counter. Without it they find the sandboxes a little later.
            self.store.add_supply(supply).await?;
        }
        results.into_iter().collect()
    }

    /// Applies the event to these sandboxes and counts those that were still as they were read.
    async fn apply_to_all(
        &self,
        sandboxes: Vec<Sandbox>,
        event: &Event,
        now: Timestamp,
        stop: &CancellationToken,
        changed: &mut u64,
    ) -> Result<(), StoreError> {
        let apply = |sandbox: Sandbox| async move {
            let Ok(update) = sandbox.update(event.clone(), now) else { return Ok(false) };
            match self.store.update(&update).await {
                Ok(outcome) => Ok(outcome == WriteOutcome::Done),
                // It became unreadable since it was listed.
                Err(StoreError::Corrupt { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        *changed = 0;
        for_each(all(sandboxes), CONCURRENCY, stop, apply, |is_done| *changed += u64::from(is_done)).await
    }
}

impl SyncPlan {
    fn add(&mut self, sandbox: Sandbox, is_listed: bool) {
        self.available += usize::from(sandbox.status == Status::Available);
        match (sandbox.status, is_listed) {
            (Status::Available, false) => self.missing.push(sandbox),
            (Status::Stale, true) => self.revived.push(sandbox),
            (Status::DeletionFailed, false) => self.confirmed_deleted.push(sandbox),
            (Status::Allocated, false) => self.allocated_missing.push(sandbox.sandbox_id),
            // Pending deletions end with cleanup's 404; tombstones do not change.
            _ => {}
        }
    }
}
