//! The background jobs and their driver, under a paused clock.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::actor::{Activity, ActorName, DesiredState};
use broker_actors::error::cause;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::{Coordination as _, CspError, JobLease, LeaseOutcome, LeaseRequest, SandboxStore as _};
use broker_actors::sandbox::{ReplicaId, Sandbox, Status, Timestamp, TrackId};
use broker_actors::testing::{FakeCsp, Fault, ModelStore, PausedClock, TestBroker};
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const LAB: Duration = Duration::from_secs(4 * 3600);
const GRACE: Duration = Duration::from_secs(1800);

async fn release(broker: &TestBroker, claim: &broker_actors::sandbox::Claim) {
    broker.broker.allocator().release(&claim.sandbox_id, &claim.claim_key.track).await.unwrap();
}

/// A broker with one sandbox that waits for its deletion.
async fn with_one_pending() -> (TestBroker, Sandbox) {
    let broker = TestBroker::with_sandboxes(1).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    release(&broker, &claim).await;
    let sandbox = broker.sandbox(&claim.sandbox_id);
    (broker, sandbox)
}

fn down() -> Option<CspError> {
    Some(CspError::Unavailable(cause("down")))
}

// ---- expiry

#[actix::test]
async fn a_holding_ends_on_time() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(LAB + GRACE - Duration::from_secs(2)).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::PendingDeletion, "within a second of its time");
    assert!(broker.store.claims().is_empty());
    assert!(!broker.allocate("t1").await.unwrap().replayed, "the key is free");
}

#[actix::test]
async fn a_renewed_or_released_holding_is_not_ended_by_the_old_timer() {
    let broker = TestBroker::with_sandboxes(2).await;
    let renewed = broker.allocate("renewed").await.unwrap().claim;
    let released = broker.allocate("released").await.unwrap().claim;
    sleep(HOUR).await;
    broker.broker.allocator().renew(&renewed.sandbox_id, &TrackId::new("renewed")).await.unwrap();
    release(&broker, &released).await;
    let requests = broker.store.requests()["end_claim"];
    sleep(LAB + GRACE - HOUR + MINUTE).await;
    assert_eq!(broker.sandbox(&renewed.sandbox_id).status, Status::Allocated);
    assert_eq!(broker.store.requests()["end_claim"], requests, "the timers were told");
    sleep(HOUR).await;
    assert_eq!(broker.sandbox(&renewed.sandbox_id).status, Status::PendingDeletion);
}

/// The renewal happened on another replica, so this one's timer fires, and its write changes nothing (I5).
#[actix::test]
async fn a_renewal_on_another_replica_is_never_undone() {
    let broker = TestBroker::with_sandboxes(1).await;
    let other = broker.replica("replica-2").await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(HOUR).await;
    other.broker.allocator().renew(&claim.sandbox_id, &TrackId::new("t1")).await.unwrap();
    sleep(LAB + GRACE - HOUR + MINUTE).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
    broker.store.assert_consistent();
}

#[actix::test]
async fn the_sweep_ends_what_no_timer_knows() {
    let broker = TestBroker::with_sandboxes(3).await;
    for track in ["t1", "t2", "t3"] {
        broker.allocate(track).await.unwrap();
    }
    // The replica that allocated them is gone, with its timers.
    broker.broker.stop().await;
    sleep(LAB + GRACE - MINUTE).await;
    let heir = broker.replica("heir").await;
    assert_eq!(heir.broker.expire().await.unwrap().expired, 0, "not yet");
    sleep(MINUTE * 17).await;
    assert_eq!(heir.count(Status::Allocated), 0);
}

#[actix::test]
async fn an_overdue_holding_is_ended_by_its_own_track_asking_again() {
    let broker = TestBroker::with_sandboxes(2).await;
    let first = broker.allocate("t1").await.unwrap().claim;
    broker.broker.pause(ActorName::ExpiryReaper, "test", "test").await.unwrap();
    sleep(LAB + GRACE + MINUTE).await;
    assert_eq!(broker.sandbox(&first.sandbox_id).status, Status::Allocated, "the reaper rests");
    let second = broker.allocate("t1").await.unwrap();
    assert!(!second.replayed);
    assert_ne!(second.claim.sandbox_id, first.sandbox_id);
    assert_eq!(broker.sandbox(&first.sandbox_id).status, Status::PendingDeletion);
    broker.store.assert_consistent();
}

// ---- cleanup

