//! What the runs of jobs report.

use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, Responder};
use broker_actors::jobs::{cleanup, csp_sync, expiry_reaper, stale_collector};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::operation::{OperationParts, Output};

/// What a sync did or, in a dry run, would do
#[derive(Serialize, ToSchema)]
pub(crate) struct SyncReport {
    /// Sandboxes in the cloud provider's listing
    synced: u64,
    /// New sandboxes, now available
    added: u64,
    /// Stale sandboxes that are listed again, now available
    revived: u64,
    /// Available sandboxes whose name or account differs in the listing, now as listed
    refreshed: u64,
    /// Available sandboxes that are no longer listed, now stale
    marked_stale: u64,
    /// Sandboxes with a failed deletion that two listings in a row lack, now deleted
    confirmed_deleted: u64,
    /// Allocated sandboxes that are no longer listed; their owners see `gone_at_provider`
    allocated_missing: u64,
    /// Released or allocated sandboxes whose name or account differs in the listing; they are not changed
    held_changed: u64,
    /// Deleted sandboxes that are still listed
    undead: u64,
    /// Deleted sandboxes that are still listed after an hour, now to be deleted again
    deleted_again: u64,
    /// Records of accounts that are known or listed under another id; they are skipped
    duplicates: u64,
    /// Records that cannot be read; their accounts count as listed
    skipped: u64,
    /// Whether the listing is incomplete; nothing becomes stale by it
    incomplete: bool,
    /// Whether this was a dry run, which writes nothing
    dry_run: bool,
}

impl From<csp_sync::SyncReport> for SyncReport {
    fn from(report: csp_sync::SyncReport) -> Self {
        let csp_sync::SyncReport {
            synced,
            added,
            revived,
            refreshed,
            marked_stale,
            confirmed_deleted,
            allocated_missing,
            held_changed,
            undead,
            deleted_again,
            duplicates,
            skipped,
            incomplete,
            dry_run,
        } = report;
        Self {
            synced,
            added,
            revived,
            refreshed,
            marked_stale,
            confirmed_deleted,
            allocated_missing,
            held_changed,
            undead,
            deleted_again,
            duplicates,
            skipped,
            incomplete,
            dry_run,
        }
    }
}

/// What a cleanup did
#[derive(Serialize, ToSchema)]
pub(crate) struct CleanupReport {
    /// Sandboxes that are deleted at the cloud provider
    deleted: u64,
    /// Deletions that the cloud provider has accepted and not finished
    accepted: u64,
    /// Failed deletions that will be attempted again
    failed: u64,
    /// Failed deletions that were given up; one attempt a day follows
    gave_up: u64,
    /// Sandboxes whose next attempt is not yet due, or that the run did not reach
    waiting: u64,
    /// Whether the run ended before it reached all that were due; the next one goes on at once
    unfinished: bool,
    /// What the answers say about the configuration
    problem: Option<String>,
}

impl From<cleanup::CleanupReport> for CleanupReport {
    fn from(report: cleanup::CleanupReport) -> Self {
        let cleanup::CleanupReport { deleted, accepted, failed, gave_up, waiting, unfinished, problem } = report;
        Self { deleted, accepted, failed, gave_up, waiting, unfinished, problem }
    }
}

/// What an expiry sweep did
#[derive(Serialize, ToSchema)]
pub(crate) struct ExpiryReport {
    /// Holdings that were ended
    expired: u64,
    /// Holdings that were renewed or released before the sweep reached them
    superseded: u64,
}

impl From<expiry_reaper::ExpiryReport> for ExpiryReport {
    fn from(report: expiry_reaper::ExpiryReport) -> Self {
        let expiry_reaper::ExpiryReport { expired, superseded } = report;
        Self { expired, superseded }
    }
}

/// What a removal of sandboxes did
#[derive(Serialize, ToSchema)]
pub(crate) struct DiscardReport {
    /// Sandboxes that were removed
    deleted: u64,
}

impl From<stale_collector::DiscardReport> for DiscardReport {
    fn from(report: stale_collector::DiscardReport) -> Self {
        let stale_collector::DiscardReport { deleted } = report;
        Self { deleted }
    }
}

/// What a removal of stale sandboxes did
#[derive(Serialize, ToSchema)]
pub(crate) struct DiscardStaleReport {
    /// Sandboxes that were removed
    deleted: u64,
    /// The least number of hours for which they had been stale
    grace_period_hours: f64,
}

impl DiscardStaleReport {
    pub(crate) fn new(report: stale_collector::DiscardReport, grace: Duration) -> Self {
        Self { deleted: report.deleted, grace_period_hours: grace.as_secs_f64() / 3600.0 }
    }

    pub(crate) fn example() -> Self {
        Self { deleted: 4, grace_period_hours: 24.0 }
    }
}

/// What a retry of deletions did
#[derive(Serialize, ToSchema)]
pub(crate) struct RetryReport {
    /// Sandboxes that are to be deleted again
    retried: u64,
}

impl RetryReport {
    pub(crate) fn new(retried: u64) -> Self {
        Self { retried }
    }

    pub(crate) fn example() -> Self {
        Self { retried: 4 }
    }
}

/// A completed run
#[derive(Serialize, ToSchema)]
pub(crate) struct Completed<R> {
    /// Always `completed`
    status: &'static str,
    #[serde(flatten)]
    report: R,
    duration_ms: u64,
}

impl<R> Completed<R> {
    pub(crate) fn new(report: impl Into<R>, took: Duration) -> Self {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { status: "completed", report: report.into(), duration_ms }
    }
}

impl<R: Serialize> Responder for Completed<R> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self)
    }
}

impl<R: Serialize + ToSchema> Output for Completed<R>
where
    Self: ToSchema,
{
    fn document(parts: &mut OperationParts) {
        let name = format!("{}_{}", Self::name(), R::name());
        parts.answers_json_named::<Self>(200, "The run completed", name, None);
        // The schema of a generic type refers to those of its parameters, but does not add them.
        parts.mentions::<R>();
    }
}

impl<R> Completed<R> {
    pub(crate) fn example(report: R) -> Self {
        Self::new(report, Duration::from_millis(412))
    }
}

impl SyncReport {
    pub(crate) fn example() -> Self {
        csp_sync::SyncReport { synced: 400, added: 12, ..csp_sync::SyncReport::default() }.into()
    }
}

impl CleanupReport {
    pub(crate) fn example() -> Self {
        cleanup::CleanupReport { deleted: 12, failed: 1, waiting: 2, ..cleanup::CleanupReport::default() }.into()
    }
}

impl ExpiryReport {
    pub(crate) fn example() -> Self {
        Self { expired: 3, superseded: 0 }
    }
}

impl DiscardReport {
    pub(crate) fn example() -> Self {
        Self { deleted: 4 }
    }
}
