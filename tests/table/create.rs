//! `table create` and `table drop-old-index`.

use crate::old_service::fixture;
use crate::table::{Server, TABLE, number_of, run};

#[actix_web::test]
async fn a_new_table_gets_the_shards_and_indexes_that_are_asked_for() {
    let server = Server::start();
    let made = server.succeed(&["create", "--shards", "64", "--without-lookup-indexes", "--warm-write", "12000"]).await;
    assert!(made.contains("table sandbox-broker-pool created"), "{made}");
    assert_eq!(
        server.indexes().await.into_iter().collect::<Vec<_>>(),
        [("StatusIndex".to_owned(), "status_shard+shard_at".to_owned())]
    );
    assert_eq!(number_of(&server.get("CTRL#schema", "META").await.unwrap(), "shards"), 64);

    let again = run(server.command(&["create"], &[("DDB_STATUS_SHARDS", "16")])).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains("table sandbox-broker-pool exists"), "{again:?}");
    assert_eq!(number_of(&server.get("CTRL#schema", "META").await.unwrap(), "shards"), 64, "it keeps its own");

    let server = Server::start();
    let made = run(server.command(&["create"], &[("DDB_STATUS_SHARDS", "1")])).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(server.indexes().await.len(), 3);
    assert_eq!(number_of(&server.get("CTRL#schema", "META").await.unwrap(), "shards"), 1);
}

#[actix_web::test]
async fn shards_that_no_table_can_have_are_refused() {
    let server = Server::start();
    for shards in ["0", "513", "many"] {
        let done = server.table(&["create", "--shards", shards]).await;
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.err.contains("1 to 512"), "{done:?}");
    }
}

/// A table of an older form is left alone, with the command to run.
#[actix_web::test]
async fn creating_does_not_touch_a_table_of_an_older_form() {
    let server = Server::with_items(fixture()).await;
    let before = server.dump().await;
    let done = server.table(&["create"]).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("sandbox-broker table adopt"), "{done:?}");
    assert_eq!(server.dump().await, before);
}

#[actix_web::test]
async fn the_old_index_goes_only_when_the_sharded_one_is_in_use() {
    let server = Server::with_items(fixture()).await;
    let early = server.table(&["drop-old-index", "--yes"]).await;
    assert_eq!(early.code, Some(2), "{early:?}");
    assert!(early.err.contains("table adopt"), "{early:?}");
    server.succeed(&["adopt", "--yes"]).await;
    let indexes = server.indexes().await;
    assert_eq!(
        (indexes["StatusIndex"].as_str(), indexes["StatusIndexSharded"].as_str()),
        ("status+allocated_at", "status_shard+shard_at")
    );

    let dry = server.succeed(&["drop-old-index"]).await;
    assert!(dry.contains("The index StatusIndex") && dry.contains("--yes"), "{dry}");
    assert_eq!(server.indexes().await, indexes);
    server.succeed(&["drop-old-index", "--yes"]).await;
    assert!(!server.indexes().await.contains_key("StatusIndex"));
    let again = server.succeed(&["drop-old-index", "--yes"]).await;
    assert!(again.contains("Nothing to do."), "{again}");
    server.succeed(&["check"]).await;
    let adopted = server.succeed(&["adopt", "--yes"]).await;
    assert!(adopted.contains("Nothing to do."), "{adopted}");
    let back = server.succeed(&["unadopt"]).await;
    assert!(back.contains("has no index StatusIndex by status + allocated_at"), "{back}");
}

/// Adoption makes what is missing, under the names of the settings, and never replaces an index.
#[actix_web::test]
async fn adoption_completes_a_table_that_lacks_indexes() {
    let server = Server::with_items(fixture()).await;
    let names = [("DDB_GSI1_NAME", "ByStatus"), ("DDB_GSI2_NAME", "ByTrack"), ("LAB_DURATION_HOURS", "48")];
    let done = run(server.command(&["adopt", "--yes"], &names)).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let indexes = server.indexes().await;
    assert_eq!(indexes["ByStatus"], "status_shard+shard_at");
    assert_eq!(indexes["ByTrack"], "allocated_to_track+allocated_at");
    assert_eq!(indexes["StatusIndex"], "status+allocated_at", "nothing is replaced");
    assert_eq!(run(server.command(&["check"], &names)).await.code, Some(0));

    let server = Server::with_items(fixture()).await;
    let wrong = [("DDB_GSI2_NAME", "IdempotencyIndex"), ("LAB_DURATION_HOURS", "48")];
    let done = run(server.command(&["adopt", "--yes"], &wrong)).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("the key of its index `IdempotencyIndex`"), "{done:?}");
}

#[actix_web::test]
async fn a_table_that_expires_items_by_another_attribute_is_refused() {
    use aws_sdk_dynamodb::types::TimeToLiveSpecification;
    let server = Server::with_items(fixture()).await;
    let specification = TimeToLiveSpecification::builder().enabled(true).attribute_name("delete_at").build().unwrap();
    let request = server.client.update_time_to_live().table_name(TABLE).time_to_live_specification(specification);
    request.send().await.unwrap();
    let before = server.dump().await;
    let done = server.table(&["adopt", "--yes"]).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("`delete_at`"), "{done:?}");
    assert_eq!(server.dump().await, before, "no item is written");
}
