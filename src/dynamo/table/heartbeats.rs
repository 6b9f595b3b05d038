//! Which brokers run on a table, by their heartbeats.

use broker_actors::ports::HEARTBEAT_AHEAD;
use broker_actors::sandbox::Timestamp;

use super::items::Items;
use super::plan::text_in;
use super::{TableError, TableNames};
use crate::dynamo::item::{REPLICA_PREFIX, REPLICAS, SK, read_heartbeat};

/// Fails if brokers are running.
pub(super) async fn refuse_if_in_use(items: &Items<'_>, names: &TableNames, now: Timestamp) -> Result<(), TableError> {
    let mut live: Vec<_> = items
        .partition(REPLICAS)
        .await?
        .iter()
        .filter(|item| text_in(item, SK).is_some_and(|sort| sort.starts_with(REPLICA_PREFIX)))
        .filter_map(|item| read_heartbeat(item).ok())
        .filter(|heartbeat| now < heartbeat.expires_at && heartbeat.expires_at <= now.plus(HEARTBEAT_AHEAD))
        .collect();
    live.sort_by(|one, other| one.replica.cmp(&other.replica));
    let Some(last) = live.iter().map(|heartbeat| heartbeat.expires_at).max() else { return Ok(()) };
    let replicas = live.iter().map(|heartbeat| heartbeat.replica.to_string()).collect();
    Err(TableError::InUse { table: names.table.clone(), replicas, seconds: last.since(now).as_secs() })
}
