//! The expiry-reaper: timers, sweep, and expiry by the track's own request.

use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::sandbox::{Owner, Status, TrackId};
use broker_actors::testing::TestBroker;
use tokio::time::sleep;

use crate::fixtures::{GRACE, HOUR, LAB, MINUTE, release};

#[actix::test]
async fn a_holding_expires_on_time() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(LAB + GRACE - Duration::from_secs(2)).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::PendingDeletion, "within a second of its expiry");
    assert!(broker.store.claims().is_empty());
    assert!(!broker.allocate("t1").await.unwrap().replayed, "the key is free");
}

#[actix::test]
async fn a_renewed_or_released_holding_is_not_ended_by_the_old_timer() {
    let broker = TestBroker::with_sandboxes(2).await;
    let renewed = broker.allocate("renewed").await.unwrap().claim;
    let released = broker.allocate("released").await.unwrap().claim;
    sleep(HOUR).await;
    broker.broker.allocator().renew(&renewed.sandbox_id, &Owner::named(TrackId::new("renewed")), None).await.unwrap();
    release(&broker, &released).await;
    let requests = broker.store.requests()["end_claim"];
    sleep(LAB + GRACE - HOUR + MINUTE).await;
    assert_eq!(broker.sandbox(&renewed.sandbox_id).status, Status::Allocated);
    assert_eq!(broker.store.requests()["end_claim"], requests, "renewal and release cancel the timers");
    sleep(HOUR).await;
    assert_eq!(broker.sandbox(&renewed.sandbox_id).status, Status::PendingDeletion);
}

/// The timer of the replica that allocated still fires after a renewal on another replica. Its write changes nothing (I5).
#[actix::test]
async fn a_renewal_on_another_replica_is_never_undone() {
    let broker = TestBroker::with_sandboxes(1).await;
    let other = broker.replica("replica-2").await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(HOUR).await;
    other.broker.allocator().renew(&claim.sandbox_id, &Owner::named(TrackId::new("t1")), None).await.unwrap();
    sleep(LAB + GRACE - HOUR + MINUTE).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
    broker.store.assert_consistent();
}

#[actix::test]
async fn the_sweep_ends_holdings_without_a_timer() {
    let broker = TestBroker::with_sandboxes(3).await;
    for track in ["t1", "t2", "t3"] {
        broker.allocate(track).await.unwrap();
    }
    // The replica that allocated them stops, and its timers with it.
    broker.broker.stop().await;
    sleep(LAB + GRACE - MINUTE).await;
    let successor = broker.replica("successor").await;
    assert_eq!(successor.broker.expire().await.unwrap().expired, 0, "not yet");
    sleep(MINUTE * 17).await;
    assert_eq!(successor.count(Status::Allocated), 0);
}

#[actix::test]
async fn an_allocation_ends_the_overdue_holding_of_its_key() {
    let broker = TestBroker::with_sandboxes(2).await;
    let first = broker.allocate("t1").await.unwrap().claim;
    broker.broker.pause(ActorName::ExpiryReaper, "test", "test").await.unwrap();
    sleep(LAB + GRACE + MINUTE).await;
    assert_eq!(broker.sandbox(&first.sandbox_id).status, Status::Allocated, "the reaper is paused");
    let second = broker.allocate("t1").await.unwrap();
    assert!(!second.replayed);
    assert_ne!(second.claim.sandbox_id, first.sandbox_id);
    assert_eq!(broker.sandbox(&first.sandbox_id).status, Status::PendingDeletion);
    broker.store.assert_consistent();
}
