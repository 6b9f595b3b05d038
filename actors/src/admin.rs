//! What operators see of sandboxes, and what they do to single ones.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::jobs::concurrency::{for_each, listed};
use crate::jobs::stale_collector::{DiscardReport, StaleCollector};
use crate::ports::{Clock, Cursor, Listing, Lookup, Page, PageRequest, SandboxStore, StoreError, WriteOutcome};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Claim, Event, IdempotencyKey, Sandbox, SandboxId, Shard, Status, Timestamp, TrackId};
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

/// Which sandboxes to list.
#[derive(Clone, Debug, Default)]
pub struct SandboxFilter {
    /// Only those in this status.
    pub status: Option<Status>,
    /// Only those with exactly this id, owner or key; else those that contain this.
    pub text: Option<String>,
    /// Only those whose name starts with this.
    pub name_prefix: Option<String>,
    /// Only those of this lab.
    pub lab: Option<String>,
    /// Only holdings that end at this moment or before.
    pub ended_by: Option<Timestamp>,
    /// Only holdings that started at this moment or before.
    pub held_since: Option<Timestamp>,
}

impl SandboxAdmin {
    /// Reads one sandbox, also a tombstone.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn get(&self, sandbox_id: &SandboxId) -> Result<Sandbox, SandboxError> {
        self.store.get(sandbox_id).await?.ok_or_else(|| SandboxError::NotFound(sandbox_id.clone()))
    }

    /// Lists one page of the sandboxes that match, without tombstones unless their status is asked for. Those that need
    /// attention come first. A page that is filtered by more than a status may be short and still have a next one: it
    /// ends with the first page of the store that has any match, or after as many pages as one request may read (I8).
    ///
    /// A text that is exactly an id, an owner or a key is looked up. Only if nothing has it, all sandboxes are searched.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadCursor`] if `after` is not from this listing; else as [`SandboxStore::list`].
    pub async fn list(
        &self,
        filter: &SandboxFilter,
        limit: u32,
        mut after: Option<Cursor>,
    ) -> Result<Page, StoreError> {
        if let (Some(text), None) = (&filter.text, &after) {
            let found = self.look_up(text, limit).await?;
            let found: Vec<_> = found.into_iter().filter(|sandbox| filter.accepts_state_of(sandbox)).collect();
            if !found.is_empty() {
                return Ok(Page { sandboxes: found, next: None });
            }
        }
        if filter.is_listing() {
            return self.list_page(filter, limit, after).await;
        }
        let filter = &SandboxFilter { text: filter.text.as_ref().map(|text| text.to_lowercase()), ..filter.clone() };
        for _ in 0..MAX_SEARCHED_PAGES {
            let Page { mut sandboxes, next } = self.list_page(filter, limit, after.take()).await?;
            sandboxes.retain(|sandbox| filter.accepts(sandbox));
            if !sandboxes.is_empty() || next.is_none() {
                return Ok(Page { sandboxes, next });
            }
            after = next;
        }
        Ok(Page { sandboxes: Vec::new(), next: after })
    }

    /// The sandboxes with exactly this id, owner or key.
    async fn look_up(&self, text: &str, limit: u32) -> Result<Vec<Sandbox>, StoreError> {
        let (id, track, key) = (SandboxId::new(text), Lookup::Track(TrackId::new(text)), IdempotencyKey::new(text));
        let key = Lookup::Key(key);
        let (by_id, by_track, by_key) = futures_util::join!(
            self.store.get(&id),
            self.store.find(&track, limit, None),
            self.store.find(&key, limit, None),
        );
        let mut found: Vec<Sandbox> = by_id?.into_iter().collect();
        for page in [by_track, by_key] {
            match page {
                Ok(page) => found.extend(page.sandboxes),
                // A table of another program may lack the index. The search reads on then.
                Err(StoreError::NoIndex(_)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|one, other| one.sandbox_id.cmp(&other.sandbox_id));
        found.dedup_by(|one, other| one.sandbox_id == other.sandbox_id);
        Ok(found)
    }

    /// One page of the statuses that the filter leaves, and of the part of them that the index finds.
    async fn list_page(&self, filter: &SandboxFilter, limit: u32, after: Option<Cursor>) -> Result<Page, StoreError> {
        let statuses = filter.statuses();
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
            let listing = Listing { until: filter.ended_by, ..Listing::of(status) };
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

    /// Ends a holding on its owner's behalf.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn force_release(&self, sandbox_id: &SandboxId, operator: &str) -> Result<Sandbox, SandboxError> {
        self.apply(sandbox_id, &Event::Release, operator).await
    }

    /// Moves a deletion_failed sandbox back to pending_deletion.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn retry_deletion(&self, sandbox_id: &SandboxId, operator: &str) -> Result<Sandbox, SandboxError> {
        self.apply(sandbox_id, &Event::RetryDeletion, operator).await
    }

    /// Moves all deletion_failed sandboxes, or those whose last error contains `error`, back to pending_deletion. Returns
    /// their number.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::list`] and [`SandboxStore::update`].
    pub async fn retry_deletions(&self, error: Option<&str>, operator: &str) -> Result<u64, StoreError> {
        let error = error.map(str::to_lowercase);
        let retry = |sandbox: Sandbox| {
            let last_error = sandbox.last_error.as_deref().unwrap_or_default().to_lowercase();
            let is_wanted = error.as_ref().is_none_or(|error| last_error.contains(error));
            async move {
                let update = sandbox.update(Event::RetryDeletion, self.clock.now()).ok().filter(|_| is_wanted);
                let Some(update) = update else { return Ok(false) };
                let update = update.made_by(operator);
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
        operator: &str,
    ) -> Result<Sandbox, SandboxError> {
        let (reason, requested_by) = (reason.to_owned(), operator.to_owned());
        self.apply(sandbox_id, &Event::Quarantine { reason, requested_by }, operator).await
    }

    /// Ends the quarantine of a sandbox: it is deleted if a track had it, else it is available.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn unquarantine(&self, sandbox_id: &SandboxId, operator: &str) -> Result<Sandbox, SandboxError> {
        let event = |sandbox: &Sandbox| Event::Unquarantine { was_held: sandbox.was_held() };
        self.apply_with(sandbox_id, event, operator).await
    }

    /// Keeps an allocated or released sandbox from being deleted for this long.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn freeze(
        &self,
        sandbox_id: &SandboxId,
        duration: Duration,
        operator: &str,
    ) -> Result<Sandbox, SandboxError> {
        self.apply(sandbox_id, &Event::Freeze { until: self.clock.now().plus(duration) }, operator).await
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

    async fn apply(&self, sandbox_id: &SandboxId, event: &Event, operator: &str) -> Result<Sandbox, SandboxError> {
        self.apply_with(sandbox_id, |_| event.clone(), operator).await
    }

    async fn apply_with(
        &self,
        sandbox_id: &SandboxId,
        event: impl Fn(&Sandbox) -> Event,
        operator: &str,
    ) -> Result<Sandbox, SandboxError> {
        let next = |current| {
            let sandbox = existing(current, sandbox_id)?;
            let update = sandbox.update(event(&sandbox), self.clock.now())?.made_by(operator);
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

impl SandboxFilter {
    /// The statuses to list, those that need attention first.
    fn statuses(&self) -> Vec<Status> {
        if self.ended_by.is_some() || self.held_since.is_some() {
            let is_wanted = self.status.is_none_or(|status| status == Status::Allocated);
            return if is_wanted { vec![Status::Allocated] } else { Vec::new() };
        }
        let Some(status) = self.status else {
            let mut statuses = Status::LIVE.to_vec();
            // Within a status, the index has the earliest end, or the longest wait, first.
            statuses.sort_by_key(|status| match status {
                Status::DeletionFailed => 0,
                Status::Allocated => 1,
                Status::Available => 3,
                _ => 2,
            });
            return statuses;
        };
        vec![status]
    }

    /// Whether statuses and index alone find what matches.
    fn is_listing(&self) -> bool {
        self.text.is_none() && self.name_prefix.is_none() && self.lab.is_none() && self.held_since.is_none()
    }

    fn accepts(&self, sandbox: &Sandbox) -> bool {
        self.accepts_state_of(sandbox) && self.text.as_ref().is_none_or(|text| contains(sandbox, text))
    }

    /// Whether everything but the text matches.
    fn accepts_state_of(&self, sandbox: &Sandbox) -> bool {
        let is_held = sandbox.status == Status::Allocated;
        self.status.is_none_or(|status| sandbox.status == status)
            && self.name_prefix.as_ref().is_none_or(|prefix| sandbox.name.starts_with(prefix))
            && self.lab.as_ref().is_none_or(|lab| sandbox.track_name.as_ref() == Some(lab))
            && self.ended_by.is_none_or(|now| is_held && sandbox.expires_at.is_some_and(|end| end <= now))
            && self.held_since.is_none_or(|since| is_held && sandbox.allocated_at <= since)
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
