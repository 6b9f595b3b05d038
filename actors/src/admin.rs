//! What operators see of sandboxes, and what they do to single ones.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::jobs::concurrency::{for_each, listed};
use crate::jobs::stale_collector::{DiscardReport, StaleCollector};
use crate::ports::{Clock, Cursor, Listing, Page, PageRequest, SandboxStore, StoreError, WriteOutcome};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Claim, Event, Sandbox, SandboxId, Shard, Status, TrackId};
use crate::update::{ClaimChange, SandboxError, Step, existing, update_sandbox};

/// The most pages that one search reads.
const MAX_SEARCHED_PAGES: u32 = 20;

/// Sandboxes that one command changes concurrently.
const CONCURRENCY: usize = 16;

/// The operators' view of the sandboxes.
#[derive(Clone)]
pub struct SandboxAdmin {
    pub(crate) store: Arc<dyn SandboxStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stale_collector: StaleCollector,
    /// The waits between attempts to update a sandbox.
    pub(crate) retry: RetryPolicy,
    pub(crate) jitter: Jitter,
}

impl SandboxAdmin {
    /// Lists one page of sandboxes of one status, or of all but tombstones.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadCursor`] if `after` is not from this listing; else as [`SandboxStore::list`].
    pub async fn list(&self, status: Option<Status>, limit: u32, after: Option<Cursor>) -> Result<Page, StoreError> {
        let statuses = status.map_or(Status::LIVE.to_vec(), |status| vec![status]);
        let parts = statuses.into_iter().flat_map(|status| self.store.shards().all().map(move |shard| (status, shard)));
        let parts: Vec<_> = parts.collect();
        let (mut index, mut inner) = match after {
            None => (0, None),
            Some(cursor) => read_cursor(&cursor, &parts).ok_or(StoreError::BadCursor)?,
        };
        let mut sandboxes = Vec::new();
        while let Some((status, shard)) = parts.get(index).copied() {
            let missing = limit - u32::try_from(sandboxes.len()).unwrap_or(limit);
            if missing == 0 {
                return Ok(Page { sandboxes, next: Some(write_cursor(status, shard, inner)) });
            }
            let listing = Listing::of(status);
            let request = PageRequest { listing, shard, limit: Some(missing), after: inner.take() };
            let page = self.store.list(&request).await?;
            sandboxes.extend(page.sandboxes);
            match page.next {
                Some(next) => inner = Some(next),
                None => index += 1,
            }
        }
        Ok(Page { sandboxes, next: None })
    }

