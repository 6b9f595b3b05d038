//! The ports: store, CSP and clock, with their errors. The adapters are in the other package.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::actor::{ActorName, Control};
use crate::error::Cause;
use crate::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, CspAccount, ReplicaId, Sandbox, SandboxId, Status, Timestamp,
};

/// Why a store request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refuses for now, because too much is asked of it. Nothing was written.
    #[error("the store is throttling")]
    Throttled(#[source] Cause),
    /// The store was not reached or refused to work. Nothing was written.
    #[error("the store is unavailable")]
    Unavailable(#[source] Cause),
    /// The request timed out or its answer was lost. It may have been executed.
    #[error("the outcome of the store request is unknown")]
    OutcomeUnknown(#[source] Cause),
    /// The store rejects the request, and will reject it again: invalid request, missing table.
    #[error("the store rejects the request")]
    Rejected(#[source] Cause),
    /// An item cannot be read as what it should be.
    #[error("unreadable item {key}: {reason}")]
    Corrupt {
        /// The item's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cursor was not made by this store for this listing.
    #[error("the cursor is not one that this listing returned")]
    BadCursor,
}

/// The outcome of a claim transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The claim item is written, the sandbox is allocated.
    Claimed,
    /// The key already holds a sandbox. Nothing was written.
    AlreadyHeld(Claim),
    /// The candidate is not as expected. Nothing was written.
    CandidateChanged {
        /// The candidate as it is; `None` if there is no such item.
        current: Option<Sandbox>,
    },
    /// Another transaction is working on one of the items. Nothing was written.
    Conflict,
}

/// The outcome of a conditional update.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it is matched at once; a box would cost an allocation")]
pub enum WriteOutcome {
    /// Written.
    Done,
    /// The sandbox is not as expected. Nothing was written.
    PreconditionFailed {
        /// The sandbox as it is; `None` if there is no such item.
        current: Option<Sandbox>,
    },
    /// The claim item belongs to another sandbox. Nothing was written. Only for updates that include a claim.
    ClaimMismatch,
    /// Another transaction is working on one of the items. Nothing was written.
    Conflict,
}

/// One page of sandboxes of one status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes, sorted by `allocated_at`.
    pub sandboxes: Vec<Sandbox>,
    /// Where the next page starts; `None` on the last page.
    pub next: Option<Cursor>,
}

/// A position in a listing, opaque to all but the store that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// The sandboxes to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Their status.
    pub status: Status,
    /// Only those allocated at this time or before.
    pub allocated_until: Option<Timestamp>,
    /// The largest page, in sandboxes.
    pub limit: u32,
    /// Where to continue.
    pub after: Option<Cursor>,
}

/// The largest page, in sandboxes. Claims wait behind a page where the store does one thing at a time, as the embedded
/// engine does: about a millisecond for this many.
pub const MAX_PAGE: u32 = 100;

impl Listing {
    /// The first page of all sandboxes of `status`.
    pub fn of(status: Status) -> Self {
        Self { status, allocated_until: None, limit: MAX_PAGE, after: None }
    }
}

/// The right to run one job, for a limited time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobLease {
    /// The job's actor.
    pub job: ActorName,
    /// The replica that runs the job, or ran it last.
    pub holder: ReplicaId,
    /// When the lease ends unless it is extended; 0 once it was given back.
    pub expires_at: Timestamp,
    /// Grows by one with each acquisition. It fences the holder's writes to the lease.
    pub term: u64,
    /// When the last completed or failed run ended.
    pub ran_at: Option<Timestamp>,
    /// The record of that run, as JSON.
    pub last_run: Option<String>,
}

/// The outcome of an attempt to acquire a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// The caller holds it.
    Acquired(JobLease),
    /// Another replica holds it, or the job is not due. The lease as it is.
    Refused(JobLease),
}

/// The table, as the core sees it. Each method is one request to the store unless it says otherwise. Each write is
/// conditional on what its caller knows (I5) and names the attributes that it changes (I7).
///
/// # Errors
///
/// Reads fail with [`StoreError::Unavailable`] when they get no answer, writes with [`StoreError::OutcomeUnknown`].
#[async_trait]
pub trait SandboxStore: Coordination {
    /// Creates the claim and allocates the candidate, both or neither.
    async fn claim(&self, update: &ConditionalUpdate, claim: &Claim) -> Result<ClaimOutcome, StoreError>;

    /// Reads a claim, consistently.
    async fn find_claim(&self, claim_key: &ClaimKey) -> Result<Option<Claim>, StoreError>;

