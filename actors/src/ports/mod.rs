//! The ports: store, CSP and clock, with their errors. The adapters are in the other package.

mod coordination;
mod csp;
mod error;
mod labs;
mod pre_delete;
mod store;
mod tickets;

pub use self::coordination::{
    ClusterState, Coordination, DueCondition, HEARTBEAT_AHEAD, JobLease, LeaseOutcome, LeaseRequest, Stats,
    StoredQueue, StoredStats,
};
pub use self::csp::{CspClient, CspDeletion, CspError, CspListing, Presence, UnreadableRecord};
pub use self::error::StoreError;
pub use self::labs::{Counts, HoldingSummary, LabStats, StoredLabs};
pub use self::pre_delete::{PreDelete, PreDeleteError, PreDeleteRecord, Prepared};
pub use self::store::{ClaimOutcome, Cursor, Listing, Lookup, Page, PageRequest, Pages, SandboxStore, WriteOutcome};
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
