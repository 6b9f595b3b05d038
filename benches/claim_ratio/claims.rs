//! The broker's claim, written with the bare SDK.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use broker_actors::ports::SandboxStore as _;
use broker_actors::sandbox::{SandboxId, ShardCount, Status};
use broker_actors::testing::ModelStore;
use sandbox_broker::dynamo::embedded::EmbeddedEngine;
use sandbox_broker::dynamo::item::status_shard;
use test_support::dynamo_store;

/// The epoch of the sandboxes before their claim.
const EPOCH: u64 = 1_800_000_000_000;

/// A table of sandboxes, each of which is claimed once.
pub(crate) struct Claims {
    client: Client,
    sandboxes: Vec<u64>,
    next: AtomicUsize,
}

impl Claims {
    /// Creates a table with `pool` sandboxes, on a file in this directory or in memory.
    pub(crate) async fn on_engine(directory: Option<&Path>, pool: u64) -> Self {
        let engine = directory.map_or_else(EmbeddedEngine::in_memory, EmbeddedEngine::on_disk);
        let engine = engine.expect("the engine opens");
        let store = dynamo_store(engine.dynamo_client()).await;
        for number in 1..=pool as u32 {
            let mut sandbox = ModelStore::sandbox(number);
            sandbox.external_id = external_id(number.into());
            sandbox.sfdc_account_id = Some(format!("crm-{number:05}"));
            assert!(store.create(&sandbox).await.expect("the engine answers"));
        }
        // In random order, as a broker takes them: neighbours in a B-tree are cheaper.
        let mut sandboxes: Vec<u64> = (1..=pool).collect();
        fastrand::Rng::with_seed(pool).shuffle(&mut sandboxes);
        Self { client: engine.client(), sandboxes, next: AtomicUsize::new(0) }
    }

    /// Claims the next sandbox for this track and returns its number.
    pub(crate) async fn claim_next(&self, track: &str) -> u64 {
        let sandbox = self.sandboxes[self.next.fetch_add(1, Ordering::Relaxed)];
        let text = |value: String| AttributeValue::S(value);
        let number = |value: u64| AttributeValue::N(value.to_string());
        let (sandbox_id, name) = (2_000_000 + sandbox, format!("lab-{sandbox:05}"));
        let (now, until) = (1_800_000_000, 1_800_014_400);
        let shard = ShardCount::default().shard_of(&SandboxId::new(sandbox_id.to_string()));
        let status_shard = status_shard(Status::Allocated, shard);
        let put = Put::builder()
            .table_name("sandbox-broker-pool")
            .item("PK", text(format!("TRACK#{track}")))
            .item("SK", text(format!("CLAIM#{track}")))
            .item("sandbox_id", text(sandbox_id.to_string()))
            .item("name", text(name))
            .item("external_id", text(external_id(sandbox)))
            .item("sfdc_account_id", text(format!("crm-{sandbox:05}")))
            .item("held_since", number(now))
            .item("expires_at", number(until))
            .item("epoch", number(EPOCH + 1))
            .condition_expression("attribute_not_exists(PK)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("the put is whole");
        let update = Update::builder()
            .table_name("sandbox-broker-pool")
            .key("PK", text(format!("SBX#{sandbox_id}")))
            .key("SK", text("META".to_owned()))
            .update_expression(
                "SET #status = :status, status_shard = :status_shard, shard_at = :until, updated_at = :now, allocated_at = :now, expires_at = :until, \
                 allocated_to_track = :track, idempotency_key = :track, epoch = epoch + :one REMOVE track_name",
            )
            .condition_expression("#status = :expected_status AND epoch = :expected_epoch")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":status", text("allocated".to_owned()))
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":until", number(until))
            .expression_attribute_values(":track", text(track.to_owned()))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":expected_epoch", number(EPOCH))
            .expression_attribute_values(":status_shard", text(status_shard))
            .expression_attribute_values(":expected_status", text("available".to_owned()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("the update is whole");
        self.client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().put(put).build())
            .transact_items(TransactWriteItem::builder().update(update).build())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await
            .expect("the claim is written");
        sandbox
    }
}

/// An external id as long as those of the simulated CSP.
pub(crate) fn external_id(sandbox: u64) -> String {
    format!("identity/accounts/00000000-0000-4000-8000-{sandbox:012}")
}
