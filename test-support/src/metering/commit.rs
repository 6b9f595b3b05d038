//! Writes that took effect, for a witness of all of them.

use std::time::Duration;

use dynoxide::Item;

use super::state::{State, Target};

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

impl State {
    /// Shows a commit to the witness. Each item comes with the lag of its indexes.
    pub(super) fn show_commit(&mut self, items: &[(&Target, Duration)]) {
        let Some(mut witness) = self.witness.take() else { return };
        let committed = items.iter().filter_map(|(target, index_lag)| {
            let item = self.get(target).ok()?;
            let (table, key) = (target.name.table.clone(), target.key.clone());
            Some(Committed { table, key, item, index_lag: *index_lag })
        });
        witness(committed.collect());
        self.witness = Some(witness);
    }
}
