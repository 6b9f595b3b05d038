//! What writes and reads cost, by AWS's documents. Sizes are in bytes.

use dynoxide::Item;
use dynoxide::types::item_size;

use super::schema::{IndexSchema, KeySchema, TableSchema};

/// A transaction pays twice on the table: for its preparation and for its commit.
pub(super) const TRANSACTION_FACTOR: f64 = 2.0;

const WRITE_UNIT: usize = 1024;
const READ_UNIT: usize = 4096;

/// Write units of a table for an item that had one size and has another; none means that there is no item.
pub(super) fn table_write_units(before: Option<&Item>, after: Option<&Item>) -> f64 {
    write_units(before.map_or(0, item_size).max(after.map_or(0, item_size)))
}

/// Read units for one item or one page.
pub(super) fn read_units(bytes: usize, consistent: bool) -> f64 {
    let units = bytes.div_ceil(READ_UNIT).max(1) as f64;
    if consistent { units } else { units / 2.0 }
}

/// One write to an index.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct IndexWrite {
    /// The index's name.
    pub(super) index: String,
    /// The value of the index's partition key, whose partition pays.
    pub(super) hash: String,
    pub(super) units: f64,
    /// The attributes that make up the keys of the entry: the index's and the table's.
    pub(super) entry_key: Item,
    /// The entry's new attributes; none if it is removed.
    pub(super) entry: Option<Item>,
}

/// What a change of one item writes to the table's indexes. A changed index key is two writes.
pub(super) fn index_writes(table: &TableSchema, before: Option<&Item>, after: Option<&Item>) -> Vec<IndexWrite> {
    let mut writes = Vec::new();
    for index in &table.indexes {
        let before = before.and_then(|item| Entry::of(index, &table.keys, item));
        let after = after.and_then(|item| Entry::of(index, &table.keys, item));
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => writes.push(after.put(index, 0)),
            (Some(before), None) => writes.push(before.delete(index)),
            (Some(before), Some(after)) if before.key != after.key => {
                writes.push(before.delete(index));
                writes.push(after.put(index, 0));
            }
            (Some(before), Some(after)) if before.projected == after.projected => {}
            (Some(before), Some(after)) => writes.push(after.put(index, item_size(&before.projected))),
        }
    }
    writes
}

/// What an index shows of an item.
struct Entry {
    hash: String,
    key: Item,
    projected: Item,
}

impl Entry {
    /// None if the item lacks one of the index's keys.
    fn of(index: &IndexSchema, table_keys: &KeySchema, item: &Item) -> Option<Self> {
        let mut key = index.keys.of(item)?;
        let hash = index.keys.hash_of(item)?;
        key.extend(table_keys.of(item)?);
        let is_projected = |name: &str| key.contains_key(name) || index.projection.includes(name);
        let projected = item.iter().filter(|(name, _)| is_projected(name));
        let projected = projected.map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(Self { hash, key, projected })
    }

    fn put(self, index: &IndexSchema, size_before: usize) -> IndexWrite {
        IndexWrite {
            index: index.name.clone(),
            hash: self.hash,
            units: write_units(item_size(&self.projected).max(size_before)),
            entry_key: self.key,
            entry: Some(self.projected),
        }
    }

    fn delete(self, index: &IndexSchema) -> IndexWrite {
        IndexWrite {
            index: index.name.clone(),
            hash: self.hash,
            units: write_units(item_size(&self.projected)),
            entry_key: self.key,
            entry: None,
        }
    }
}

fn write_units(bytes: usize) -> f64 {
    bytes.div_ceil(WRITE_UNIT).max(1) as f64
}
