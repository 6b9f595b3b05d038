//! The doors to the outside: the store, the CSP and the clock, with their errors. Adapters live in the other package.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::sandbox::{Claim, ClaimKey, ReplicaId, Sandbox, SandboxId, Status, Timestamp, Write};

/// Why the store gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is too busy; nothing was written. Waiting helps.
    #[error("the store is throttling: {0}")]
    Throttled(String),
    /// The store was not reached or refused to work; nothing was written.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The request may or may not have been carried out: it timed out or its answer was lost.
    #[error("the outcome of the store request is unknown: {0}")]
    OutcomeUnknown(String),
    /// The store rejects the request for good: missing table, missing permission, invalid request.
    #[error("the store rejects the request: {0}")]
    Rejected(String),
    /// An item is there but cannot be read as what it should be.
    #[error("unreadable item {key}: {reason}")]
    Corrupt {
        /// The item's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cursor was not made by this store for this listing.
    #[error("the cursor is not one that this listing handed out")]
    BadCursor,
}

/// What became of a claim transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// Claim item written, sandbox allocated.
    Claimed,
    /// The key already holds a sandbox; nothing was written.
    AlreadyHeld(Claim),
    /// The candidate is not as the write expected; `found` is what is there (`None`: no such item).
    CandidateMoved {
        /// The candidate as it is.
        found: Option<Sandbox>,
    },
    /// Another transaction touches one of the items right now; nothing was written.
    Conflict,
}

/// What became of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it is looked at and gone; a box would cost an allocation")]
pub enum WriteOutcome {
    /// Written.
    Done,
    /// The sandbox is not as the write expected; `found` is what is there (`None`: no such item).
    Moved {
        /// The sandbox as it is.
        found: Option<Sandbox>,
    },
    /// The claim item belongs to another sandbox; nothing was written. Only for writes that touch a claim.
    ClaimMoved,
    /// Another transaction touches one of the items right now; nothing was written.
    Conflict,
}

/// One page of sandboxes of one status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes, by `allocated_at`.
    pub sandboxes: Vec<Sandbox>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Cursor>,
}

/// A place in a listing, opaque to everybody but the store that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Which sandboxes to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Their status.
    pub status: Status,
    /// Only those allocated at this time or before.
    pub allocated_until: Option<Timestamp>,
    /// At most this many.
    pub limit: u32,
    /// Where to go on.
    pub after: Option<Cursor>,
}

/// The most that one page may hold. Claims wait behind a page where the store does one thing at a time, as the embedded
/// engine does; behind this many for about a millisecond. It is also far below DynamoDB's 1 MB.
pub const MAX_PAGE: u32 = 100;

impl Listing {
    /// The first page of all sandboxes of `status`.
    pub fn of(status: Status) -> Self {
        Self { status, allocated_until: None, limit: MAX_PAGE, after: None }
    }
}

/// The right to run one job, while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobLease {
    /// Which job.
    pub job: String,
    /// Who runs it, or ran it last.
    pub holder: ReplicaId,
    /// When the right ends if it is not extended; the epoch's zero once it was given back.
    pub expires_at: Timestamp,
    /// Grows by one with each acquisition; fences the holder's own writes to the lease.
    pub term: u64,
    /// When the last finished run ended.
    pub ran_at: Option<Timestamp>,
    /// How the last finished run went, as JSON.
    pub last_run: Option<String>,
}

/// What became of an attempt to take a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// It is ours.
    Acquired(JobLease),
    /// Another replica holds it, or the job is not due; here is what is there.
    Refused(JobLease),
}

/// What an operator wants of an actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Desired {
    /// Work.
    #[default]
    Running,
    /// Rest until resumed.
    Paused,
}

/// A control item: an operator's word to one actor, on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Control {
    /// Which actor.
    pub actor: String,
    /// What it should do.
    pub desired: Desired,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// The table, seen from the broker. Each method is one request to the store unless it says otherwise; each write is
/// conditional on what its caller believes (I5) and names the attributes it changes (I7).
#[async_trait]
pub trait SandboxStore: Coordination {
    /// Creates the claim and allocates the candidate, both or neither.
    async fn claim(&self, write: &Write, claim: &Claim) -> Result<ClaimOutcome, StoreError>;

    /// Reads a claim, consistently.
    async fn find_claim(&self, claim_key: &ClaimKey) -> Result<Option<Claim>, StoreError>;

