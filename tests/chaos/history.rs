//! What the checker judges: what the clients were completion, what the table went through, and how it all ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point in time by one clock that never goes back, in microseconds since the Unix epoch, so that it can be compared
/// with the ends that the broker tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub fn now() -> Self {
        static BEGAN: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
            #[allow(clippy::disallowed_methods, reason = "the one look at the time of day; the rest is elapsed time")]
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (Instant::now(), now)
        });
        let (began, at) = *BEGAN;
        Self::since_epoch(at + began.elapsed())
    }

    pub fn of_second(second: u64) -> Self {
        Self::since_epoch(Duration::from_secs(second))
    }

    fn since_epoch(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap())
    }
}

/// One request of a client, and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    pub track: String,
    pub key: String,
    /// The replica that was op.
    pub replica: usize,
    pub op: Op,
    pub sent: Timestamp,
    /// When the answer was there, or the client gave up.
    pub received: Timestamp,
    pub completion: Completion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A sandbox whose name begins so.
    Allocate {
        prefix: String,
    },
    Read(SandboxId),
    Renew(SandboxId),
    Release(SandboxId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// 200 or 201 to an allocation, 200 to a renewal: the track holds it until then.
    Holds { sandbox: SandboxId, until: Timestamp },
    /// 200 to a read: the sandbox is the track's own, in this status.
    Reads { status: String },
    /// 200 to a release.
    Released,
    /// 409: the pool has none.
    NoneAvailable,
    /// 403 or 404: there is no such sandbox, or it is not this track's.
    NotYours,
    /// 409: it cannot be renewed any more.
    WrongState,
    /// 503.
    TryAgain,
    /// No answer came.
    NoAnswer,
    /// An answer that the API does not know.
    Unexpected(String),
}

pub type SandboxId = String;

/// A track, and one of its keys.
pub type ClaimKey = (String, String);

/// A sandbox in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxItem {
    pub name: String,
    pub status: String,
    pub epoch: u64,
    /// The track and key that hold it, or held it last.
    pub owner: Option<ClaimKey>,
}

impl SandboxItem {
    pub fn is(&self, status: &str) -> bool {
        self.status == status
    }
}

/// A claim in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimItem {
    pub sandbox: SandboxId,
    pub epoch: u64,
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    Sandbox(SandboxId, Option<SandboxItem>),
    Claim(ClaimKey, Option<ClaimItem>),
}

/// One write that changed something. Commits are in the order in which the table took them.
#[derive(Clone, Debug)]
pub struct Commit {
    /// It took effect after this,
    pub began: Timestamp,
    /// and before this.
    pub ended: Timestamp,
    pub written: Vec<Written>,
}

/// The sandboxes and claims of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub sandboxes: BTreeMap<SandboxId, SandboxItem>,
    pub claims: BTreeMap<ClaimKey, ClaimItem>,
}

impl Table {
    /// What is available here but no account there, or the other way round.
    pub fn differences(&self, accounts: &BTreeSet<SandboxId>) -> BTreeSet<SandboxId> {
        let available = self.sandboxes.iter().filter(|(_, sandbox)| sandbox.is("available")).map(|(id, _)| id.clone());
        accounts.symmetric_difference(&available.collect()).cloned().collect()
    }

    pub fn apply(&mut self, written: &Written) {
        match written {
            Written::Sandbox(id, Some(item)) => drop(self.sandboxes.insert(id.clone(), item.clone())),
            Written::Sandbox(id, None) => drop(self.sandboxes.remove(id)),
            Written::Claim(key, Some(item)) => drop(self.claims.insert(key.clone(), item.clone())),
            Written::Claim(key, None) => drop(self.claims.remove(key)),
        }
    }
}

/// Everything that was seen of one run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub history: Vec<Call>,
    pub journal: Vec<Commit>,
    /// How many replicas there are.
    pub replicas: usize,
    /// From then on nothing was disturbed any more.
    pub calm_since: Timestamp,
    /// The table at the end.
    pub table: Table,
    /// The accounts that the CSP lists at the end.
    pub accounts: BTreeSet<SandboxId>,
    /// The accounts that it once left out of its listing though they were there.
    pub hidden: BTreeSet<SandboxId>,
}
