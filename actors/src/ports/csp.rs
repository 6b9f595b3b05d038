//! The cloud service provider.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Cause;
use crate::sandbox::CspAccount;

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
