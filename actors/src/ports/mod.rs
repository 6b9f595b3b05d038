//! The ports: store, CSP and clock, with their errors. The adapters are in the other package.

mod coordination;
mod csp;
mod error;
mod labs;
mod outcome;
mod pre_delete;
mod store;
mod tickets;

pub use self::coordination::{
    ClusterState, Coordination, Counts, DueCondition, HEARTBEAT_AHEAD, JobLease, LeaseOutcome, LeaseRequest, Stats,
    StoredQueue, StoredStats,
};
pub use self::csp::{CspClient, CspDeletion, CspError, CspListing, Presence, UnreadableRecord};
pub use self::error::StoreError;
pub use self::labs::{HoldingSummary, LabStats, StoredLabs};
pub use self::outcome::{ClaimOutcome, WriteOutcome};
pub use self::pre_delete::{PreDelete, PreDeleteError, PreDeleteRecord, Prepared};
pub use self::store::{Cursor, Listing, Lookup, Page, PageRequest, Pages, SandboxStore};
pub use self::tickets::{GrantOutcome, TICKET_LIFETIME, Ticket, Tickets};
use crate::sandbox::{Timestamp, UnixMillis};

/// The time of day. Durations and deadlines use tokio's clock, which tests can pause.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now_millis(&self) -> UnixMillis;

    /// The current time, in whole seconds.
    fn now(&self) -> Timestamp {
        self.now_millis().seconds()
    }
}
