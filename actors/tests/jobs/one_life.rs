//! One account serves one student in its life (I9), and only what a complete listing lacks is gone.

use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::{Clock as _, CspDeletion, SandboxStore as _};
use broker_actors::sandbox::{CspAccount, Owner, Sandbox, SandboxId, Status, Timestamp, TrackId};
use broker_actors::testing::{DeletionFault, FakeCsp, ModelStore, PausedClock, TestBroker};
use tokio::time::sleep;

use crate::fixtures::{HOUR, MINUTE, release};

/// I9, by the account: it is deleted again, and never offered, however often the CSP says that it is gone.
#[actix::test]
async fn an_account_that_is_listed_after_its_deletion_is_deleted_again() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    release(&broker, &claim).await;
    broker.csp.set_every_deletion_fault(Some(DeletionFault::Answers(CspDeletion::Deleted)));
    broker.broker.cleanup().await.unwrap();
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Deleted);
    assert_eq!(broker.broker.sync(SyncOptions::default()).await.unwrap().undead, 1);
    for hours in 1..60 {
        sleep(HOUR).await;
        let sandbox = broker.sandbox(&claim.sandbox_id);
        let is_safe = matches!(sandbox.status, Status::Deleted | Status::PendingDeletion);
        assert!(is_safe, "after {hours} h: {sandbox:?}");
        // The store removes tombstones whose TTL has passed.
        assert!(sandbox.ttl.is_none_or(|ttl| ttl > broker.clock.now()), "after {hours} h: {sandbox:?}");
    }
    let asked = broker.csp.deletes()[&claim.external_id];
    assert!((30..=60).contains(&asked), "about once an hour: {asked}");
    broker.csp.clear_faults();
    sleep(HOUR * 3).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Deleted);
    assert!(!broker.csp.accounts().contains(&claim.external_id));
}

#[actix::test]
async fn a_listed_tombstone_is_kept_and_written_rarely() {
    let mut settings = TestBroker::settings("replica-1");
    settings.sync.deleted_retention = MINUTE * 20;
    let broker = TestBroker::with_sandboxes_and(1, settings).await;
    let tombstone = Sandbox {
        status: Status::Deleted,
        deleted_at: Some(PausedClock::BEGIN),
        ttl: Some(PausedClock::BEGIN.plus(MINUTE * 20)),
        ..ModelStore::sandbox(2)
    };
    broker.store.create(&tombstone).await.unwrap();
    broker.csp.add(2);
    let mut writes = 0;
    for _ in 0..10 {
        let before = broker.sandbox(&tombstone.sandbox_id).epoch;
        sleep(MINUTE * 5).await;
        let after = broker.sandbox(&tombstone.sandbox_id);
        assert!(after.ttl.unwrap() > broker.clock.now());
        writes += u32::from(after.epoch != before);
    }
    assert!((3..=5).contains(&writes), "one write each time that half of the retention is over: {writes}");
}

#[actix::test]
async fn a_failed_deletion_is_confirmed_by_a_second_listing() {
    let broker = TestBroker::with_sandboxes(2).await;
    let failed = Sandbox { status: Status::DeletionFailed, ..ModelStore::sandbox(3) };
    broker.store.create(&failed).await.unwrap();
    let sync = async |broker: &TestBroker| broker.broker.sync(SyncOptions::default()).await.unwrap().confirmed_deleted;
    let status = || broker.sandbox(&failed.sandbox_id).status;
    assert_eq!((sync(&broker).await, status()), (0, Status::DeletionFailed), "the first listing that lacks it");
    broker.csp.add(3);
    assert_eq!(sync(&broker).await, 0);
    broker.csp.remove(3);
    assert_eq!((sync(&broker).await, status()), (0, Status::DeletionFailed), "it was listed in between");
    broker.csp.set_incomplete(true);
    assert_eq!((sync(&broker).await, status()), (0, Status::DeletionFailed), "an incomplete listing says nothing");
    broker.csp.set_incomplete(false);
    assert_eq!((sync(&broker).await, status()), (1, Status::Deleted));
}

