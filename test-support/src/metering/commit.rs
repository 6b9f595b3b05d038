//! Writes that took effect, for a witness of all of them.

use std::time::Duration;

use dynoxide::Item;

/// One item after a write that took effect.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The table's name.
    pub table: String,
    /// The item's key.
    pub key: Item,
    /// The item; none if the write deleted it.
    pub item: Option<Item>,
    /// The time until all indexes show it.
    pub index_lag: Duration,
}

/// Receives the items of each commit, in the order in which commits take effect.
pub(super) type Witness = Box<dyn FnMut(Vec<Committed>) + Send>;
