//! What operators see of the sandboxes, and what they do to single ones.

use std::sync::Arc;

use serde::Serialize;

use crate::allocation::AccessError;
use crate::job::StopSignal;
use crate::ports::{Clock, Cursor, Listing, Page, SandboxStore, StoreError, WriteOutcome};
use crate::reaper::Reaper;
use crate::sandbox::{Claim, Event, Sandbox, SandboxId, Status, TrackId};
use crate::stale::{DiscardReport, StaleCollector};

/// The statuses that operators count and list: all but tombstones.
const LIVE: [Status; 5] =
    [Status::Available, Status::Allocated, Status::PendingDeletion, Status::Stale, Status::DeletionFailed];

/// So often an operator's change is tried again when others change the sandbox meanwhile.
const MAX_WRITE_ATTEMPTS: u32 = 5;

/// So many pages one search reads at most.
const MAX_SEARCHED_PAGES: u32 = 20;

/// How many sandboxes are in each state; tombstones count nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Stats {
    /// The sum of all below.
    pub total: u64,
    /// Free.
    pub available: u64,
    /// Held.
    pub allocated: u64,
    /// Waiting for deletion.
    pub pending_deletion: u64,
    /// Vanished from the CSP.
    pub stale: u64,
    /// Could not be deleted.
    pub deletion_failed: u64,
}

/// The operators' view.
#[derive(Clone)]
pub struct Inventory {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reaper: Reaper,
    pub(crate) stale_collector: StaleCollector,
}

impl Inventory {
    /// Counts the sandboxes of each state in the table.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let count = |status| self.store.count(status);
        let (available, allocated, pending_deletion, stale, deletion_failed) = tokio::try_join!(
            count(Status::Available),
            count(Status::Allocated),
            count(Status::PendingDeletion),
            count(Status::Stale),
            count(Status::DeletionFailed),
        )?;
        let total = available + allocated + pending_deletion + stale + deletion_failed;
        Ok(Stats { total, available, allocated, pending_deletion, stale, deletion_failed })
    }

    /// Lists one page of sandboxes of one status, or of all of them (tombstones excepted) when `status` is `None`.
    pub async fn list(&self, status: Option<Status>, limit: u32, after: Option<Cursor>) -> Result<Page, StoreError> {
        let statuses = status.map_or(LIVE.to_vec(), |status| vec![status]);
        let (mut index, mut inner) = match after {
            None => (0, None),
            Some(cursor) => position(&cursor, &statuses).ok_or(StoreError::BadCursor)?,
        };
        let mut sandboxes = Vec::new();
        while let Some(status) = statuses.get(index).copied() {
            let missing = limit - u32::try_from(sandboxes.len()).unwrap_or(limit);
            if missing == 0 {
                return Ok(Page { sandboxes, next: Some(cursor_at(status, inner)) });
            }
            let listing = Listing { status, allocated_until: None, limit: missing, after: inner.take() };
            let page = self.store.list(&listing).await?;
            sandboxes.extend(page.sandboxes);
            match page.next {
                Some(next) => inner = Some(next),
                None => index += 1,
            }
        }
        Ok(Page { sandboxes, next: None })
    }

    /// Lists sandboxes that `text` is found in. It ends with the first stretch of the table that has any, or when it
    /// has read as much as one request may (I8); the page's cursor goes on from there.
    pub async fn search(
        &self,
        status: Option<Status>,
        text: &str,
        limit: u32,
        mut after: Option<Cursor>,
    ) -> Result<Page, StoreError> {
        let text = text.to_lowercase();
        for _ in 0..MAX_SEARCHED_PAGES {
            let Page { mut sandboxes, next } = self.list(status, limit, after.take()).await?;
            sandboxes.retain(|sandbox| is_found(&text, sandbox));
            if !sandboxes.is_empty() || next.is_none() {
                return Ok(Page { sandboxes, next });
            }
            after = next;
        }
        Ok(Page { sandboxes: Vec::new(), next: after })
    }

    /// Ends a holding in its owner's stead.
    pub async fn force_release(&self, sandbox_id: &SandboxId) -> Result<Sandbox, AccessError> {
        self.change(sandbox_id, &Event::Release).await
    }

    /// Puts a deletion_failed sandbox back to pending_deletion.
    pub async fn retry_deletion(&self, sandbox_id: &SandboxId) -> Result<Sandbox, AccessError> {
        self.change(sandbox_id, &Event::RetryDeletion).await
    }

    /// Turns all sandboxes of a status into tombstones, without a call to the CSP. Only for stale and
    /// deletion_failed ones; the transition function refuses any other.
    pub async fn bulk_delete(&self, status: Status) -> Result<DiscardReport, StoreError> {
        let (_switch, never) = StopSignal::new();
        self.stale_collector.discard(status, None, &never).await
    }

    async fn change(&self, sandbox_id: &SandboxId, event: &Event) -> Result<Sandbox, AccessError> {
        let mut found = self.store.get(sandbox_id).await?;
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let sandbox = found
                .filter(|sandbox| sandbox.status != Status::Deleted)
                .ok_or_else(|| AccessError::NotFound(sandbox_id.clone()))?;
            let write = sandbox.write(event.clone(), self.clock.now())?;
            let outcome = match Claim::held(&sandbox) {
                Some(claim) => self.reaper.end_holding(&write, &claim.claim_key).await?,
                None => self.store.update(&write).await?,
            };
            found = match outcome {
                WriteOutcome::Done => return Ok(sandbox.changed(&write.change)),
                WriteOutcome::Moved { found } => found,
                WriteOutcome::Conflict | WriteOutcome::ClaimMoved => self.store.get(sandbox_id).await?,
            };
        }
        Err(AccessError::Contended(sandbox_id.clone()))
    }
}

/// Whether this lower-case text is part of what names the sandbox, its owner or its lab.
fn is_found(text: &str, sandbox: &Sandbox) -> bool {
    let names = [Some(sandbox.sandbox_id.as_str()), Some(sandbox.name.as_str()), Some(sandbox.external_id.as_str())];
    let holding = [sandbox.allocated_to_track.as_ref().map(TrackId::as_str), sandbox.track_name.as_deref()];
    names.into_iter().chain(holding).flatten().any(|value| value.to_lowercase().contains(text))
}

/// A place in a listing over several statuses: the status, and the store's own cursor within it.
fn cursor_at(status: Status, inner: Option<Cursor>) -> Cursor {
    Cursor(format!("{status}.{}", inner.map_or(String::new(), |cursor| cursor.0)))
}

fn position(cursor: &Cursor, statuses: &[Status]) -> Option<(usize, Option<Cursor>)> {
    let (status, inner) = cursor.0.split_once('.')?;
    let index = statuses.iter().position(|candidate| candidate.as_str() == status)?;
    Some((index, (!inner.is_empty()).then(|| Cursor(inner.to_owned()))))
}
