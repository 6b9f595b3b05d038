//! CspSync: brings the table in line with the CSP's listing. It writes only differences, so that a steady pool costs no
//! writes, and refuses a listing that would make too many sandboxes stale.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::concurrency::{all, for_each};
use super::sync_plan::{PlanSettings, SyncPlan};
use super::{Job, JobError};
use crate::actor::ActorName;
use crate::pool::Pool;
use crate::ports::{Clock, CspClient, CspListing, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Claim, CspAccount, Event, Sandbox, SandboxId, Status};

/// Differences that are written concurrently.
const CONCURRENCY: usize = 16;

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
    /// Available ones that are listed with other attributes, which they have now.
    #[serde(default)]
    pub refreshed: u64,
    /// Available ones that are no longer listed, now stale.
    pub marked_stale: u64,
    /// deletion_failed ones that two listings in a row lack, now tombstones.
    pub confirmed_deleted: u64,
    /// Allocated ones that are no longer listed. Their owners are told; nothing else changes.
    pub allocated_missing: u64,
    /// Held ones that are listed with other attributes; not changed.
    #[serde(default)]
    pub held_changed: u64,
    /// Tombstones that are still listed.
    #[serde(default)]
    pub undead: u64,
    /// Tombstones that are still listed an hour after the deletion, now pending deletion again.
    #[serde(default)]
    pub deleted_again: u64,
    /// Records of an account that is known or listed under another id.
    #[serde(default)]
    pub duplicates: u64,
    /// Records that cannot be read. Their accounts count as listed.
    pub skipped: u64,
    /// Whether the listing proves nothing to be gone: a page is missing, or a record without an id is in it.
    #[serde(default)]
    pub incomplete: bool,
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
    /// How old an account must be to be handed out.
    pub min_age: Duration,
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
    /// The deletion_failed sandboxes that the last conclusive listing lacked. A second listing confirms it.
    pub(crate) lacked_once: Arc<Mutex<HashSet<SandboxId>>>,
}

#[async_trait]
impl Job for CspSync {
    type Report = SyncReport;

    const NAME: ActorName = ActorName::CspSync;