    /// Changes the sandbox and deletes its claim, both or neither. A claim that is already gone is no obstacle.
    async fn end_claim(&self, write: &Write, claim_key: &ClaimKey) -> Result<WriteOutcome, StoreError>;

    /// Changes the sandbox and sets its claim's end and epoch, both or neither.
    async fn renew_claim(&self, write: &Write, renewed: &Claim) -> Result<WriteOutcome, StoreError>;

    /// Reads a sandbox, consistently; tombstones too.
    async fn get(&self, sandbox_id: &SandboxId) -> Result<Option<Sandbox>, StoreError>;

    /// Adds a sandbox that is not there; `false` if one with its id is.
    async fn create(&self, sandbox: &Sandbox) -> Result<bool, StoreError>;

    /// Changes the sandbox alone.
    async fn update(&self, write: &Write) -> Result<WriteOutcome, StoreError>;

    /// Reads one page from the status index. The index lags behind the table.
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError>;

    /// Counts the sandboxes of a status, over all pages of the status index: one request for each page.
    async fn count(&self, status: Status) -> Result<u64, StoreError>;

    /// Proves that the table answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// The part of the table by which replicas agree: job leases, operators' controls, the list of live replicas. Like all
/// of the store, one request for each method unless it says otherwise.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Takes the lease of `job` for `holder` until `until`, if nobody holds it at `now` and, when `due_since` is
    /// given, if its last run ended then or before.
    async fn acquire_lease(
        &self,
        job: &str,
        holder: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
        due_since: Option<Timestamp>,
    ) -> Result<LeaseOutcome, StoreError>;

    /// Extends a lease; `false` if it is no longer this holder's in this term.
    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError>;

    /// Gives a lease back and stores how the run went in its `ran_at` and `last_run`; `false` if it was lost.
    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError>;

    /// Reads the lease of `job`; `None` if it never ran.
    async fn read_lease(&self, job: &str) -> Result<Option<JobLease>, StoreError>;

    /// Stores an operator's word; an older one never replaces a newer.
    async fn put_control(&self, control: &Control) -> Result<(), StoreError>;

    /// Reads the controls of these actors; an actor without a word from an operator is missing in the answer.
    async fn controls(&self, actors: &[&str]) -> Result<Vec<Control>, StoreError>;

    /// Keeps `replica` listed until `until` and tells all replicas that are listed at `now`. Two requests.
    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError>;

    /// Takes `replica` off the list.
    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError>;
}

/// An active sandbox account in the CSP's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CspAccount {
    /// `csp_id`, as text.
    pub sandbox_id: SandboxId,
    /// Its name.
    pub name: String,
    /// `id`, `identity/accounts/<uuid>`.
    pub external_id: String,
    /// The CRM account, where there is one.
    pub sfdc_account_id: Option<String>,
    /// When the CSP created it, where it tells.
    pub created_at: Option<Timestamp>,
}

/// What the CSP lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CspListing {
    /// The active sandboxes.
    pub accounts: Vec<CspAccount>,
    /// Records left out because they lack what is kept.
    pub skipped: u64,
}

/// What the CSP did about a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CspDeletion {
    /// It deleted the account.
    Deleted,
    /// It does not know the account (any more).
    AlreadyGone,
}

/// Why the CSP did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CspError {
    /// It rejects our token: a configuration error.
    #[error("the CSP rejects the token (HTTP {status}); check CSP_API_TOKEN")]
    Unauthorized {
        /// 401 or 403.
        status: u16,
    },
    /// It asks us to slow down.
    #[error("the CSP throttles (HTTP 429)")]
    Throttled {
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// It is down, slow or failing.
    #[error("the CSP is unavailable: {0}")]
    Unavailable(String),
    /// It answered something that is not of the agreed form.
    #[error("the CSP answered something unexpected: {0}")]
    BadAnswer(String),
    /// The circuit breaker holds calls back.
    #[error("the circuit breaker is open; the next call goes out in {} s", retry_in.as_secs())]
    BreakerOpen {
        /// Until the breaker lets a probe through.
        retry_in: Duration,
    },
}

/// The cloud provider.
#[async_trait]
pub trait CspClient: Send + Sync + 'static {
    /// Lists the active sandboxes.
    async fn list(&self) -> Result<CspListing, CspError>;

    /// Deletes an account.
    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError>;
}

/// Tells the time of day. Durations and deadlines come from tokio's clock, which tests can pause.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

impl fmt::Display for Desired {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
        })
    }
}
