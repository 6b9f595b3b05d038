//! The JSON bodies of the API. Their documentation is the text of the OpenAPI document.

mod actor;
mod audit;
mod labs;
mod queue;
mod report;
mod sandbox;
mod stats_history;
mod values;

pub(super) use self::actor::sync_example;
pub(crate) use self::actor::{ActorList, ActorStatus, BreakerSnapshot};
pub(crate) use self::audit::AuditPage;
pub(crate) use self::labs::LabList;
pub(crate) use self::queue::{Dropped, Held, Preflight, Queue};
pub(crate) use self::report::{
    CleanupReport, Completed, DiscardReport, DiscardStaleReport, ExpiryReport, RetryReport, SyncReport,
};
pub(crate) use self::sandbox::{
    Claim, OwnSandbox, Released, ReleasedHeld, Renewed, Sandbox, SandboxDetails, SandboxPage, Stats, Status,
};
pub(crate) use self::stats_history::StatsHistory;
pub(crate) use self::values::Timestamp;
