//! The outcomes of conditional writes.

use crate::sandbox::{Claim, Sandbox};

/// The outcome of a claim transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it is matched at once; a box would cost an allocation")]
pub enum ClaimOutcome {
    /// The claim item is written, the sandbox is allocated.
    Claimed,
    /// The key already holds a sandbox. Nothing was written.
    AlreadyHeld(Claim),
    /// The candidate is not as expected. Nothing was written.
    CandidateChanged {
        /// The candidate as it is; `None` if there is no such item.
        current: Option<Sandbox>,
    },
    /// Another transaction is working on the candidate. Nothing was written.
    CandidateConflict,
    /// Another transaction is working on the claim item. Nothing was written, and the candidate is untouched.
    ClaimConflict,
}

/// The outcome of a conditional update.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it is matched at once; a box would cost an allocation")]
pub enum WriteOutcome {
    /// Written.
    Done,
    /// The sandbox is not as expected. Nothing was written.
    PreconditionFailed {
        /// The sandbox as it is; `None` if there is no such item.
        current: Option<Sandbox>,
    },
    /// The claim item belongs to another sandbox. Nothing was written. Only for updates that include a claim.
    ClaimMismatch,
    /// Another transaction is working on one of the items. Nothing was written.
    Conflict,
}