#[actix::test]
async fn a_released_sandbox_is_deleted_and_stays_a_tombstone() {
    let (broker, sandbox) = with_one_pending().await;
    sleep(MINUTE * 6).await;
    let tombstone = broker.sandbox(&sandbox.sandbox_id);
    assert_eq!(tombstone.status, Status::Deleted);
    assert_eq!(tombstone.ttl.unwrap().since(tombstone.updated_at), Duration::from_secs(86_400));
    assert_eq!(broker.csp.deletes()[&sandbox.external_id], 1);
    // The CSP's listing lags behind its own delete: the tombstone stays one.
    broker.csp.add(1);
    broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted);
}

#[actix::test]
async fn deletion_is_tried_again_later_and_later_and_then_given_up() {
    let (broker, sandbox) = with_one_pending().await;
    broker.csp.set_bad(1, Some(CspError::BadAnswer(cause("HTTP 409"))));
    let mut waits = Vec::new();
    for attempt in 1..=2 {
        assert_eq!(broker.broker.cleanup().await.unwrap().failed, 1);
        let failed = broker.sandbox(&sandbox.sandbox_id);
        assert_eq!((failed.status, failed.deletion_retry_count), (Status::PendingDeletion, attempt));
        assert!(failed.last_error.as_ref().unwrap().contains("409"));
        let wait = failed.next_attempt_at.unwrap().since(failed.updated_at);
        assert_eq!(broker.broker.cleanup().await.unwrap().waiting, 1, "not before its time");
        waits.push(wait);
        sleep(wait).await;
    }
    assert!(waits[0] >= Duration::from_secs(30) && waits[1] >= Duration::from_secs(60), "{waits:?}");
    let report = broker.broker.cleanup().await;
    let given_up = broker.sandbox(&sandbox.sandbox_id);
    assert_eq!(given_up.status, Status::DeletionFailed, "{report:?}");
    assert_eq!(broker.csp.deletes()[&sandbox.external_id], 3);

    broker.csp.set_bad(1, None);
    let retried = broker.broker.admin().retry_deletion(&sandbox.sandbox_id).await.unwrap();
    assert_eq!((retried.status, retried.deletion_retry_count), (Status::PendingDeletion, 0));
    broker.broker.cleanup().await.unwrap();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted);
}

#[actix::test]
async fn one_bad_sandbox_delays_no_other() {
    let broker = TestBroker::with_sandboxes(20).await;
    for track in 0..20 {
        let claim = broker.allocate(&format!("t{track}")).await.unwrap().claim;
        release(&broker, &claim).await;
    }
    broker.csp.set_bad(1, Some(CspError::BadAnswer(cause("HTTP 409"))));
    let report = broker.broker.cleanup().await.unwrap();
    assert_eq!((report.deleted, report.failed), (19, 1));
}

#[actix::test]
async fn a_throttling_csp_is_given_the_time_it_asks_for_and_uses_up_no_attempts() {
    let (broker, sandbox) = with_one_pending().await;
    broker.csp.fail_next(CspError::Throttled { retry_after: Some(MINUTE * 7) });
    broker.broker.cleanup().await.unwrap();
    let waiting = broker.sandbox(&sandbox.sandbox_id);
    assert_eq!(waiting.deletion_retry_count, 0);
    assert_eq!(waiting.next_attempt_at.unwrap().since(waiting.updated_at), MINUTE * 7);
    sleep(MINUTE * 13).await;
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted);
}

#[actix::test]
async fn an_open_breaker_skips_the_run_and_says_so() {
    let (broker, sandbox) = with_one_pending().await;
    broker.csp.set_down(down());
    for _ in 0..5 {
        broker.broker.sync(SyncOptions::default()).await.unwrap_err();
    }
    let skipped = broker.broker.cleanup().await;
    assert!(matches!(skipped, Err(JobError::Csp(CspError::BreakerOpen { .. }))), "{skipped:?}");
    assert_eq!(broker.sandbox(&sandbox.sandbox_id), sandbox, "nothing was used up");
    let status = broker.broker.actor(ActorName::Cleanup).await.unwrap();
    assert!(status.last_run.unwrap().error.unwrap().contains("circuit breaker"));
    assert_eq!(status.details.unwrap()["circuit_breaker"]["state"], "open");
}

/// The CSP deleted it, but the broker died before it could write that down.
#[actix::test]
async fn a_deletion_that_was_not_written_down_is_found_out() {
    let (broker, sandbox) = with_one_pending().await;
    broker.store.fail_next("update", Fault::LostRequest);
    broker.broker.cleanup().await.unwrap_err();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::PendingDeletion);
    broker.broker.cleanup().await.unwrap();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted, "404 counts as deleted");
}