    /// Updates the sandbox and deletes its claim, both or neither. A claim that is already gone does not matter.
    async fn end_claim(&self, update: &ConditionalUpdate, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError>;

    /// Updates the sandbox and sets its claim's end and epoch, both or neither.
    async fn renew_claim(&self, update: &ConditionalUpdate, renewed: &Claim) -> Result<WriteOutcome, StoreError>;

    /// Reads a sandbox, consistently. Tombstones too.
    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError>;

    /// Adds a sandbox; `false` if one with its id exists.
    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError>;

    /// Updates the sandbox alone.
    async fn update(&self, update: &ConditionalUpdate) -> Result<WriteOutcome, StoreError>;

    /// Reads one page from the status index, which lags behind the table.
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError>;

    /// Counts the sandboxes of a status in the status index. One request for each page.
    async fn count(&self, status: Status) -> Result<u64, StoreError>;

    /// Checks that the table answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

impl dyn SandboxStore {
    /// All pages of a listing, from `listing.after` on.
    pub fn pages(&self, listing: Listing) -> Pages<'_> {
        Pages { store: self, next: Some(listing) }
    }

    /// Ends a holding: updates the sandbox and deletes its claim. Where the claim belongs to another sandbox by now
    /// (possible only after the claim outlived its TTL), the sandbox is updated alone, so that it cannot get stuck.
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

/// The pages of one listing, read one by one.
pub struct Pages<'a> {
    store: &'a dyn SandboxStore,
    next: Option<Listing>,
}

impl Pages<'_> {
    /// Reads the next page; `None` after the last one.
    ///
    /// # Errors
    ///
    /// As [`SandboxStore::list`].
    pub async fn next(&mut self) -> Result<Option<Vec<Sandbox>>, StoreError> {
        let Some(listing) = self.next.take() else { return Ok(None) };
        let page = self.store.list(&listing).await?;
        self.next = page.next.map(|cursor| Listing { after: Some(cursor), ..listing });
        Ok(Some(page.sandboxes))
    }
}

/// The part of the table that replicas coordinate by: job leases, operators' commands, the list of live replicas. One
/// request for each method unless it says otherwise.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Acquires the lease of `job` for `holder` until `until`, if no replica holds it at `now` and, with `due_since`,
    /// if the last run ended then or before.
    async fn acquire_lease(
        &self,
        job: ActorName,
        holder: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
        due_since: Option<Timestamp>,
    ) -> Result<LeaseOutcome, StoreError>;

    /// Extends a lease; `false` if this holder lost it.
    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError>;

    /// Gives a lease back, with `ran_at` and `last_run`; `false` if this holder lost it.
    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError>;

    /// Reads the lease of `job`; `None` if the job never ran.
    async fn read_lease(&self, job: ActorName) -> Result<Option<JobLease>, StoreError>;

    /// Stores a command. An older command never replaces a newer one.
    async fn put_control(&self, control: &Control) -> Result<(), StoreError>;

    /// Reads the commands for these actors. An actor without a command is absent from the answer.
    async fn controls(&self, actors: &[ActorName]) -> Result<Vec<Control>, StoreError>;

    /// Keeps `replica` listed until `until` and returns the replicas listed at `now`. Two requests.
    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError>;

    /// Removes `replica` from the list.
    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError>;
}

/// The CSP's listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CspListing {
    /// The active sandbox accounts.
    pub accounts: Vec<CspAccount>,
    /// The number of records that lack a required field.
    pub skipped: u64,
}

/// The outcome of a deletion at the CSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CspDeletion {
    /// The account is deleted.
    Deleted,
    /// The CSP does not know the account.
    AlreadyGone,
}

/// Why a call of the CSP failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CspError {
    /// The CSP rejects the token: a configuration error.
    #[error("the CSP rejects the token (HTTP {status}); check CSP_API_TOKEN")]
    Unauthorized {
        /// 401 or 403.
        status: u16,
    },
    /// The CSP asks for fewer calls.
    #[error("the CSP throttles (HTTP 429)")]
    Throttled {
        /// How long the CSP asks to wait.
        retry_after: Option<Duration>,
    },
    /// The CSP is down, slow or failing.
    #[error("the CSP is unavailable")]
    Unavailable(#[source] Cause),
    /// The CSP's answer does not have the agreed form.
    #[error("the CSP gave an unexpected answer")]
    BadAnswer(#[source] Cause),
    /// The circuit breaker is open.
    #[error("the circuit breaker is open; the next call goes out in {} s", retry_in.as_secs())]
    BreakerOpen {
        /// The time until the breaker lets a probe through.
        retry_in: Duration,
    },
}

/// The cloud service provider.
#[async_trait]
pub trait CspClient: Send + Sync + 'static {
    /// Lists the active sandbox accounts.
    async fn list(&self) -> Result<CspListing, CspError>;

    /// Deletes an account.
    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError>;
}

/// The time of day. Durations and deadlines use tokio's clock, which tests can pause.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}