    async fn run(&self, stop: &CancellationToken) -> Result<SyncReport, JobError> {
        // The CSP is read first: its listing is then at least as old as what the table says.
        let listing = self.csp.list().await?;
        let (listed, skipped) = (listing.accounts.len(), listing.unreadable.len());
        let mut plan = self.plan(listing).await?;
        let confirmed_deleted = self.confirm_failed(&mut plan);
        let count = |number: usize| number as u64;
        let mut report = SyncReport {
            synced: count(listed),
            added: count(plan.new.len()),
            revived: count(plan.revived.len()),
            refreshed: count(plan.refreshed.len()),
            marked_stale: count(plan.missing.len()),
            confirmed_deleted: count(confirmed_deleted.len()),
            allocated_missing: count(plan.allocated_missing.len()),
            held_changed: count(plan.held_changed.len()),
            undead: count(plan.undead.len()),
            deleted_again: count(plan.undead.iter().filter(|(_, event)| is_deleted_again(event)).count()),
            duplicates: count(plan.duplicates.len()),
            skipped: count(skipped),
            incomplete: !plan.is_conclusive(),
            dry_run: self.options.dry_run,
        };
        if self.options.dry_run {
            return Ok(report);
        }
        if !self.options.force {
            self.guard(listed + skipped, &plan)?;
        }
        plan.log();
        self.execute(plan, confirmed_deleted, &mut report, stop).await?;
        metrics::counter!("broker_sync_sandboxes_synced_total").increment(report.synced);
        metrics::counter!("broker_sync_sandboxes_stale_total").increment(report.marked_stale);
        metrics::gauge!("broker_sync_allocated_missing").set(report.allocated_missing as f64);
        metrics::gauge!("broker_sync_undead").set(report.undead as f64);
        metrics::gauge!("broker_sync_duplicates").set(report.duplicates as f64);
        metrics::gauge!("broker_sync_skipped").set(report.skipped as f64);
        metrics::gauge!("broker_sync_incomplete").set(f64::from(u8::from(report.incomplete)));
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

    /// Compares the table with the listing.
    async fn plan(&self, listing: CspListing) -> Result<SyncPlan, StoreError> {
        let SyncSettings { min_age, deleted_retention, .. } = self.settings;
        let mut plan = SyncPlan::new(listing, PlanSettings { now: self.clock.now(), min_age, deleted_retention });
        for status in Status::LIVE {
            let mut pages = self.store.pages(Listing::of(status));
            while let Some(page) = pages.next().await? {
                page.into_iter().for_each(|sandbox| plan.add_live(sandbox));
            }
        }
        if plan.needs_tombstones() {
            let mut pages = self.store.pages(Listing::of(Status::Deleted));
            while let Some(page) = pages.next().await? {
                page.into_iter().for_each(|tombstone| plan.add_tombstone(tombstone));
            }
        }
        plan.complete();
        Ok(plan)
    }

    /// The deletion_failed sandboxes that this listing and the one before it lack.
    fn confirm_failed(&self, plan: &mut SyncPlan) -> Vec<Sandbox> {
        let lacking = std::mem::take(&mut plan.failed_missing);
        let mut lacked_once = self.lacked_once.lock();
        let ids = lacking.iter().map(|sandbox| sandbox.sandbox_id.clone()).collect();
        let confirmed = lacking.into_iter().filter(|sandbox| lacked_once.contains(&sandbox.sandbox_id)).collect();
        if plan.is_conclusive() && !self.options.dry_run {
            *lacked_once = ids;
        }
        confirmed
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
        confirmed_deleted: Vec<Sandbox>,
        report: &mut SyncReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let (millis, now) = (self.clock.now_millis(), self.clock.now());
        let missing = Event::Missing { keep_until: now.plus(self.settings.deleted_retention) };
        let all_missing = |sandboxes: Vec<Sandbox>| {
            let missing = missing.clone();
            sandboxes.into_iter().map(move |sandbox| (sandbox, missing.clone())).collect()
        };
        let (again, kept): (Vec<_>, Vec<_>) = plan
            .undead
            .into_iter()
            .filter_map(|(tombstone, event)| Some((tombstone, event?)))
            .partition(|(_, event)| matches!(event, Event::ListedAfterDeletion { .. }));
        let create = |account: CspAccount| async move {
            self.store.create(&Sandbox::discovered(&account, self.settings.min_age, millis)).await
        };
        report.added = 0;
        // What can be written is written, whatever fails.
        let results = [
            for_each(all(plan.new), CONCURRENCY, stop, create, |is_new| report.added += u64::from(is_new)).await,
            self.apply_to_all(plan.revived, stop, &mut report.revived).await,
            self.apply_to_all(plan.refreshed, stop, &mut report.refreshed).await,
            self.apply_to_all(all_missing(plan.missing), stop, &mut report.marked_stale).await,
            self.apply_to_all(all_missing(confirmed_deleted), stop, &mut report.confirmed_deleted).await,
            self.apply_to_all(plan.observed, stop, &mut 0).await,
            self.apply_to_all(kept, stop, &mut 0).await,
            self.apply_to_all(again, stop, &mut report.deleted_again).await,
        ];
        let supply = report.added + report.revived;
        if supply > 0 {
            self.pool.request_refresh_of_own();
            // Other replicas see the counter. Without it they find the sandboxes a little later.
            self.store.add_supply(supply).await?;
        }
        results.into_iter().collect()
    }

    /// Applies each event to its sandbox and counts the sandboxes that were still as they were read.
    async fn apply_to_all(
        &self,
        events: Vec<(Sandbox, Event)>,
        stop: &CancellationToken,
        changed: &mut u64,
    ) -> Result<(), StoreError> {
        *changed = 0;
        let apply = |(sandbox, event)| self.apply(sandbox, event);
        for_each(all(events), CONCURRENCY, stop, apply, |is_done| *changed += u64::from(is_done)).await
    }

    async fn apply(&self, sandbox: Sandbox, event: Event) -> Result<bool, StoreError> {
        let Ok(update) = sandbox.update(event, self.clock.now()) else { return Ok(false) };
        // The claim of a held sandbox carries its epoch.
        let outcome = match Claim::held(&sandbox.after(&update.mutation)) {
            Some(claim) => self.store.renew_claim(&update, &claim).await?,
            None => self.store.update(&update).await?,
        };
        Ok(outcome == WriteOutcome::Done)
    }
}

fn is_deleted_again(event: &Option<Event>) -> bool {
    matches!(event, Some(Event::ListedAfterDeletion { .. }))
}
