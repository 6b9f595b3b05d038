//! A step before the deletion of an account: it removes what the deletion would leave behind.

use async_trait::async_trait;

use crate::error::Cause;
use crate::sandbox::{Sandbox, Timestamp};

/// The outcome of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing is left.
    Cleaned,
    /// The step only reported what it would remove.
    Reported,
}

/// The step failed. It never stops the deletion.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the step before the deletion failed")]
pub struct PreDeleteError(#[source] pub Cause);

/// A step before the deletion of an account.
#[async_trait]
pub trait PreDelete: Send + Sync + 'static {
    /// Removes what the account has elsewhere. Safe to repeat.
    async fn prepare(&self, sandbox: &Sandbox) -> Result<Prepared, PreDeleteError>;
}

/// What is kept of the step after the account is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreDeleteRecord {
    /// The sandbox as it was before its deletion.
    pub sandbox: Sandbox,
    /// When nothing was left.
    pub cleaned_at: Option<Timestamp>,
    /// Whether the step only reported.
    pub is_skipped: bool,
    /// Why the step failed.
    pub failed_reason: Option<String>,
    /// When the account was deleted.
    pub deleted_at: Timestamp,
    /// When the record may be removed.
    pub ttl: Timestamp,
}
