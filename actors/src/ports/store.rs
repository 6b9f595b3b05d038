//! The table of sandboxes and claims.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::coordination::{Coordination, Counts, Stats};
use super::error::StoreError;
use super::labs::{HoldingSummary, labs_of};
use super::outcome::{ClaimOutcome, WriteOutcome};
use super::pre_delete::PreDeleteRecord;
use super::tickets::Tickets;
use crate::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, IdempotencyKey, ReplicaId, Sandbox, SandboxId, Shard, ShardCount, Status,
    Timestamp, TrackId,
};

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes, in the order of the index.
    pub sandboxes: Vec<Sandbox>,
    /// Where the next page starts; `None` on the last page.
    pub next: Option<Cursor>,
}

/// A position in a listing, opaque to all but the store that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// The sandboxes of one status, or those of them with a position in the status index in this range (see
/// [`Sandbox::shard_at`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Their status.
    pub status: Status,
    /// Only those with this position or a later one.
    pub from: Option<Timestamp>,
    /// Only those with this position or an earlier one.
    pub until: Option<Timestamp>,
}

impl Listing {
    /// All sandboxes of `status`.
    pub fn of(status: Status) -> Self {
        Self { status, from: None, until: None }
    }

    /// Those from this position on.
    #[must_use]
    pub fn from(self, from: Timestamp) -> Self {
        Self { from: Some(from), ..self }
    }

    /// Whether the sandbox is one of them.
    pub fn has(&self, sandbox: &Sandbox) -> bool {
        sandbox.status == self.status
            && self.from.is_none_or(|from| sandbox.shard_at >= from)
            && self.until.is_none_or(|until| sandbox.shard_at <= until)
    }

    /// Those up to this position.
    #[must_use]
    pub fn until(self, until: Timestamp) -> Self {
        Self { until: Some(until), ..self }
    }
}

/// A request for one page of a listing, from one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// What to list.
    pub listing: Listing,
    /// The shard.
    pub shard: Shard,
    /// The largest page, in sandboxes; `None` for the store's own choice.
    pub limit: Option<u32>,
    /// Where to continue.
    pub after: Option<Cursor>,
}

/// What to look a sandbox up by, other than its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its owner, now or last.
    Track(TrackId),
    /// The key of its owner's claim.
    Key(IdempotencyKey),
}

/// The table, as the core sees it. Each method is one request to the store unless it says otherwise. Each write is
/// conditional on what its caller knows (I5) and names the attributes that it changes (I7).
///
/// # Errors
///
/// Reads fail with [`StoreError::Unavailable`] when they get no answer, writes with [`StoreError::OutcomeUnknown`].
#[async_trait]
pub trait SandboxStore: Coordination + Tickets {
    /// The number of shards of the status index.
    fn shards(&self) -> ShardCount;

    /// Creates the claim and allocates the candidate, both or neither.
    async fn claim(&self, update: &ConditionalUpdate, claim: &Claim) -> Result<ClaimOutcome, StoreError>;

    /// Reads a claim, consistently.
    async fn find_claim(&self, claim_key: &ClaimKey) -> Result<Option<Claim>, StoreError>;

    /// Updates the sandbox and deletes its claim, both or neither. A claim that is already gone does not matter.
    async fn end_claim(&self, update: &ConditionalUpdate, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError>;

    /// Updates the sandbox and sets its claim's end, epoch and `activated_at`, both or neither. The claim is then no
    /// standby.
    async fn renew_claim(&self, update: &ConditionalUpdate, renewed: &Claim) -> Result<WriteOutcome, StoreError>;

    /// Deletes a claim whose sandbox is not held under it. Returns whether it was still there, unchanged.
    async fn delete_claim(&self, claim: &Claim) -> Result<bool, StoreError>;

    /// Reads a sandbox, consistently. Tombstones too.
    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError>;

    /// Adds a sandbox; `false` if one with its id exists.
    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError>;

    /// Updates the sandbox alone.
    async fn update(&self, update: &ConditionalUpdate) -> Result<WriteOutcome, StoreError>;

    /// Reads one page from one shard of the status index, which lags behind the table.
    async fn list(&self, request: &PageRequest) -> Result<Page, StoreError>;

    /// Counts the sandboxes of a listing in one shard of the status index. One request for each page.
    async fn count(&self, listing: Listing, shard: Shard) -> Result<u64, StoreError>;

    /// Reads what the figures of the labs are made of: the allocated sandboxes of one shard of the status index. One
    /// request for each page. It costs as much as counting them.
    async fn holdings(&self, shard: Shard) -> Result<Vec<HoldingSummary>, StoreError>;

    /// Reads one page of the sandboxes that match, latest allocation first, from an index that lags behind the table.
    async fn find(&self, lookup: &Lookup, limit: u32, after: Option<&Cursor>) -> Result<Page, StoreError>;

    /// Keeps what is known of the step before a deletion. One of an earlier deletion of the sandbox is updated.
    async fn record_pre_delete(&self, record: &PreDeleteRecord) -> Result<(), StoreError>;

    /// Checks that the table takes writes, on the heartbeat item of `replica`.
    async fn check(&self, replica: &ReplicaId) -> Result<(), StoreError>;
}

/// Shards that are read concurrently.
const CONCURRENT_SHARDS: usize = 32;

/// The most pages of one listing (I8).
const MAX_PAGES: u32 = 100_000;

impl dyn SandboxStore {
    /// All pages of a listing, over all shards.
    pub fn pages(&self, listing: Listing) -> Pages<'_> {
        self.pages_of(listing, self.shards().all())
    }