#[actix::test]
async fn ten_thousand_are_worked_off_in_pages_with_bounded_concurrency() {
    let broker = TestBroker::with_sandboxes(0).await;
    let now = PausedClock::BEGIN;
    for number in 1..=10_000 {
        broker.csp.add(number);
        let pending = Sandbox {
            status: Status::PendingDeletion,
            deletion_requested_at: Some(now),
            ..ModelStore::sandbox(number)
        };
        assert!(broker.store.create(&pending).await.unwrap());
    }
    broker.csp.set_delay(Duration::from_millis(100));
    let began = tokio::time::Instant::now();
    assert_eq!(broker.broker.cleanup().await.unwrap().deleted, 10_000);
    assert_eq!(broker.count(Status::Deleted), 10_000);
    assert!(began.elapsed() >= Duration::from_secs(250), "4 at a time, each 100 ms: {:?}", began.elapsed());
}

#[actix::test]
async fn a_delay_bounds_the_rate_of_deletions() {
    tokio::time::pause();
    let mut settings = TestBroker::settings("replica-1");
    settings.cleanup.delay = Duration::from_secs(10);
    settings.cleanup.concurrency = 2;
    let (csp, clock) = (Arc::new(FakeCsp::with_accounts(10)), Arc::new(PausedClock::new()));
    let broker = TestBroker::start(ModelStore::with_sandboxes(10), csp, clock, settings).await;
    sleep(Duration::from_secs(1)).await;
    for track in 0..10 {
        let claim = broker.allocate(&format!("t{track}")).await.unwrap().claim;
        release(&broker, &claim).await;
    }
    let began = tokio::time::Instant::now();
    assert_eq!(broker.broker.cleanup().await.unwrap().deleted, 10);
    assert_eq!(began.elapsed().as_secs(), 50, "two at a time, each after ten seconds");
}

#[actix::test]
async fn a_pause_in_the_middle_of_a_run_ends_it_between_two_sandboxes() {
    let broker = TestBroker::with_sandboxes(100).await;
    for track in 0..100 {
        let claim = broker.allocate(&format!("t{track}")).await.unwrap().claim;
        release(&broker, &claim).await;
    }
    broker.csp.set_delay(Duration::from_secs(1));
    let run = actix::spawn({
        let broker = broker.broker.clone();
        async move { broker.cleanup().await }
    });
    sleep(Duration::from_millis(5500)).await;
    let paused = broker.broker.pause(ActorName::Cleanup, "freeze", "ops").await.unwrap();
    assert_eq!(paused.desired_state, DesiredState::Paused);
    let report = run.await.unwrap().expect("what was done is reported");
    assert!((20..=28).contains(&report.deleted), "{report:?}");
    assert_eq!(broker.count(Status::Deleted) as u64, report.deleted, "what was begun was ended");
    sleep(HOUR).await;
    assert_eq!(broker.count(Status::Deleted) as u64, report.deleted, "at rest");
    broker.broker.resume(ActorName::Cleanup, "ops").await.unwrap();
    sleep(MINUTE * 10).await;
    assert_eq!(broker.count(Status::Deleted), 100);
    assert!(broker.csp.deletes().values().all(|times| *times == 1), "each exactly once");
}

// ---- sync and the stale collector

#[actix::test]
async fn sandboxes_come_go_and_come_back_with_the_csps_listing() {
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
    // The collector looks once a day, so it may take two days until the grace period is over at a look.
    sleep(HOUR * 49).await;
    assert_eq!(broker.sandbox(&id).status, Status::Deleted);
}

