//! Stored times of a clock that was wrong once, and negative entries of the cache: none of them may stop work or hide a
//! sandbox.

use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::{LeaseOutcome, LeaseRequest};
use broker_actors::sandbox::{ReplicaId, Status};
use broker_actors::testing::{PausedClock, TestBroker};
use tokio::time::sleep;

use crate::table::{Table, owner, request, sandbox};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400;

/// All jobs run while the clock is a day ahead. After it is put right, all of them go on.
#[actix_web::test]
async fn a_clock_that_was_ahead_once_stops_no_job() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(5);
    let mut settings = TestBroker::settings("replica-1");
    settings.sync_interval = MINUTE;
    settings.cleanup_interval = MINUTE;
    settings.expiry_interval = MINUTE;
    settings.stale_interval = MINUTE;
    let broker = table.broker_with(settings.clone()).await;
    table.clock.set_skew(DAY);
    sleep(MINUTE * 3).await;
    table.clock.set_skew(0);
    // Another replica, which starts only now, meets the same stored times.
    settings.replica = ReplicaId::new("replica-2");
    let other = table.broker_with(settings).await;
    sleep(MINUTE * 2).await;
    let last_runs = async || {
        let actors = broker.actors().await.unwrap();
        actors.into_iter().filter_map(|actor| Some((actor.name, actor.last_run?.started_at))).collect::<Vec<_>>()
    };
    let before = last_runs().await;
    assert_eq!(before.len(), 5, "the five jobs: {before:?}");
    sleep(MINUTE * 3).await;
    for ((name, earlier), (_, later)) in before.into_iter().zip(last_runs().await) {
        assert!(later > earlier, "{name} rests: {earlier:?}, {later:?}");
    }

    // A sandbox that becomes available is found by the next refresh, as ever.
    table.csp.add(6);
    broker.sync(SyncOptions::default()).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    let cached = async |broker: &broker_actors::broker::Broker| broker.pool_snapshot().await.unwrap().cached;
    assert!(cached(&broker).await == 6 || cached(&other).await == 6);
}

/// A replica whose clock was a day ahead dies with a lease and a heartbeat.
#[actix_web::test]
async fn a_dead_replica_whose_clock_was_ahead_holds_nothing() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(5);
    let dead = ReplicaId::new("dead");
    let ahead = PausedClock::BEGIN.plus(Duration::from_secs(DAY.unsigned_abs()));
    let until = ahead.plus(Duration::from_secs(30));
    let broker = table.broker("replica-1").await;
    sleep(MINUTE * 5 - Duration::from_secs(1)).await;
    let jobs = [ActorName::CspSync, ActorName::Cleanup, ActorName::PoolStats];
    for job in jobs {
        let request = LeaseRequest { job, holder: dead.clone(), until, stale: None, due: None };
        assert!(matches!(table.store.acquire_lease(&request).await.unwrap(), LeaseOutcome::Acquired(_)), "{job}");
    }
    table.store.heartbeat(&dead, ahead, until).await.unwrap();
    sleep(MINUTE * 2).await;
    for job in jobs {
        let lease = table.store.read_lease(job).await.unwrap().unwrap();
        assert_eq!(lease.holder.as_str(), "replica-1", "{job}");
    }
    let now = PausedClock::BEGIN.plus(MINUTE * 7);
    let listed =
        table.store.heartbeat(&ReplicaId::new("observer"), now, now.plus(Duration::from_secs(30))).await.unwrap();
    assert!(!listed.contains(&dead), "{listed:?}");
    drop(broker);
}

/// An operator's run with `force` needs no wait.
#[actix_web::test]
async fn an_operator_takes_a_lease_from_a_dead_holder_at_once() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(5);
    let broker = table.broker("replica-1").await;
    sleep(Duration::from_secs(5)).await;
    let (job, until) = (ActorName::CspSync, PausedClock::BEGIN.plus(Duration::from_secs(DAY.unsigned_abs())));
    let request = LeaseRequest { job, holder: ReplicaId::new("dead"), until, stale: None, due: None };
    table.store.acquire_lease(&request).await.unwrap();
    assert!(broker.run(job, false).await.is_err());
    broker.run(job, true).await.unwrap();
}

/// A table that is emptied by hand and filled again offers all sandboxes, whatever this replica knows of their former
/// lives: claimed, released, found gone.
#[actix_web::test]
async fn a_sandbox_that_is_made_again_is_offered() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(5);
    let broker = table.broker("replica-1").await;
    sleep(Duration::from_secs(5)).await;
    for life in 0..3 {
        for number in 0..4 {
            let claim = broker.allocator().allocate(request(&format!("t{life}-{number}"))).await.unwrap().claim;
            if number == 0 {
                broker.allocator().release(&claim.sandbox_id, &owner(&format!("t{life}-0"))).await.unwrap();
            }
        }
        table.empty().await;
        // The fifth is still in the cache, and found gone.
        assert!(broker.allocator().allocate(request(&format!("t{life}-none"))).await.is_err());
        let report = broker.sync(SyncOptions::default()).await.unwrap();
        assert_eq!(report.added, 5);
        sleep(Duration::from_secs(2)).await;
        for number in 0..5 {
            let track = format!("again{life}-{number}");
            let claim = broker.allocator().allocate(request(&track)).await.unwrap().claim;
            broker.allocator().release(&claim.sandbox_id, &owner(&track)).await.unwrap();
        }
        table.empty().await;
        broker.sync(SyncOptions::default()).await.unwrap();
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(table.store.get(&sandbox(1).sandbox_id).await.unwrap().unwrap().status, Status::Available);
}

/// The same with an epoch that is not later, as a restored table has: after a minute the transaction decides.
#[actix_web::test]
async fn a_restored_sandbox_is_offered_after_a_minute() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(5);
    let broker = table.broker("replica-1").await;
    sleep(Duration::from_secs(5)).await;
    for number in 0..5 {
        broker.allocator().allocate(request(&format!("t{number}"))).await.unwrap();
    }
    table.empty().await;
    for number in 1..=5 {
        table.repair(&sandbox(number)).await;
    }
    sleep(MINUTE * 2).await;
    for number in 0..5 {
        broker.allocator().allocate(request(&format!("again{number}"))).await.unwrap();
    }
}
