//! The JSON bodies of the API. Their documentation is the text of the OpenAPI document.

mod actor;
mod report;
mod sandbox;
mod values;

pub(super) use self::actor::sync_example;
pub(in crate::http) use self::actor::{ActorList, ActorStatus, BreakerSnapshot};
pub(in crate::http) use self::report::{CleanupReport, Completed, DiscardReport, ExpiryReport, SyncReport};
pub(in crate::http) use self::sandbox::{Claim, OwnSandbox, Released, Sandbox, SandboxPage, Stats, Status};
pub(in crate::http) use self::values::Timestamp;