#[actix::test]
async fn a_steady_pool_costs_no_writes() {
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
async fn the_guard_refuses_a_listing_that_takes_too_much_away() {
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
async fn an_allocated_sandbox_that_vanished_is_reported_and_left_alone() {
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
async fn bulk_deletion_takes_stale_and_failed_ones_only() {
    let broker = TestBroker::with_sandboxes(0).await;
    for (number, status) in (1..).zip(Status::ALL) {
        broker.store.create(&Sandbox { status, ..ModelStore::sandbox(number) }).await.unwrap();
    }
    for status in Status::ALL {
        let deleted = broker.broker.admin().bulk_delete(status).await.unwrap().deleted;
        assert_eq!(deleted, u64::from(matches!(status, Status::Stale | Status::DeletionFailed)), "{status}");
    }
    assert_eq!(broker.csp.deletes().len(), 0, "without a call to the CSP");
}

// ---- the driver

fn lease_request(holder: &str, until: Timestamp, stale: Option<JobLease>) -> LeaseRequest {
    LeaseRequest { job: ActorName::CspSync, holder: ReplicaId::new(holder), until, stale, due: None }
}

#[actix::test]
async fn over_all_replicas_a_job_runs_once_in_its_interval() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.replica("replica-2").await;
    broker.replica("replica-3").await;
    sleep(Duration::from_secs(1)).await;
    let before = broker.csp.lists();
    sleep(MINUTE * 50).await;
    let lists = broker.csp.lists() - before;
    assert!((9..=10).contains(&lists), "{lists} listings in ten intervals");
}

#[actix::test]
async fn a_dead_leader_is_replaced_within_the_lease() {
    let broker = TestBroker::with_sandboxes(5).await;
    // A replica that took the lease and died with it in its hands.
    let until = Timestamp(PausedClock::BEGIN.0 + 331);
    sleep(MINUTE * 5 - Duration::from_secs(1)).await;
    let taken = broker.store.acquire_lease(&lease_request("dead", until, None)).await.unwrap();
    assert!(matches!(taken, LeaseOutcome::Acquired(_)), "{taken:?}");
    let before = broker.csp.lists();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(broker.csp.lists(), before, "while the lease lasts no one runs the job");
    assert_eq!(broker.broker.actor(ActorName::CspSync).await.unwrap().leader, Some(ReplicaId::new("dead")));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(broker.csp.lists(), before + 1, "taken over");
    assert_eq!(broker.broker.actor(ActorName::CspSync).await.unwrap().leader, Some(ReplicaId::new("replica-1")));
}

#[actix::test]
async fn a_long_run_keeps_its_lease() {
    let broker = TestBroker::with_sandboxes(5).await;
    let other = broker.replica("replica-2").await;
    broker.csp.set_delay(MINUTE * 10);
    let run = actix::spawn({
        let broker = broker.broker.clone();
        async move { broker.sync(SyncOptions::default()).await }
    });
    sleep(MINUTE * 9).await;
    let refused = other.broker.sync(SyncOptions::default()).await;
    assert!(matches!(&refused, Err(JobError::Busy { holder }) if holder.as_str() == "replica-1"), "{refused:?}");
    run.await.unwrap().unwrap();
}

#[actix::test]
async fn a_run_whose_lease_is_lost_is_broken_off() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.set_delay(MINUTE * 10);
    let run = actix::spawn({
        let broker = broker.broker.clone();
        async move { broker.sync(SyncOptions::default()).await }
    });
    sleep(Duration::from_secs(1)).await;
    // Another replica believes that the lease has expired: its clock is an hour ahead.
    let ahead = Timestamp(PausedClock::BEGIN.0 + 3600);
    let thief = ReplicaId::new("thief");
    let held = broker.store.read_lease(ActorName::CspSync).await.unwrap();
    broker.store.acquire_lease(&lease_request("thief", Timestamp(ahead.0 + 30), held)).await.unwrap();
    assert!(matches!(run.await.unwrap(), Err(JobError::LeaseLost)));
    let lease: JobLease = broker.store.read_lease(ActorName::CspSync).await.unwrap().unwrap();
    assert_eq!(lease.holder, thief, "the thief's lease was not given back by the loser");
}

#[actix::test]
async fn a_store_that_fails_during_a_run_is_reported_and_the_job_runs_again() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.add(6);
    broker.store.fail_next("create", Fault::LostRequest);
    assert!(matches!(broker.broker.sync(SyncOptions::default()).await, Err(JobError::Store(_))));
    let status = broker.broker.actor(ActorName::CspSync).await.unwrap();
    assert!(status.last_run.unwrap().error.unwrap().contains("unknown"));
    sleep(MINUTE * 6).await;
    assert_eq!(broker.count(Status::Available), 6);
}

#[actix::test]
async fn a_panicking_run_is_reported_and_the_job_runs_again() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.panic_next();
    let panicked = broker.broker.sync(SyncOptions::default()).await;
    assert!(
        matches!(&panicked, Err(JobError::Panicked(message)) if message.contains("as the test asked")),
        "{panicked:?}"
    );
    let status = broker.broker.actor(ActorName::CspSync).await.unwrap();
    assert_eq!(status.status, Activity::Idle);
    assert!(status.last_run.unwrap().error.unwrap().contains("panicked"));
    let before = broker.csp.lists();
    sleep(MINUTE * 6).await;
    assert_eq!(broker.csp.lists(), before + 1);
}

