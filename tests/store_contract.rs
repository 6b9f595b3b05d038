//! The DynamoDB adapter keeps the contract of the store: on the embedded engine, in memory and on a file; over HTTP; and on
//! the server that `DDB_ENDPOINT_URL` names.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use broker_actors::ports::{PreDeleteRecord, SandboxStore};
use broker_actors::sandbox::{Timestamp, TrackId};
use broker_actors::store_contract;
use broker_actors::testing::ModelStore;
use sandbox_broker::dynamo::DynamoClient;
use sandbox_broker::dynamo::embedded::{EmbeddedEngine, OpenError};
use sandbox_broker::dynamo::table::create::{CreateOptions, create_table};
use sandbox_broker::dynamo::table::open::open_table;
use sandbox_broker::dynamo::table::{TableError, TableNames};
use test_support::{DynamoServer, dynamo_store, dynamo_store_named};

type Store = Arc<dyn SandboxStore>;

async fn in_memory() -> Store {
    on_engine(&EmbeddedEngine::in_memory().unwrap()).await
}

async fn on_disk() -> Store {
    let directory = tempfile::tempdir().unwrap().keep();
    on_engine(&EmbeddedEngine::on_disk(&directory).unwrap()).await
}

async fn on_engine(engine: &EmbeddedEngine) -> Store {
    Arc::new(dynamo_store(engine.dynamo_client()).await)
}

async fn over_http() -> Store {
    Arc::new(dynamo_store(DynamoServer::start().await.dynamo_client()).await)
}

/// The server of `DDB_ENDPOINT_URL`, with a table for each test.
async fn on_named_server() -> Store {
    let url = std::env::var("DDB_ENDPOINT_URL").expect("DDB_ENDPOINT_URL names a DynamoDB server");
    let names = TableNames { table: format!("contract-{:016x}", fastrand::u64(..)), ..TableNames::default() };
    Arc::new(dynamo_store_named(DynamoClient::connect(None, Some(url)).await, &names).await)
}

store_contract!(embedded_in_memory, in_memory());
store_contract!(embedded_on_disk, on_disk());
store_contract!(http, over_http());
store_contract!(
    #[ignore = "needs a DynamoDB server in DDB_ENDPOINT_URL; `.ci/run second-judge` names one"]
    named_server,
    on_named_server()
);

/// The record that the Python broker wrote too: its attributes, and none of an earlier deletion.
#[tokio::test]
async fn the_record_of_a_step_before_a_deletion_has_the_agreed_attributes() {
    let server = DynamoServer::start().await;
    let store = dynamo_store(server.dynamo_client()).await;
    let mut sandbox = ModelStore::sandbox(1);
    (sandbox.track_name, sandbox.allocated_to_track) = (Some("intro".to_owned()), Some(TrackId::new("student-1")));
    let failed = PreDeleteRecord {
        sandbox,
        cleaned_at: None,
        is_skipped: true,
        failed_reason: Some("no session".to_owned()),
        deleted_at: Timestamp(1_800_000_000),
        ttl: Timestamp(1_802_592_000),
    };
    let mut always =
        ["PK", "SK", "sandbox_id", "sandbox_name", "external_id", "track_name", "allocated_to_track"].to_vec();
    always.extend(["niosxaas_cleanup_skipped", "deleted_at", "ttl"]);
    let cleaned = PreDeleteRecord { cleaned_at: Some(Timestamp(1_799_999_990)), failed_reason: None, ..failed.clone() };
    for (record, other) in [(failed, "niosxaas_cleanup_failed_reason"), (cleaned, "niosxaas_cleaned_at")] {
        store.record_pre_delete(&record).await.unwrap();
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let get = server.client().get_item().table_name("sandbox-broker-pool").key("SK", text("CLEANUP"));
        let item = get.key("PK", text("NIOSXAAS#2000001")).consistent_read(true).send().await.unwrap().item.unwrap();
        let names: BTreeSet<&str> = item.keys().map(String::as_str).collect();
        assert_eq!(names, always.iter().copied().chain([other]).collect());
        let times = ["deleted_at", "ttl"].map(|name| item[name].as_n().unwrap().as_str());
        assert_eq!(times, ["1800000000", "1802592000"]);
        assert_eq!(item["allocated_to_track"], text("student-1"));
        assert_eq!(item["niosxaas_cleanup_skipped"], AttributeValue::Bool(true));
    }
}

#[tokio::test]
async fn a_write_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = ModelStore::sandbox(1);
    {
        let engine = EmbeddedEngine::on_disk(directory.path()).unwrap();
        assert!(on_engine(&engine).await.create(&sandbox).await.unwrap());
    }
    let engine = reopened(directory.path()).await;
    assert_eq!(on_engine(&engine).await.get(&sandbox.sandbox_id).await.unwrap(), Some(sandbox));
}

