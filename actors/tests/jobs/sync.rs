//! The csp-sync and the stale-collector.

use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::SandboxStore as _;
use broker_actors::sandbox::{Sandbox, Status};
use broker_actors::testing::{ModelStore, TestBroker};
use tokio::time::sleep;

use crate::fixtures::{HOUR, MINUTE};

#[actix::test]
async fn sandboxes_follow_the_listing_of_the_csp() {
    let broker = TestBroker::with_sandboxes(10).await;
    let id = ModelStore::sandbox(3).sandbox_id;
    broker.csp.remove(3);
    broker.csp.add(11);
    let dry = broker.broker.sync(SyncOptions { dry_run: true, force: false }).await.unwrap();
    assert_eq!((dry.added, dry.marked_stale, dry.dry_run), (1, 1, true));
    assert_eq!(broker.store.sandboxes().len(), 10, "a dry run writes nothing");
    sleep(MINUTE * 6).await;
    assert_eq!(broker.sandbox(&id).status, Status::Stale);
    assert_eq!(broker.count(Status::Available), 10);
    broker.csp.add(3);
    sleep(MINUTE * 6).await;
    assert_eq!(broker.sandbox(&id).status, Status::Available);
    broker.csp.remove(3);
    sleep(MINUTE * 6).await;
    // The collector runs once a day, so a day of grace may take two runs.
    sleep(HOUR * 49).await;
    assert_eq!(broker.sandbox(&id).status, Status::Deleted);
}

#[actix::test]
async fn a_sync_without_differences_writes_nothing() {
    let broker = TestBroker::with_sandboxes(10_000).await;
    let writes = |broker: &TestBroker| {
        let requests = broker.store.requests();
        ["create", "update", "claim", "end_claim"].map(|write| requests.get(write).copied().unwrap_or(0))
    };
    let before = writes(&broker);
    let report = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((report.synced, writes(&broker)), (10_000, before));
}

#[actix::test]
async fn the_mass_stale_guard_refuses_a_listing_that_lacks_too_many() {
    for (gone, is_refused) in [(5, false), (6, true), (10, true)] {
        let broker = TestBroker::with_sandboxes(10).await;
        (1..=gone).for_each(|number| broker.csp.remove(number));
        let synced = broker.broker.sync(SyncOptions::default()).await;
        assert_eq!(matches!(synced, Err(JobError::GuardRefused(_))), is_refused, "{gone} of 10: {synced:?}");
        let expected = if is_refused { 10 } else { 10 - gone as usize };
        assert_eq!(broker.count(Status::Available), expected, "{gone} of 10");
        if is_refused {
            broker.broker.sync(SyncOptions { dry_run: false, force: true }).await.unwrap();
            assert_eq!(broker.count(Status::Stale), gone as usize);
        }
        tokio::time::resume();
    }
}

#[actix::test]
async fn an_allocated_sandbox_that_is_missing_is_reported_and_not_changed() {
    let broker = TestBroker::with_sandboxes(10).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    (1..=10).filter(|number| ModelStore::sandbox(*number).sandbox_id == claim.sandbox_id).for_each(|number| {
        broker.csp.remove(number);
    });
    let report = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((report.allocated_missing, report.marked_stale), (1, 0));
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
}

#[actix::test]
async fn bulk_deletion_deletes_only_stale_and_failed_sandboxes() {
    let broker = TestBroker::with_sandboxes(0).await;
    for (number, status) in (1..).zip(Status::ALL) {
        broker.store.create(&Sandbox { status, ..ModelStore::sandbox(number) }).await.unwrap();
    }
    for status in Status::ALL {
        let deleted = broker.broker.admin().bulk_delete(status).await.unwrap().deleted;
        assert_eq!(deleted, u64::from(matches!(status, Status::Stale | Status::DeletionFailed)), "{status}");
    }
    assert_eq!(broker.csp.deletes().len(), 0, "the CSP is not called");
}