#[actix::test]
async fn a_dead_actor_fails_readiness_and_is_reported_for_the_process_to_end() {
    let broker = TestBroker::with_sandboxes(5).await;
    let is_ready = async || broker.broker.checks().await.iter().all(|(_, check)| check.is_ok());
    assert!(is_ready().await);
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(LAB + GRACE - Duration::from_millis(500)).await;
    // The next to ask is the actor of the expiry timers, in its own handler.
    broker.clock.panic_next();
    let died = tokio::time::timeout(MINUTE, broker.broker.first_failure()).await.expect("the death is noticed");
    assert_eq!(died, "expiry timers");
    assert!(!is_ready().await);
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
}

#[actix::test]
async fn activations_during_a_run_are_joined_into_one() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.set_delay(Duration::from_secs(5));
    let before = broker.csp.lists();
    let runs: Vec<_> = (0..10)
        .map(|_| {
            let broker = broker.broker.clone();
            actix::spawn(async move { broker.sync(SyncOptions::default()).await })
        })
        .collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    assert_eq!(broker.csp.lists() - before, 2, "the first, and one for all who asked meanwhile");
}

#[actix::test]
async fn pause_reaches_every_replica_and_outlives_restarts() {
    let broker = TestBroker::with_sandboxes(5).await;
    let other = broker.replica("replica-2").await;
    broker.broker.pause(ActorName::CspSync, "maintenance", "ops").await.unwrap();
    broker.broker.pause(ActorName::PoolManager, "maintenance", "ops").await.unwrap();
    sleep(Duration::from_secs(5)).await;
    for replica in [&broker, &other, &broker.replica("newborn").await] {
        let status = replica.broker.actor(ActorName::CspSync).await.unwrap();
        assert_eq!((status.status, status.desired_state), (Activity::Paused, DesiredState::Paused));
        assert_eq!(status.control.unwrap().reason, "maintenance");
        assert!(matches!(replica.broker.sync(SyncOptions::default()).await, Err(JobError::Paused)));
        assert!(replica.allocate("t").await.is_err());
    }
    let before = broker.csp.lists();
    sleep(HOUR).await;
    assert_eq!(broker.csp.lists(), before, "nobody syncs");
    other.broker.resume(ActorName::CspSync, "ops").await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(broker.csp.lists(), before + 1, "whoever comes first runs what is overdue");
}

/// A replica whose clock is behind can still overrule what was said by one whose clock is ahead.
#[actix::test]
async fn the_last_word_counts_whatever_the_clocks_say() {
    let broker = TestBroker::with_sandboxes(1).await;
    broker.clock.set_skew(3600);
    broker.broker.pause(ActorName::Cleanup, "by the one that is ahead", "ops").await.unwrap();
    broker.clock.set_skew(0);
    let resumed = broker.broker.resume(ActorName::Cleanup, "ops").await.unwrap();
    assert_eq!(resumed.desired_state, DesiredState::Running);
}

#[actix::test]
async fn stopping_gives_leases_back_and_ends_the_run_under_way() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.set_delay(HOUR);
    let run = actix::spawn({
        let broker = broker.broker.clone();
        async move { broker.sync(SyncOptions::default()).await }
    });
    sleep(Duration::from_secs(1)).await;
    let began = tokio::time::Instant::now();
    broker.broker.stop().await;
    assert!(began.elapsed() <= Duration::from_secs(7), "{:?}", began.elapsed());
    assert!(matches!(run.await.unwrap(), Err(JobError::CutOff { .. })));
    let lease = broker.store.read_lease(ActorName::CspSync).await.unwrap().unwrap();
    assert_eq!(lease.expires_at, Timestamp(0), "given back");
}

#[actix::test]
async fn a_store_that_is_down_at_the_start_is_an_error() {
    tokio::time::pause();
    let store = ModelStore::with_sandboxes(1);
    store.set_down(true);
    let csp = Arc::new(FakeCsp::default());
    let ports = broker_actors::start::Ports { store: Arc::new(store), csp, clock: Arc::new(PausedClock::new()) };
    let here = actix::Arbiter::current();
    let started = broker_actors::broker::Broker::start(ports, TestBroker::settings("r"), &here, &here).await;
    assert!(started.is_err());
}
