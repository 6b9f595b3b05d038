//! The cloud service provider.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Cause;
use crate::sandbox::{CspAccount, Sandbox, SandboxId};

/// The CSP's listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CspListing {
    /// The active sandbox accounts, in the CSP's order.
    pub accounts: Vec<CspAccount>,
    /// The records of sandboxes that cannot be used. Their accounts exist.
    pub unreadable: Vec<UnreadableRecord>,
    /// False if a page is missing. Such a listing proves no account to be gone.
    pub is_complete: bool,
}

/// What is known of a record that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// Its `csp_id`, if it can be read.
    pub sandbox_id: Option<SandboxId>,
    /// Its `id`, if it can be read.
    pub external_id: Option<String>,
}

impl CspListing {
    /// A listing of all accounts.
    pub fn complete(accounts: Vec<CspAccount>) -> Self {
        Self { accounts, unreadable: Vec::new(), is_complete: true }
    }

    /// What this listing proves.
    pub fn presence(&self) -> Presence {
        let mut presence = Presence { is_conclusive: self.is_complete, ..Presence::default() };
        for account in &self.accounts {
            presence.sandbox_ids.insert(account.sandbox_id.clone());
            presence.external_ids.insert(account.external_id.clone());
        }
        for UnreadableRecord { sandbox_id, external_id } in &self.unreadable {
            presence.is_conclusive &= sandbox_id.is_some() || external_id.is_some();
            presence.sandbox_ids.extend(sandbox_id.clone());
            presence.external_ids.extend(external_id.clone());
        }
        presence
    }
}

/// The accounts that a listing shows to exist, and whether it shows that all others do not.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    sandbox_ids: HashSet<SandboxId>,
    external_ids: HashSet<String>,
    is_conclusive: bool,
}

impl Presence {
    /// Whether the listing has the sandbox, by its id or by an account of it.
    pub fn has(&self, sandbox: &Sandbox) -> bool {
        self.sandbox_ids.contains(&sandbox.sandbox_id)
            || sandbox.accounts().any(|external_id| self.external_ids.contains(external_id))
    }

    /// Whether the listing has the account.
    pub fn has_account(&self, external_id: &str) -> bool {
        self.external_ids.contains(external_id)
    }

    /// Whether the listing proves that the sandbox is gone.
    pub fn lacks(&self, sandbox: &Sandbox) -> bool {
        self.is_conclusive && !self.has(sandbox)
    }

    /// Whether it has no account at all.
    pub fn is_empty(&self) -> bool {
        self.sandbox_ids.is_empty() && self.external_ids.is_empty()
    }

    /// Whether the listing proves anything to be gone: it is complete, and every record in it has an id.
    pub fn is_conclusive(&self) -> bool {
        self.is_conclusive
    }
}

/// The CSP's answer to a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CspDeletion {
    /// The account is deleted.
    Deleted,
    /// The deletion is accepted and not finished.
    Accepted,
    /// The CSP does not know the account.
    AlreadyGone,
}

/// Why a call of the CSP failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CspError {
    /// The CSP rejects the token: a configuration error.
    #[error("the CSP rejects the token (HTTP {status}); check CSP_API_TOKEN")]
    Unauthorized {
        /// 401, or 403 to a listing.
        status: u16,
    },
    /// The CSP asks for no calls for a while.
    #[error("the CSP asks for fewer calls")]
    Throttled {
        /// How long the CSP asks to wait.
        retry_after: Option<Duration>,
    },
    /// The CSP is down, slow or failing.
    #[error("the CSP is unavailable")]
    Unavailable(#[source] Cause),
    /// The CSP refuses this call, and not because of the token.
    #[error("the CSP refuses")]
    Refused {
        /// 403, 409, 423 or another status of the kind.
        status: u16,
        /// The answer.
        #[source]
        answer: Cause,
    },
    /// A 404 that does not come from the CSP's API, such as that of a gateway without a backend.
    #[error("the answer does not come from the CSP's API")]
    ForeignNotFound(#[source] Cause),
    /// The CSP's answer does not have the agreed form.
    #[error("the CSP gave an unexpected answer")]
    BadAnswer(#[source] Cause),
    /// The circuit breaker is open.
    #[error("the circuit breaker is open; the next call goes out in {} s", retry_in.as_secs())]
    BreakerOpen {
        /// The time until the breaker lets a probe through.
        retry_in: Duration,
    },
    /// The CSP asked for no calls until a time that has not come.
    #[error("the CSP asked for no calls; the next one goes out in {} s", retry_in.as_secs())]
    Silenced {
        /// The time until then.
        retry_in: Duration,
    },
}

impl CspError {
    /// How long no call goes out, if this error says so. The call that got it did not reach the CSP.
    pub fn blocked_for(&self) -> Option<Duration> {
        match self {
            Self::BreakerOpen { retry_in } | Self::Silenced { retry_in } => Some(*retry_in),
            _ => None,
        }
    }

    /// Whether it shows that the CSP does not work, which more calls make worse.
    pub fn is_overload(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable(_))
    }
}

/// The cloud service provider.
#[async_trait]
pub trait CspClient: Send + Sync + 'static {
    /// Lists the active sandbox accounts.
    async fn list(&self) -> Result<CspListing, CspError>;

    /// Deletes an account.
    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError>;
}