    /// Lists sandboxes that contain `text`. It ends with the first page that has any, or after as many pages as one
    /// request may read (I8); the page's cursor continues from there.
    ///
    /// # Errors
    ///
    /// As [`Self::list`].
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
            sandboxes.retain(|sandbox| contains(sandbox, &text));
            if !sandboxes.is_empty() || next.is_none() {
                return Ok(Page { sandboxes, next });
            }
            after = next;
        }
        Ok(Page { sandboxes: Vec::new(), next: after })
    }

    /// Ends a holding on its owner's behalf.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn force_release(&self, sandbox_id: &SandboxId) -> Result<Sandbox, SandboxError> {
        self.apply(sandbox_id, &Event::Release).await
    }

    /// Moves a deletion_failed sandbox back to pending_deletion.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn retry_deletion(&self, sandbox_id: &SandboxId) -> Result<Sandbox, SandboxError> {
        self.apply(sandbox_id, &Event::RetryDeletion).await
    }

    /// Moves all deletion_failed sandboxes, or those whose last error contains `error`, back to pending_deletion. Returns
    /// their number.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::list`] and [`SandboxStore::update`].
    pub async fn retry_deletions(&self, error: Option<&str>) -> Result<u64, StoreError> {
        let error = error.map(str::to_lowercase);
        let retry = |sandbox: Sandbox| {
            let last_error = sandbox.last_error.as_deref().unwrap_or_default().to_lowercase();
            let is_wanted = error.as_ref().is_none_or(|error| last_error.contains(error));
            async move {
                let update = sandbox.update(Event::RetryDeletion, self.clock.now()).ok().filter(|_| is_wanted);
                let Some(update) = update else { return Ok(false) };
                Ok(self.store.update(&update).await? == WriteOutcome::Done)
            }
        };
        let mut retried = 0;
        let failed = listed(self.store.pages(Listing::of(Status::DeletionFailed)));
        let tally = |is_retried| retried += u64::from(is_retried);
        for_each(failed, CONCURRENCY, &CancellationToken::new(), retry, tally).await?;
        Ok(retried)
    }

    /// Keeps a sandbox from being offered and from being deleted.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn quarantine(
        &self,
        sandbox_id: &SandboxId,
        reason: &str,
        requested_by: &str,
    ) -> Result<Sandbox, SandboxError> {
        let (reason, requested_by) = (reason.to_owned(), requested_by.to_owned());
        self.apply(sandbox_id, &Event::Quarantine { reason, requested_by }).await
    }

    /// Ends the quarantine of a sandbox: it is deleted if a track had it, else it is available.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn unquarantine(&self, sandbox_id: &SandboxId) -> Result<Sandbox, SandboxError> {
        let event = |sandbox: &Sandbox| Event::Unquarantine { was_held: sandbox.was_held() };
        self.apply_with(sandbox_id, event).await
    }

    /// Keeps an allocated or released sandbox from being deleted for this long.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn freeze(&self, sandbox_id: &SandboxId, duration: Duration) -> Result<Sandbox, SandboxError> {
        self.apply(sandbox_id, &Event::Freeze { until: self.clock.now().plus(duration) }).await
    }

    /// Turns all sandboxes of a status into tombstones, without a call to the CSP. The transition function allows it
    /// only for stale and deletion_failed ones.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::list`] and [`SandboxStore::update`].
    pub async fn bulk_delete(&self, status: Status) -> Result<DiscardReport, StoreError> {
        self.stale_collector.discard(Listing::of(status), &CancellationToken::new()).await
    }

    async fn apply(&self, sandbox_id: &SandboxId, event: &Event) -> Result<Sandbox, SandboxError> {
        self.apply_with(sandbox_id, |_| event.clone()).await
    }

    async fn apply_with(
        &self,
        sandbox_id: &SandboxId,
        event: impl Fn(&Sandbox) -> Event,
    ) -> Result<Sandbox, SandboxError> {
        let next = |current| {
            let sandbox = existing(current, sandbox_id)?;
            let update = sandbox.update(event(&sandbox), self.clock.now())?;
            let answer = sandbox.after(&update.mutation);
            let claim = match (Claim::held(&sandbox), Claim::held(&answer)) {
                // The claim carries the sandbox's epoch.
                (Some(_), Some(kept)) => ClaimChange::Renew(kept),
                (Some(ended), None) => ClaimChange::End(ended.claim_key),
                (None, _) => ClaimChange::None,
            };
            Ok(Step::Write { update, claim, answer })
        };
        let first = next(self.store.get(sandbox_id).await?)?;
        update_sandbox(&*self.store, sandbox_id, self.retry.waits(&self.jitter), first, next).await
    }
}

/// Whether this lower-case text occurs in a name or id of the sandbox, its owner or its lab.
fn contains(sandbox: &Sandbox, text: &str) -> bool {
    let names = [Some(sandbox.sandbox_id.as_str()), Some(sandbox.name.as_str()), Some(sandbox.external_id.as_str())];
    let holding = [sandbox.allocated_to_track.as_ref().map(TrackId::as_str), sandbox.track_name.as_deref()];
    names.into_iter().chain(holding).flatten().any(|value| value.to_lowercase().contains(text))
}

/// A position in a listing over several statuses and shards: both, and the store's cursor within them.
fn write_cursor(status: Status, shard: Shard, inner: Option<Cursor>) -> Cursor {
    Cursor(format!("{status}.{}.{}", shard.0, inner.map_or(String::new(), |cursor| cursor.0)))
}

fn read_cursor(cursor: &Cursor, parts: &[(Status, Shard)]) -> Option<(usize, Option<Cursor>)> {
    let (status, rest) = cursor.0.split_once('.')?;
    let (shard, inner) = rest.split_once('.')?;
    let part = (Status::from_name(status)?, Shard(shard.parse().ok()?));
    let index = parts.iter().position(|candidate| *candidate == part)?;
    Some((index, (!inner.is_empty()).then(|| Cursor(inner.to_owned()))))
}
