//! What happens to a sandbox.

use super::{Holding, Timestamp};
use crate::actor::ActorName;

/// Who changes a sandbox when its owner does.
pub(super) const OWNER: &str = "owner";

/// What a listing changes of an account that no one holds. `None` changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountChanges {
    /// The name.
    pub name: Option<String>,
    /// The account's path: another account has the id now.
    pub external_id: Option<String>,
    /// The CRM account.
    pub sfdc_account_id: Option<String>,
    /// When the other account was created.
    pub created_at: Option<Timestamp>,
    /// From when on the other account may be handed out.
    pub available_from: Option<Timestamp>,
}

/// What happens to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A track claims it.
    Claim(Holding),
    /// Its owner extends the holding.
    Renew {
        /// The new end of the holding.
        expires_at: Timestamp,
    },
    /// Its owner, or an operator on the owner's behalf, releases it.
    Release,
    /// Its holding ran out.
    Expire {
        /// `expires_at` plus the grace period: the earliest time to end the holding.
        due: Timestamp,
    },
    /// The CSP lists it, perhaps with other attributes.
    Listed(AccountChanges),
    /// What the CSP's listing says of an account that was held. It changes nothing else.
    Observed {
        /// Whether the listing lacks the account.
        is_gone: bool,
        /// Another account under the same id.
        replaced_by: Option<String>,
    },
    /// The CSP lists it although it was deleted.
    ListedAfterDeletion {
        /// When it was first released; now if it never was.
        deletion_requested_at: Timestamp,
        /// Another account under the same id.
        replaced_by: Option<String>,
    },
    /// Its tombstone is still needed.
    KeepTombstone {
        /// The new TTL.
        keep_until: Timestamp,
    },
    /// The CSP's listing lacks it.
    Missing {
        /// The TTL of the tombstone, if this event creates one.
        keep_until: Timestamp,
    },
    /// Nothing of it is left elsewhere; its account can be deleted.
    Prepared,
    /// The CSP deleted it, or does not know it.
    DeletedAtCsp {
        /// The TTL of the tombstone.
        keep_until: Timestamp,
    },
    /// The CSP failed to delete it.
    DeletionAttemptFailed {
        /// The number of failed attempts, this one included.
        attempts: u32,
        /// When the first of them failed.
        failing_since: Timestamp,
        /// The time of the next attempt; `None` after the last one.
        retry_at: Option<Timestamp>,
        /// The CSP's error.
        error: String,
    },
    /// The CSP accepted the deletion and has not finished it.
    DeletionAccepted {
        /// When to ask again.
        retry_at: Timestamp,
    },
    /// An operator asks for another deletion attempt.
    RetryDeletion,
    /// An operator keeps it from being offered and from being deleted.
    Quarantine {
        /// Why.
        reason: String,
        /// Who.
        requested_by: String,
    },
    /// An operator ends the quarantine.
    Unquarantine {
        /// Whether a student had it.
        was_held: bool,
    },
    /// An operator keeps it from being deleted for a while.
    Freeze {
        /// The end of that while.
        until: Timestamp,
    },
    /// It was stale for the whole grace period, or an operator discards it.
    Discard {
        /// The TTL of the tombstone.
        keep_until: Timestamp,
    },
}

impl Event {
    /// The event's name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim",
            Self::Renew { .. } => "renew",
            Self::Release => "release",
            Self::Expire { .. } => "expire",
            Self::Listed(_) => "listed",
            Self::Observed { .. } => "observed",
            Self::ListedAfterDeletion { .. } => "listed after its deletion",
            Self::KeepTombstone { .. } => "keep tombstone",
            Self::Missing { .. } => "missing",
            Self::Prepared => "prepared",
            Self::DeletedAtCsp { .. } => "deleted at CSP",
            Self::DeletionAttemptFailed { .. } => "deletion attempt failed",
            Self::DeletionAccepted { .. } => "deletion accepted",
            Self::Quarantine { .. } => "quarantine",
            Self::Unquarantine { .. } => "unquarantine",
            Self::Freeze { .. } => "freeze",
            Self::RetryDeletion => "retry deletion",
            Self::Discard { .. } => "discard",
        }
    }

    /// Who makes this happen, unless an operator does.
    pub fn made_by(&self) -> &'static str {
        match self {
            Self::Claim(_) | Self::Renew { .. } | Self::Release => OWNER,
            Self::Expire { .. } => ActorName::ExpiryReaper.as_str(),
            Self::Listed(_)
            | Self::Observed { .. }
            | Self::ListedAfterDeletion { .. }
            | Self::KeepTombstone { .. }
            | Self::Missing { .. } => ActorName::CspSync.as_str(),
            Self::Prepared
            | Self::DeletedAtCsp { .. }
            | Self::DeletionAttemptFailed { .. }
            | Self::DeletionAccepted { .. } => ActorName::Cleanup.as_str(),
            Self::RetryDeletion | Self::Quarantine { .. } | Self::Unquarantine { .. } | Self::Freeze { .. } => {
                "operator"
            }
            Self::Discard { .. } => ActorName::StaleCollector.as_str(),
        }
    }
}