#[actix::test]
async fn an_incomplete_listing_makes_nothing_stale() {
    type Fault = fn(&TestBroker);
    let faults: [(&str, Fault); 3] = [
        ("a page is missing", |broker| broker.csp.set_incomplete(true)),
        ("records with an id", |broker| (1..=3).for_each(|number| broker.csp.set_unreadable(number, true))),
        ("a record without an id", |broker| {
            broker.csp.remove(1);
            broker.csp.set_unreadable(2, false);
        }),
    ];
    for (name, fault) in faults {
        let broker = TestBroker::with_sandboxes(10).await;
        fault(&broker);
        for force in [false, true] {
            let report = broker.broker.sync(SyncOptions { dry_run: false, force }).await.unwrap();
            assert_eq!(report.marked_stale, 0, "{name}: {report:?}");
        }
        assert_eq!(broker.count(Status::Available), 10, "{name}");
        broker.csp.clear_faults();
        broker.csp.remove(1);
        assert_eq!(broker.broker.sync(SyncOptions::default()).await.unwrap().marked_stale, 1, "{name}");
        tokio::time::resume();
    }
}

/// I9: one account is one sandbox, whatever id it is listed under.
#[actix::test]
async fn an_account_under_another_id_is_not_a_second_sandbox() {
    let broker = TestBroker::with_sandboxes(3).await;
    let renumbered =
        |number: u32, other: &str| CspAccount { sandbox_id: SandboxId::new(other), ..FakeCsp::account(number) };
    let claim = broker.allocate("t1").await.unwrap().claim;
    release(&broker, &claim).await;
    // All accounts change their ids, whether their sandboxes are available or deleted.
    for number in 1..=3 {
        broker.csp.change(number, |account| account.sandbox_id = SandboxId::new((9_000_000 + number).to_string()));
    }
    broker.csp.set_every_deletion_fault(Some(DeletionFault::Answers(CspDeletion::Deleted)));
    broker.broker.cleanup().await.unwrap();
    let report = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((report.added, report.duplicates, report.undead, report.marked_stale), (0, 3, 1, 0), "{report:?}");
    assert_eq!(broker.store.sandboxes().len(), 3);
    // Two new records of one account in one listing.
    broker.csp.add_account(CspAccount { external_id: "identity/accounts/new".to_owned(), ..renumbered(4, "9000004") });
    let report = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((report.added, broker.store.sandboxes().len()), (1, 4));
}

#[actix::test]
async fn attributes_of_available_sandboxes_follow_the_listing() {
    let broker = TestBroker::with_sandboxes(3).await;
    let held = broker.allocate("t1").await.unwrap().claim;
    for number in 1..=3 {
        broker.csp.change(number, |account| {
            account.name = Some(format!("renamed-{number}"));
            account.sfdc_account_id = Some(format!("crm-{number}"));
        });
    }
    let report = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((report.refreshed, report.held_changed), (2, 1));
    for sandbox in broker.store.sandboxes() {
        let is_renamed = sandbox.name.starts_with("renamed") && sandbox.sfdc_account_id.is_some();
        assert_eq!(is_renamed, sandbox.sandbox_id != held.sandbox_id, "{sandbox:?}");
    }
    let again = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((again.refreshed, again.held_changed), (0, 1), "only differences are written");
    // What a listing does not say does not change.
    (1..=3)
        .for_each(|number| broker.csp.change(number, |account| (account.name, account.sfdc_account_id) = (None, None)));
    assert_eq!(broker.broker.sync(SyncOptions::default()).await.unwrap().refreshed, 0);
}

fn second_life(number: u32) -> String {
    format!("identity/accounts/second-{number}")
}

/// Another account gets the id of sandbox `number`.
fn replace_account(broker: &TestBroker, number: u32) {
    broker.csp.remove(number);
    broker.csp.add_account(CspAccount { external_id: second_life(number), ..FakeCsp::account(number) });
}

#[actix::test]
async fn an_available_sandbox_takes_over_the_account_that_replaced_its_own() {
    let broker = TestBroker::with_sandboxes(2).await;
    replace_account(&broker, 1);
    let report = broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!((report.refreshed, report.marked_stale), (1, 0));
    let sandbox = broker.sandbox(&ModelStore::sandbox(1).sandbox_id);
    assert_eq!((sandbox.status, sandbox.external_id), (Status::Available, second_life(1)));
}

