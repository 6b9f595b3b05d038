use crate::error::Cause;

/// Why a store request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refuses for now, because too much is asked of it. Nothing was written.
    #[error("the store is throttling")]
    Throttled(#[source] Cause),
    /// The store was not reached or refused to work. Nothing was written.
    #[error("the store is unavailable")]
    Unavailable(#[source] Cause),
    /// The request timed out or its answer was lost. It may have been executed.
    #[error("the outcome of the store request is unknown")]
    OutcomeUnknown(#[source] Cause),
    /// The store rejects the request, and will reject it again: invalid request, missing table.
    #[error("the store rejects the request")]
    Rejected(#[source] Cause),
    /// An item cannot be read as what it should be.
    #[error("unreadable item {key}: {reason}")]
    Corrupt {
        /// The item's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cursor was not made by this store for this listing.
    #[error("the cursor is not one that this listing returned")]
    BadCursor,
    /// The table was created without the index that this read needs.
    #[error("the table has no index `{0}`")]
    NoIndex(String),
    /// A listing has more pages than a listing may have (I8).
    #[error("the listing has too many pages")]
    TooLong,
}
