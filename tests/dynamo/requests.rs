//! What each call of a track costs.

use std::time::Duration;

use broker_actors::allocation::AllocateRequest;
use broker_actors::ports::ClaimOutcome;
use broker_actors::sandbox::IdempotencyKey;
use broker_actors::testing::TestBroker;
use tokio::time::sleep;

use crate::table::{Server, Table, claim_of, owner, request, sandbox};

/// Uncontended, each call is one request, and has the units of docs/performance.md.
#[actix_web::test]
async fn allocate_replay_read_and_release_are_one_request_each() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(50);
    let broker = table.broker("replica-1").await;
    // The jobs' first runs end. The next reads of the actors are a while away.
    sleep(Duration::from_secs(5)).await;
    let allocator = broker.allocator();
    // A release names no key; the default one is tried first.
    let request = |track: &str| AllocateRequest { key: IdempotencyKey::new(track), ..request(track) };
    let engine = &table.connection.engine;
    let sent = |operation: &str| [(operation.to_owned(), 1_u64)];
    let units = |operation: &str| {
        let counted = engine.counters().operation(operation);
        (counted.write_units, counted.read_units)
    };

    engine.reset_counters();
    let claim = allocator.allocate(request("t1")).await.unwrap().claim;
    assert_eq!(table.all_requests(), sent("TransactWriteItems"), "allocate");
    assert_eq!(units("TransactWriteItems"), (8.0, 0.0), "allocate");

    engine.reset_counters();
    assert!(allocator.allocate(request("t1")).await.unwrap().replayed);
    assert_eq!(table.all_requests(), sent("TransactWriteItems"), "replay");
    assert_eq!(units("TransactWriteItems"), (4.0, 0.0), "replay");

    engine.reset_counters();
    allocator.read(&claim.sandbox_id, &owner("t1")).await.unwrap();
    assert_eq!(table.all_requests(), sent("GetItem"), "read");
    assert_eq!(units("GetItem"), (0.0, 1.0), "read");

    engine.reset_counters();
    allocator.release(&claim.sandbox_id, &owner("t1")).await.unwrap();
    assert_eq!(table.all_requests(), sent("TransactWriteItems"), "release");
    assert_eq!(units("TransactWriteItems"), (8.0, 0.0), "release");
}

/// The broker's own metric agrees with what DynamoDB charges, also for refused conditions.
#[actix_web::test]
async fn the_metric_counts_what_is_charged() {
    let server = Server::start().await;
    let broker = server.broker(&[("CSP_SIM_SANDBOXES", "30")]).await;
    let claimed = broker.allocate("t1").await;
    broker.allocate("t1").await;
    broker.renew(claimed.sandbox_id(), "t1").await;
    broker.mark_for_deletion(claimed.sandbox_id(), "another").await;
    broker.mark_for_deletion(claimed.sandbox_id(), "t1").await;
    let metric = "broker_dynamodb_consumed_capacity_units_sum";
    let counted = broker.metric(metric, "operation=\"TransactWriteItems\"").await;
    assert_eq!(counted, server.engine().counters().operation("TransactWriteItems").write_units);
}

/// An orphaned claim, as a restore of a part of a transaction leaves one: overdue, it frees its key at once and is not
/// answered; live, it is answered from itself.
#[actix_web::test]
async fn an_orphaned_claim_costs_one_answer_or_a_few_requests() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(5);
    for track in ["overdue", "live"] {
        let orphan = sandbox(100);
        table.store.create(&orphan).await.unwrap();
        let (update, claim) = claim_of(&orphan, track);
        assert!(matches!(table.store.claim(&update, &claim).await.unwrap(), ClaimOutcome::Claimed));
        table.delete_sandbox(&orphan).await;
    }
    let mut settings = TestBroker::settings("replica-1");
    // In the hours below the actors are to have little to do.
    settings.pool_refresh_interval = Duration::from_secs(3600);
    settings.control_poll = Duration::from_secs(600);
    settings.job_lease = Duration::from_secs(3600);
    let broker = table.broker_with(settings).await;
    sleep(Duration::from_secs(5)).await;

    table.connection.engine.reset_counters();
    let live = broker.allocator().allocate(request("live")).await.unwrap();
    assert!(live.replayed && live.claim.sandbox_id == sandbox(100).sandbox_id);
    let requests = |operation: &str| table.requests(operation);
    assert_eq!((requests("TransactWriteItems"), requests("GetItem")), (1, 0));

    // Four hours for the lab and half an hour of grace.
    sleep(Duration::from_secs(5 * 3600)).await;
    let before = table.requests("TransactWriteItems");
    let allocation = broker.allocator().allocate(request("overdue")).await.unwrap();
    assert!(!allocation.replayed && allocation.claim.sandbox_id != sandbox(100).sandbox_id);
    let transactions = table.requests("TransactWriteItems") - before;
    assert!(transactions <= 4, "{transactions} transactions");
}