/// Opens the engine again. Its thread unlocks the directory shortly after the last client is dropped.
async fn reopened(directory: &std::path::Path) -> EmbeddedEngine {
    for _ in 0..500 {
        match EmbeddedEngine::on_disk(directory) {
            Err(OpenError::InUse(_)) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the data directory stays locked");
}

#[tokio::test]
async fn a_data_directory_has_one_broker() {
    let directory = tempfile::tempdir().unwrap();
    let _first = EmbeddedEngine::on_disk(directory.path()).unwrap();
    let second = EmbeddedEngine::on_disk(directory.path());
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
}

#[tokio::test]
async fn creating_the_table_twice_changes_nothing() {
    let client = EmbeddedEngine::in_memory().unwrap().client();
    let names = TableNames::default();
    assert!(matches!(open_table(&client, &names).await, Err(TableError::Missing(_))));
    for is_new in [true, false] {
        let created = create_table(&client, &names, &CreateOptions::default(), |_| {}).await.unwrap();
        assert_eq!(created.is_new, is_new);
    }
    open_table(&client, &names).await.unwrap();
}

#[tokio::test]
async fn a_table_with_another_schema_is_an_error_and_not_changed() {
    let client = EmbeddedEngine::in_memory().unwrap().client();
    create_table(&client, &TableNames::default(), &CreateOptions::default(), |_| {}).await.unwrap();
    let names = TableNames { status_index: "OtherIndex".to_owned(), ..TableNames::default() };
    let refused = open_table(&client, &names).await.unwrap_err().to_string();
    assert!(refused.contains("no index `OtherIndex`"), "{refused}");
}

/// Claim, lease, control and replica items are in no index.
#[tokio::test]
async fn only_sandboxes_are_indexed() {
    use broker_actors::actor::{ActorName, Control, DesiredState};
    use broker_actors::ports::LeaseRequest;
    use broker_actors::sandbox::{Holding, IdempotencyKey, LabTime, Owner, ReplicaId, Timestamp, TrackId};
    let engine = EmbeddedEngine::in_memory().unwrap();
    let store = on_engine(&engine).await;
    let (now, until) = (Timestamp(1), Timestamp(9));
    let sandbox = ModelStore::sandbox(1);
    store.create(&sandbox).await.unwrap();
    let holding = Holding {
        owner: Owner::named(TrackId::new("track")),
        track_name: None,
        key: IdempotencyKey::new("key"),
        expires_at: until,
        lab: LabTime::default(),
    };
    let (write, claim) = sandbox.claim(holding, now).unwrap();
    store.claim(&write, &claim).await.unwrap();
    let replica = ReplicaId::new("replica");
    let request = LeaseRequest { job: ActorName::Cleanup, holder: replica.clone(), until, stale: None, due: None };
    store.acquire_lease(&request).await.unwrap();
    store.heartbeat(&replica, now, until).await.unwrap();
    let control = Control {
        actor: ActorName::Cleanup,
        desired_state: DesiredState::Paused,
        reason: String::new(),
        requested_by: "ops".to_owned(),
        updated_at: now,
    };
    store.put_control(&control).await.unwrap();
    let keys =
        ["TRACK#track/CLAIM#key", "LEASE#cleanup/META", "CTRL#cleanup/META", "LEASE#pool-manager/REPLICA#replica"];
    for key in keys {
        let (partition, sort) = key.split_once('/').unwrap();
        let attribute = |value: &str| aws_sdk_dynamodb::types::AttributeValue::S(value.to_owned());
        let request = engine
            .client()
            .get_item()
            .table_name(TableNames::default().table)
            .key("PK", attribute(partition))
            .key("SK", attribute(sort));
        let item = request.send().await.unwrap().item.unwrap_or_else(|| panic!("{key} is missing"));
        for index_key in ["status", "allocated_at", "allocated_to_track", "idempotency_key"] {
            assert!(!item.contains_key(index_key), "{key} has {index_key}");
        }
    }
}

/// An item with an invalid attribute is an error where it is read and is left out of listings.
#[tokio::test]
async fn an_invalid_item_does_not_break_a_listing() {
    use aws_sdk_dynamodb::types::AttributeValue;
    use broker_actors::ports::{Listing, StoreError};
    use broker_actors::sandbox::Status;
    let engine = EmbeddedEngine::in_memory().unwrap();
    let store = on_engine(&engine).await;
    let (valid, invalid) = (ModelStore::sandbox(1), ModelStore::sandbox(2));
    for sandbox in [&valid, &invalid] {
        store.create(sandbox).await.unwrap();
    }
    let invalidate = engine
        .client()
        .update_item()
        .table_name(TableNames::default().table)
        .key("PK", AttributeValue::S(format!("SBX#{}", invalid.sandbox_id)))
        .key("SK", AttributeValue::S("META".to_owned()))
        .update_expression("SET created_at = :value")
        .expression_attribute_values(":value", AttributeValue::S("yesterday".to_owned()));
    invalidate.send().await.unwrap();
    let mut pages = store.pages(Listing::of(Status::Available));
    let mut listed = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        listed.extend(page);
    }
    assert_eq!(listed, [valid]);
    let read = store.get(&invalid.sandbox_id).await;
    assert!(matches!(&read, Err(StoreError::Corrupt { reason, .. }) if reason.contains("created_at")), "{read:?}");
}
