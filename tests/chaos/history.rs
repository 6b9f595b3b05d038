//! The evidence of a run: the calls of all clients, the commits of the table, and the final state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Microseconds since the Unix epoch by one monotonic clock, so that client times compare with the broker's expiry times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) u64);

impl Timestamp {
    pub(crate) fn now() -> Self {
        static START: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
            #[allow(clippy::disallowed_methods, reason = "the time of day is read once; the rest is elapsed time")]
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (Instant::now(), now)
        });
        let (start, since_epoch) = *START;
        Self::from_duration(since_epoch + start.elapsed())
    }

    pub(crate) fn from_seconds(seconds: u64) -> Self {
        Self::from_duration(Duration::from_secs(seconds))
    }

    pub(crate) fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0 + u64::try_from(duration.as_micros()).unwrap())
    }

    fn from_duration(since_epoch: Duration) -> Self {
        Self(u64::try_from(since_epoch.as_micros()).unwrap())
    }
}

/// One operation of a client and its completion.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) track: String,
    pub(crate) key: String,
    /// The replica that received the request.
    pub(crate) replica: usize,
    pub(crate) caller: Caller,
    pub(crate) op: Op,
    pub(crate) invoked: Timestamp,
    /// When the answer arrived or the client timed out.
    pub(crate) completed: Timestamp,
    pub(crate) completion: Completion,
}

/// Who sends a call in a track's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The track, which uses no secret.
    Open,
    /// The track, with its secret.
    Owner,
    /// Someone else, with another secret or none.
    Impostor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Allocate a sandbox whose name starts with the prefix.
    Allocate {
        prefix: String,
    },
    Read(SandboxId),
    Renew(SandboxId),
    Release(SandboxId),
    /// Gives back what the key holds, or leaves the queue.
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// 200 or 201 to an allocation, 200 to a renewal: the track holds the sandbox until then.
    Holds { sandbox: SandboxId, until: Timestamp },
    /// 200 to a read: the sandbox belongs to the track and has this status.
    Reads { status: String },
    /// 200 to a release.
    Released,
    /// 200 to a call that gives back what the key holds.
    Left,
    /// 409: the key left the queue while it waited.
    Withdrawn,
    /// 409: the pool has no matching sandbox.
    NoneAvailable,
    /// 403 or 404: there is no such sandbox, or it belongs to another owner.
    NotOwned,
    /// 409: the sandbox can no longer be renewed.
    WrongState,
    /// 409: the sandbox is held until the longest time allowed.
    HeldLongest,
    /// 503, with its error code and the seconds of its `Retry-After`.
    Unavailable { code: String, retry_after: Option<u64> },
    /// No answer; the operation may have taken effect.
    Indeterminate,
    /// An answer that the API does not specify.
    Unexpected(String),
}

pub(crate) type SandboxId = String;

/// The `id` of an account at the CSP.
pub(crate) type Account = String;

/// A track and one of its idempotency keys.
pub(crate) type ClaimKey = (String, String);

/// A sandbox in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SandboxItem {
    pub(crate) name: String,
    /// The account at the CSP.
    pub(crate) account: Account,
    pub(crate) status: String,
    pub(crate) epoch: u64,
    /// The track and key of the current or last holding.
    pub(crate) owner: Option<ClaimKey>,
    /// What is stored of the secret of that track.
    pub(crate) proof: Option<String>,
}

impl SandboxItem {
    pub(crate) fn is(&self, status: &str) -> bool {
        self.status == status
    }
}

/// A claim in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimItem {
    pub(crate) sandbox: SandboxId,
    pub(crate) epoch: u64,
    /// Since when it is held, in seconds by the clock of the broker that wrote it.
    pub(crate) since: u64,
}

/// A ticket of the queue. Its times are those of the broker that wrote it, in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TicketItem {
    /// Its rank, in milliseconds.
    pub(crate) enqueued: u64,
    pub(crate) seen_at: u64,
    pub(crate) open_until: u64,
    pub(crate) prefix: String,
}

/// An item after a write; `None` if the write deleted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Sandbox(SandboxId, Option<SandboxItem>),
    Claim(ClaimKey, Option<ClaimItem>),
    Ticket(ClaimKey, Option<TicketItem>),
}

/// One write that changed something. Commits are in the order in which they took effect.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// When it took effect.
    pub(crate) at: Timestamp,
    /// From when on the indexes show it.
    pub(crate) listed_at: Timestamp,
    pub(crate) written: Vec<Written>,
}

/// The key that most requests to DynamoDB named in one second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busiest {
    pub(crate) key: String,
    pub(crate) requests: u64,
}

/// The sandboxes and claims of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) sandboxes: BTreeMap<SandboxId, SandboxItem>,
    pub(crate) claims: BTreeMap<ClaimKey, ClaimItem>,
}

impl Table {
    /// The accounts of available sandboxes that do not exist, and the accounts without an available sandbox.
    pub(crate) fn differences(&self, accounts: &BTreeSet<Account>) -> BTreeSet<Account> {
        let available = self.sandboxes.values().filter(|sandbox| sandbox.is("available"));
        let available = available.map(|sandbox| sandbox.account.clone()).collect();
        accounts.symmetric_difference(&available).cloned().collect()
    }

    /// The sandbox with this account.
    pub(crate) fn of_account(&self, account: &str) -> Option<(&SandboxId, &SandboxItem)> {
        self.sandboxes.iter().find(|(_, sandbox)| sandbox.account == account)
    }

    pub(crate) fn apply(&mut self, written: &Written) {
        match written {
            Written::Sandbox(id, Some(item)) => drop(self.sandboxes.insert(id.clone(), item.clone())),
            Written::Sandbox(id, None) => drop(self.sandboxes.remove(id)),
            Written::Claim(key, Some(item)) => drop(self.claims.insert(key.clone(), item.clone())),
            Written::Claim(key, None) => drop(self.claims.remove(key)),
            // Tickets come and go until the last client has its answer. The checker follows them in the journal.
            Written::Ticket(..) => {}
        }
    }
}

/// All observations of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// The calls of all clients.
    pub(crate) history: Vec<Call>,
    /// The commits of the table.
    pub(crate) journal: Vec<Commit>,
    pub(crate) busiest: Busiest,
    /// The number of replicas.
    pub(crate) replicas: usize,
    /// When the last fault was over.
    pub(crate) healed_at: Timestamp,
    /// The table at the end.
    pub(crate) table: Table,
    /// When everything had recovered from the faults.
    pub(crate) settled_at: Option<Timestamp>,
    /// The accounts that the CSP lists at the end.
    pub(crate) accounts: BTreeSet<Account>,
    /// The accounts that a fault of the CSP left out of its listing.
    pub(crate) omitted: BTreeSet<Account>,
    /// The accounts that the CSP called deleted while they existed.
    pub(crate) falsely_deleted: BTreeSet<Account>,
}
