//! The figures of the labs: what they are made of, and the item that holds them.

use aws_sdk_dynamodb::Client;
use broker_actors::error::cause;
use broker_actors::ports::{HoldingSummary, LabStats, Listing, StoreError, StoredLabs};
use broker_actors::sandbox::{Shard, Status, Timestamp};

use super::call::call;
use super::errors::Kind;
use super::item::{Item, Reader, labs_key, status_shard, text, time};
use super::store::{DynamoStore, position_condition, position_values};

impl DynamoStore {
    /// The allocated sandboxes of a shard.
    pub(super) async fn holdings_of(&self, shard: Shard) -> Result<Vec<HoldingSummary>, StoreError> {
        let listing = Listing::of(Status::Allocated);
        let (partition, condition) = (status_shard(listing.status, shard), position_condition(&listing));
        let (mut holdings, mut start) = (Vec::new(), None);
        loop {
            let send = |client: Client| {
                let query = client
                    .query()
                    .table_name(&self.table)
                    .index_name(&self.form.status_index)
                    .limit(self.counted_page())
                    .key_condition_expression(condition)
                    .projection_expression("track_name, allocated_at, activated_at, standby")
                    .set_expression_attribute_values(Some(position_values(&listing, &partition)))
                    .set_exclusive_start_key(start.clone());
                query.send()
            };
            let answer = call(&self.client, Kind::Read, send).await?;
            holdings.extend(answer.items().iter().map(summary_of));
            match answer.last_evaluated_key {
                Some(next) => start = Some(next),
                None => return Ok(holdings),
            }
        }
    }

    pub(super) async fn store_labs(&self, counted_at: Timestamp, labs: &[LabStats]) -> Result<(), StoreError> {
        let labs = serde_json::to_string(labs).map_err(|error| StoreError::Rejected(cause(error)))?;
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(labs_key()))
                .update_expression("SET counted_at = :at, labs = :labs")
                .expression_attribute_values(":at", time(counted_at))
                .expression_attribute_values(":labs", text(&labs));
            request.send()
        };
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }

    pub(super) async fn stored_labs(&self) -> Result<StoredLabs, StoreError> {
        let Some(item) = self.get_item(labs_key()).await? else { return Ok(StoredLabs::default()) };
        let reader = Reader(&item);
        let labs = serde_json::from_str(&reader.text("labs")?);
        let labs = labs.map_err(|error| reader.corrupt(&format!("labs: {error}")))?;
        Ok(StoredLabs { counted_at: reader.optional_time("counted_at")?, labs })
    }
}

/// An item that another program has spoilt counts all the same.
fn summary_of(item: &Item) -> HoldingSummary {
    let reader = Reader(item);
    let lab = reader.lab().unwrap_or_default();
    let allocated_at = reader.optional_time("allocated_at").ok().flatten();
    HoldingSummary {
        lab: reader.optional_text("track_name").ok().flatten(),
        since: lab.activated_at.or(allocated_at).unwrap_or_default(),
        standby: lab.standby,
    }
}