/// The id is the student's, so the new account cannot be offered under it either. Both accounts go.
#[actix::test]
async fn a_held_sandbox_whose_account_was_replaced_has_both_deleted() {
    let broker = TestBroker::with_sandboxes(1).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    broker.csp.add(2);
    replace_account(&broker, 1);
    broker.broker.sync(SyncOptions::default()).await.unwrap();
    let held = broker.sandbox(&claim.sandbox_id);
    assert_eq!((held.status, held.gone_at_provider), (Status::Allocated, true));
    assert_eq!(broker.allocate("t1").await.unwrap().claim.sandbox_id, claim.sandbox_id, "a replay as before");
    broker.broker.allocator().renew(&claim.sandbox_id, &Owner::named(TrackId::new("t1")), None).await.unwrap();
    release(&broker, &claim).await;
    // The CSP says that both are deleted and keeps the new one.
    broker.csp.set_every_deletion_fault(Some(DeletionFault::Answers(CspDeletion::Deleted)));
    assert_eq!(broker.broker.cleanup().await.unwrap().failed, 1, "neither is believed while one is listed");
    broker.csp.clear_faults();
    sleep(MINUTE * 10).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Deleted);
    for external_id in [&claim.external_id, &second_life(1)] {
        assert!(broker.csp.was_deletion_requested(external_id), "{external_id}");
        assert!(!broker.csp.accounts().contains(external_id), "{external_id}");
    }
}

#[actix::test]
async fn a_replacement_that_appears_after_the_deletion_is_deleted_too() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    let number = claim.sandbox_id.as_str().parse::<u32>().unwrap() - 2_000_000;
    release(&broker, &claim).await;
    broker.broker.cleanup().await.unwrap();
    broker.csp.add_account(CspAccount { external_id: second_life(number), ..FakeCsp::account(number) });
    sleep(HOUR * 2).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Deleted);
    assert!(!broker.csp.accounts().contains(&second_life(number)));
}

#[actix::test]
async fn the_owner_learns_that_its_account_is_gone_and_that_it_is_back() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    let number = claim.sandbox_id.as_str().parse::<u32>().unwrap() - 2_000_000;
    let is_gone = async || {
        broker.broker.sync(SyncOptions::default()).await.unwrap();
        let owner = Owner::named(TrackId::new("t1"));
        broker.broker.allocator().read(&claim.sandbox_id, &owner).await.unwrap().gone_at_provider
    };
    assert!(!is_gone().await);
    broker.csp.remove(number);
    assert!(is_gone().await);
    let epoch = broker.sandbox(&claim.sandbox_id).epoch;
    assert!(is_gone().await);
    assert_eq!(broker.sandbox(&claim.sandbox_id).epoch, epoch, "only differences are written");
    broker.csp.add(number);
    assert!(!is_gone().await);
}

#[actix::test]
async fn an_account_is_not_offered_before_it_is_old_enough() {
    let mut settings = TestBroker::settings("replica-1");
    settings.sync.min_age = MINUTE * 10;
    let broker = TestBroker::with_sandboxes_and(0, settings).await;
    let replica = broker.replica("replica-2").await;
    broker.csp.add_account(CspAccount { created_at: Some(broker.clock.now()), ..FakeCsp::account(1) });
    broker.broker.sync(SyncOptions::default()).await.unwrap();
    sleep(MINUTE * 9).await;
    for broker in [&broker, &replica] {
        broker.allocate("t1").await.unwrap_err();
    }
    let stats = broker.broker.stats().await.unwrap();
    assert_eq!((stats.total, stats.available, stats.warming), (1, 0, 1));
    sleep(MINUTE * 2).await;
    let stats = broker.broker.stats().await.unwrap();
    assert_eq!((stats.total, stats.available, stats.warming), (1, 1, 0));
    broker.allocate("t1").await.unwrap();
    // An account whose age is unknown, or that is old, is offered at once.
    broker.csp.add(2);
    broker.csp.add_account(CspAccount { created_at: Some(Timestamp(1)), ..FakeCsp::account(3) });
    broker.broker.sync(SyncOptions::default()).await.unwrap();
    for track in ["t2", "t3"] {
        broker.allocate(track).await.unwrap();
    }
}