    /// All pages of a listing, over these shards.
    pub fn pages_of(&self, listing: Listing, shards: impl IntoIterator<Item = Shard>) -> Pages<'_> {
        let waiting =
            shards.into_iter().map(|shard| PageRequest { listing, shard, limit: None, after: None }).collect();
        Pages { store: self, waiting, reading: FuturesUnordered::new(), pages_left: MAX_PAGES }
    }

    /// Counts all sandboxes but tombstones, in all shards. Those whose position is later than `now` are warming.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::count`].
    pub async fn count_all(&self, now: Timestamp) -> Result<Counts, StoreError> {
        let available = Listing::of(Status::Available);
        let warming = available.from(now.plus(Duration::from_secs(1)));
        let is_counted_apart = |status: &Status| matches!(status, Status::Available | Status::Allocated);
        let others = Status::LIVE.into_iter().filter(|status| !is_counted_apart(status)).map(Listing::of);
        let listings = [available.until(now), warming].into_iter().chain(others);
        let shards = self.shards().all();
        let counts = listings.flat_map(|listing| shards.clone().map(move |shard| (listing, shard)));
        let counts = counts.map(|(listing, shard)| async move { (listing, self.count(listing, shard).await) });
        let counts: Vec<_> = counts.collect();
        let mut counts = futures_util::stream::iter(counts).buffer_unordered(CONCURRENT_SHARDS);
        let mut stats = Stats::default();
        while let Some((listing, count)) = counts.next().await {
            stats.add(listing.status, listing == warming, count?);
        }
        let holdings: Vec<_> = shards.map(|shard| self.holdings(shard)).collect();
        let holdings = futures_util::stream::iter(holdings).buffer_unordered(CONCURRENT_SHARDS).try_concat().await?;
        stats.add(Status::Allocated, false, holdings.len() as u64);
        stats.standby = holdings.iter().filter(|holding| holding.standby).count() as u64;
        Ok(Counts { stats, labs: labs_of(holdings, now) })
    }

    /// Counts the sandboxes of a listing, in all shards.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::count`].
    pub async fn count_of(&self, listing: Listing) -> Result<u64, StoreError> {
        let counts: Vec<_> = self.shards().all().map(|shard| self.count(listing, shard)).collect();
        let counts = futures_util::stream::iter(counts).buffer_unordered(CONCURRENT_SHARDS);
        counts.try_fold(0, async |sum, count| Ok(sum + count)).await
    }

    /// Ends a holding: updates the sandbox and deletes its claim. Where the claim belongs to another sandbox, the sandbox
    /// is updated alone, so that it cannot get stuck.
    pub(crate) async fn end_holding(
        &self,
        update: &ConditionalUpdate,
        claim_key: &ClaimKey,
    ) -> Result<WriteOutcome, StoreError> {
        match self.end_claim(update, claim_key).await? {
            WriteOutcome::ClaimMismatch => self.update(update).await,
            outcome => Ok(outcome),
        }
    }
}

/// The pages of one listing. Several shards are read concurrently.
pub struct Pages<'a> {
    store: &'a dyn SandboxStore,
    waiting: VecDeque<PageRequest>,
    reading: FuturesUnordered<BoxFuture<'a, (PageRequest, Result<Page, StoreError>)>>,
    pages_left: u32,
}

impl Pages<'_> {
    /// The next page that is read, of any shard; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLong`] if there are too many pages; else as [`SandboxStore::list`].
    pub async fn next(&mut self) -> Result<Option<Vec<Sandbox>>, StoreError> {
        while self.reading.len() < CONCURRENT_SHARDS
            && let Some(request) = self.waiting.pop_front()
        {
            self.pages_left = self.pages_left.checked_sub(1).ok_or(StoreError::TooLong)?;
            let store = self.store;
            self.reading.push(Box::pin(async move {
                let page = store.list(&request).await;
                (request, page)
            }));
        }
        let Some((request, page)) = self.reading.next().await else { return Ok(None) };
        let page = page?;
        if let Some(cursor) = page.next {
            self.waiting.push_front(PageRequest { after: Some(cursor), ..request });
        }
        Ok(Some(page.sandboxes))
    }
}
