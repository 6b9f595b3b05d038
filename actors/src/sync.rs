//! CspSync: brings the table in line with the CSP's listing. It writes differences only, so that a steady pool costs
//! no writes, and refuses a listing that would take away too much of the pool.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::concurrency::for_each;
use crate::job::{Job, JobError, StopSignal};
use crate::pool::Pool;
use crate::ports::{Clock, CspAccount, CspClient, Listing, SandboxStore, StoreError, WriteOutcome};
use crate::sandbox::{Event, Sandbox, SandboxId, Status, Timestamp};

/// So many differences are written at a time.
const CONCURRENCY: usize = 16;

/// So few sandboxes may always vanish, whatever their share of the pool.
const ALWAYS_ALLOWED_STALE: usize = 5;

/// What a sync did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SyncReport {
    /// Sandboxes in the CSP's listing.
    pub synced: u64,
    /// New ones, now available.
    pub added: u64,
    /// Stale ones that are back.
    pub revived: u64,
    /// Available ones that vanished.
    pub marked_stale: u64,
    /// deletion_failed ones that vanished, now tombstones.
    pub confirmed_deleted: u64,
    /// Allocated ones that vanished; left alone.
    pub allocated_missing: u64,
    /// Records of the CSP that lack what is kept.
    pub skipped: u64,
    /// Whether this only tells what would be done.
    pub dry_run: bool,
}

/// How a sync is asked for by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncOptions {
    /// Tell the differences, write nothing.
    pub dry_run: bool,
    /// Do it even if the mass-stale guard objects.
    pub force: bool,
}

/// The job's bounds.
#[derive(Clone, Copy, Debug)]
pub struct SyncSettings {
    /// The largest share of the available sandboxes that one sync may make stale.
    pub max_stale_percent: u32,
    /// How long a tombstone stays.
    pub deleted_retention: Duration,
}

/// The job.
#[derive(Clone)]
pub struct CspSync {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) csp: Arc<dyn CspClient>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Told when the table got new available sandboxes.
    pub(crate) pool: Pool,
    pub(crate) settings: SyncSettings,
    pub(crate) options: SyncOptions,
}

/// The writes that would bring the table in line.
#[derive(Debug, Default)]
struct Differences {
    new: Vec<CspAccount>,
    back: Vec<Sandbox>,
    gone: Vec<Sandbox>,
    confirmed: Vec<Sandbox>,
    allocated_missing: Vec<SandboxId>,
    available: usize,
}

#[async_trait]
impl Job for CspSync {
    type Report = SyncReport;

    fn name(&self) -> &'static str {
        "csp-sync"
    }

    async fn run(&self, stop: &StopSignal) -> Result<SyncReport, JobError> {
        // The CSP first: what it lists cannot be older than what the table says of it.
        let csp_listing = self.csp.list().await?;
        let listed = csp_listing.accounts.len();
        let differences = self.differences(csp_listing.accounts).await?;
        let mut report = SyncReport {
            synced: listed as u64,
            added: differences.new.len() as u64,
            revived: differences.back.len() as u64,
            marked_stale: differences.gone.len() as u64,
            confirmed_deleted: differences.confirmed.len() as u64,
            allocated_missing: differences.allocated_missing.len() as u64,
            skipped: csp_listing.skipped,
            dry_run: self.options.dry_run,
        };
        if self.options.dry_run {
            return Ok(report);
        }
        if !self.options.force {
            self.guard(listed, &differences)?;
        }
        for sandbox_id in &differences.allocated_missing {
            tracing::warn!(%sandbox_id, "an allocated sandbox is gone from the CSP; it is left to its owner");
        }
        self.write(differences, &mut report, stop).await?;
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

    async fn differences(&self, accounts: Vec<CspAccount>) -> Result<Differences, StoreError> {
        let mut accounts: HashMap<SandboxId, CspAccount> =
            accounts.into_iter().map(|account| (account.sandbox_id.clone(), account)).collect();
        // A lagging index may show a sandbox under two statuses, so an account that was met stays in `accounts`.
        let mut known = HashSet::new();
        let mut differences = Differences::default();
        for status in Status::ALL {
            let mut listing = Listing::of(status);
            loop {
                let page = self.store.list(&listing).await?;
                for sandbox in page.sandboxes {
                    known.insert(sandbox.sandbox_id.clone());
                    let is_listed = accounts.contains_key(&sandbox.sandbox_id);
                    differences.add(sandbox, is_listed);
                }
                if page.next.is_none() {
                    break;
                }
                listing.after = page.next;
            }
        }
        accounts.retain(|sandbox_id, _| !known.contains(sandbox_id));
        differences.new = accounts.into_values().collect();
        differences.new.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(differences)
    }

    fn guard(&self, listed: usize, differences: &Differences) -> Result<(), JobError> {
        if listed == 0 {
            return Err(JobError::GuardRefused("the CSP lists no sandbox at all; nothing was changed".to_owned()));
        }
        let gone = differences.gone.len();
        let allowed = differences.available * self.settings.max_stale_percent as usize / 100;
        if gone > ALWAYS_ALLOWED_STALE && gone > allowed {
            return Err(JobError::GuardRefused(format!(
                "{gone} of {} available sandboxes are missing in the CSP's listing, more than {} %; nothing was changed",
                differences.available, self.settings.max_stale_percent
            )));
        }
        Ok(())
    }

    async fn write(
        &self,
        differences: Differences,
        report: &mut SyncReport,
        stop: &StopSignal,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let keep_until = now.plus(self.settings.deleted_retention);
        let create = |account| async move { self.store.create(&Sandbox::discovered(&account, now)).await };
        report.added = 0;
        for_each(differences.new, CONCURRENCY, stop, create, |done| report.added += u64::from(done)).await?;
        let gone = Event::Missing { keep_until };
        report.revived = self.change_all(differences.back, &Event::Listed, now, stop).await?;
        report.marked_stale = self.change_all(differences.gone, &gone, now, stop).await?;
        report.confirmed_deleted = self.change_all(differences.confirmed, &gone, now, stop).await?;
        if report.added + report.revived + report.marked_stale > 0 {
            self.pool.want_refresh();
        }
        Ok(())
    }

    /// Takes these sandboxes through the event; tells how many were still as they were listed.
    async fn change_all(
        &self,
        sandboxes: Vec<Sandbox>,
        event: &Event,
        now: Timestamp,
        stop: &StopSignal,
    ) -> Result<u64, StoreError> {
        let change = |sandbox: Sandbox| async move {
            let Ok(write) = sandbox.write(event.clone(), now) else { return Ok(false) };
            Ok(self.store.update(&write).await? == WriteOutcome::Done)
        };
        let mut changed = 0;
        for_each(sandboxes, CONCURRENCY, stop, change, |done| changed += u64::from(done)).await?;
        Ok(changed)
    }
}

impl Differences {
    fn add(&mut self, sandbox: Sandbox, is_listed: bool) {
        self.available += usize::from(sandbox.status == Status::Available);
        match (sandbox.status, is_listed) {
            (Status::Available, false) => self.gone.push(sandbox),
            (Status::Stale, true) => self.back.push(sandbox),
            (Status::DeletionFailed, false) => self.confirmed.push(sandbox),
            (Status::Allocated, false) => self.allocated_missing.push(sandbox.sandbox_id),
            // Pending deletions end with cleanup's 404; tombstones stay what they are.
            _ => {}
        }
    }
}
