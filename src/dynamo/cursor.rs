//! Cursors: the index key at which a page ended, in a form that callers can pass on. The hash key of the index is not in
//! it; it comes from the listing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker_actors::error::cause;
use broker_actors::ports::{Cursor, StoreError};
use broker_actors::sandbox::SandboxId;

use super::item::{Item, PK, number, sandbox_key, text};

/// The longest sandbox id in a cursor. The CSP's are a number's digits.
const MAX_ID_BYTES: usize = 256;

/// The cursor of a page of the status index.
pub(super) fn of_listing(last: &Item) -> Result<Cursor, StoreError> {
    write(last, "shard_at")
}

/// The start key of the next page in this partition of the status index.
pub(super) fn read_listing(cursor: &Cursor, partition: &str) -> Result<Item, StoreError> {
    read(cursor, "status_shard", partition, "shard_at")
}

/// The cursor of a page of the index by track or by key.
pub(super) fn of_lookup(last: &Item) -> Result<Cursor, StoreError> {
    write(last, "allocated_at")
}

/// The start key of the next page of this value in the index by track or by key.
pub(super) fn read_lookup(cursor: &Cursor, attribute: &str, value: &str) -> Result<Item, StoreError> {
    read(cursor, attribute, value, "allocated_at")
}

fn write(last: &Item, range: &str) -> Result<Cursor, StoreError> {
    let unreadable = || StoreError::Rejected(cause("the index answered with an unknown form of key"));
    let position = last.get(range).and_then(|value| value.as_n().ok()).ok_or_else(unreadable)?;
    let partition = last.get(PK).and_then(|value| value.as_s().ok()).ok_or_else(unreadable)?;
    let sandbox_id = partition.strip_prefix("SBX#").ok_or_else(unreadable)?;
    Ok(Cursor(URL_SAFE_NO_PAD.encode(format!("{position}#{sandbox_id}"))))
}

fn read(cursor: &Cursor, hash: &str, value: &str, range: &str) -> Result<Item, StoreError> {
    let bytes = URL_SAFE_NO_PAD.decode(&cursor.0).map_err(|_| StoreError::BadCursor)?;
    let cursor = String::from_utf8(bytes).map_err(|_| StoreError::BadCursor)?;
    let (position, sandbox_id) = cursor.split_once('#').ok_or(StoreError::BadCursor)?;
    let position: u64 = position.parse().map_err(|_| StoreError::BadCursor)?;
    // DynamoDB rejects a longer key, and that would be reported as the broker's error.
    if !(1..=MAX_ID_BYTES).contains(&sandbox_id.len()) {
        return Err(StoreError::BadCursor);
    }
    let mut start = sandbox_key(&SandboxId::new(sandbox_id));
    start.insert(hash.to_owned(), text(value));
    start.insert(range.to_owned(), number(position));
    Ok(start)
}
