//! Cleanup: deletion at the CSP, its answers, retries, concurrency, pace, pause.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_actors::actor::{ActorName, DesiredState};
use broker_actors::breaker::BreakerState;
use broker_actors::broker::Broker;
use broker_actors::error::cause;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::jobs::pace::Gap;
use broker_actors::ports::{CspDeletion, CspError, PreDelete, PreDeleteError, Prepared, SandboxStore as _};
use broker_actors::sandbox::{Sandbox, Status};
use broker_actors::start::Ports;
use broker_actors::testing::{DeletionFault, FakeCsp, Fault, ModelStore, PausedClock, TestBroker};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::fixtures::{HOUR, MINUTE, allocate_and_release, down, release, with_one_pending, with_one_pending_on};

#[actix::test]
async fn a_released_sandbox_is_deleted_and_stays_a_tombstone() {
    let (broker, sandbox) = with_one_pending().await;
    sleep(MINUTE * 6).await;
    let tombstone = broker.sandbox(&sandbox.sandbox_id);
    assert_eq!(tombstone.status, Status::Deleted);
    assert_eq!(tombstone.ttl.unwrap().since(tombstone.updated_at), Duration::from_secs(86_400));
    assert_eq!(broker.csp.deletes()[&sandbox.external_id], 1);
    // The CSP's listing lags behind its own deletion.
    broker.csp.add(1);
    broker.broker.sync(SyncOptions::default()).await.unwrap();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted);
}

/// Attempts at most an hour apart, until a day has passed.
#[actix::test]
async fn a_deletion_is_retried_with_growing_delays_and_given_up_after_a_day() {
    let (broker, sandbox) = with_one_pending().await;
    broker.csp.set_deletion_error(1, Some(down()));
    let (mut waits, mut attempts) = (Vec::new(), 0);
    let started = Instant::now();
    loop {
        let report = broker.broker.cleanup().await;
        let pending = broker.sandbox(&sandbox.sandbox_id);
        if pending.status == Status::DeletionFailed {
            break;
        }
        assert!(started.elapsed() < HOUR * 26, "{report:?}");
        if report.is_ok_and(|report| report.failed == 1) {
            attempts += 1;
            assert_eq!((pending.status, pending.deletion_retry_count), (Status::PendingDeletion, attempts));
            assert!(pending.last_error.as_ref().unwrap().contains("down"));
            waits.push(pending.next_attempt_at.unwrap().since(pending.updated_at));
            assert_eq!(broker.broker.cleanup().await.unwrap().waiting, 1, "it waits for the next attempt");
        }
        sleep(waits.last().copied().unwrap_or(MINUTE)).await;
    }
    assert!(started.elapsed() >= HOUR * 24);
    assert!(waits[0] >= MINUTE / 2 && waits[1] >= MINUTE, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= HOUR * 3 / 2), "{waits:?}");

    let asked = broker.csp.deletes()[&sandbox.external_id];
    sleep(HOUR * 23).await;
    assert_eq!(broker.csp.deletes()[&sandbox.external_id], asked, "one attempt a day");
    sleep(HOUR * 2).await;
    assert_eq!(broker.csp.deletes()[&sandbox.external_id], asked + 1);
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::DeletionFailed);
    broker.csp.set_deletion_error(1, None);
    sleep(HOUR * 25).await;
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted, "without an operator");
}

#[actix::test]
async fn an_operator_has_a_given_up_deletion_retried_at_once() {
    let mut settings = TestBroker::settings("replica-1");
    settings.cleanup.max_attempts = 1;
    let (broker, sandbox) = with_one_pending_on(settings).await;
    broker.csp.set_deletion_error(1, Some(down()));
    assert_eq!(broker.broker.cleanup().await.unwrap().gave_up, 1);
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::DeletionFailed, "the upper bound of attempts");
    broker.csp.set_deletion_error(1, None);
    let retried = broker.broker.admin().retry_deletion(&sandbox.sandbox_id, "ops").await.unwrap();
    assert_eq!((retried.status, retried.deletion_retry_count), (Status::PendingDeletion, 0));
    broker.broker.cleanup().await.unwrap();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted);
}

/// A gateway without a backend answers every path with 404, and a wrong base URL does too.
#[actix::test]
async fn not_found_counts_only_if_the_listing_lacks_the_account() {
    for (fault, is_listing_down, has_problem) in [
        (DeletionFault::Answers(CspDeletion::AlreadyGone), false, true),
        (DeletionFault::Answers(CspDeletion::AlreadyGone), true, true),
        (DeletionFault::Fails(CspError::ForeignNotFound(cause("HTTP 404"))), false, true),
        (DeletionFault::Fails(CspError::BadAnswer(cause("HTTP 301"))), false, false),
    ] {
        let broker = TestBroker::with_sandboxes(3).await;
        allocate_and_release(&broker, 3).await;
        broker.csp.set_every_deletion_fault(Some(fault.clone()));
        broker.csp.set_incomplete(is_listing_down);
        let report = broker.broker.cleanup().await.unwrap();
        assert_eq!((report.deleted, report.failed), (0, 3), "{fault:?}");
        let problem = report.problem.is_some_and(|problem| problem.contains("CSP_BASE_URL"));
        assert_eq!(problem, has_problem, "{fault:?}");
        assert_eq!(broker.count(Status::PendingDeletion), 3, "{fault:?}");
        broker.csp.clear_faults();
        sleep(MINUTE * 10).await;
        assert_eq!(broker.count(Status::Deleted), 3, "{fault:?}");
        assert!(broker.csp.accounts().is_empty());
        tokio::time::resume();
    }
}

/// Four accounts that the CSP does not let go of stop no others, and the token is not blamed.
#[actix::test]
async fn forbidden_deletions_concern_their_sandboxes_unless_all_are_forbidden() {
    let broker = TestBroker::with_sandboxes(20).await;
    allocate_and_release(&broker, 20).await;
    let forbidden = || Some(CspError::Refused { status: 403, answer: cause("HTTP 403: locked") });
    (1..=4).for_each(|number| broker.csp.set_deletion_error(number, forbidden()));
    let report = broker.broker.cleanup().await.unwrap();
    assert_eq!((report.deleted, report.failed, report.problem), (16, 4, None));
    let failed = broker.store.sandboxes().into_iter().find(|sandbox| sandbox.status == Status::PendingDeletion);
    assert!(failed.unwrap().last_error.unwrap().contains("locked"));
    sleep(MINUTE * 2).await;
    let report = broker.broker.cleanup().await.unwrap();
    assert_eq!(report.failed, 4, "{report:?}");
    assert!(report.problem.unwrap().contains("CSP_API_TOKEN"), "all of a run are forbidden");
}

#[actix::test]
async fn a_deletion_that_is_only_accepted_is_asked_for_until_the_account_is_gone() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    release(&broker, &claim).await;
    broker.csp.set_every_deletion_fault(Some(DeletionFault::Answers(CspDeletion::Accepted)));
    let report = broker.broker.cleanup().await.unwrap();
    assert_eq!((report.accepted, report.deleted), (1, 0));
    sleep(HOUR * 30).await;
    let pending = broker.sandbox(&claim.sandbox_id);
    assert_eq!((pending.status, pending.deletion_retry_count), (Status::PendingDeletion, 0), "no failure");
    assert!(broker.csp.deletes()[&claim.external_id] < 60, "it is asked less and less often");
    broker.csp.clear_faults();
    sleep(HOUR * 2).await;
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Deleted);
}

#[actix::test]
async fn a_rejected_token_ends_the_run_and_counts_no_attempt() {
    let broker = TestBroker::with_sandboxes(20).await;
    allocate_and_release(&broker, 20).await;
    broker.csp.set_every_deletion_fault(Some(DeletionFault::Fails(CspError::Unauthorized { status: 401 })));
    broker.broker.cleanup().await.unwrap_err();
    assert!(broker.csp.deletes().len() <= 4, "those in flight");
    assert!(broker.store.sandboxes().iter().all(|sandbox| sandbox.deletion_retry_count == 0));
    broker.csp.clear_faults();
    sleep(MINUTE * 2).await;
    assert_eq!(broker.count(Status::Deleted), 20, "a failed run is repeated before the interval is over");
}

/// The probe is the breaker's own, so that what operators see of it is true while no job runs.
#[actix::test]
async fn an_open_breaker_probes_the_csp_by_itself() {
    let broker = TestBroker::with_sandboxes(1).await;
    for actor in [ActorName::CspSync, ActorName::Cleanup] {
        broker.broker.pause(actor, "test", "ops").await.unwrap();
    }
    broker.csp.set_down(Some(down()));
    for _ in 0..5 {
        broker.broker.sync(SyncOptions { dry_run: true, force: false }).await.unwrap_err();
    }
    let state = || broker.broker.circuit_breaker().state;
    assert_eq!(state(), BreakerState::Open);
    let before = broker.csp.lists();
    sleep(MINUTE * 5 + MINUTE / 2).await;
    assert_eq!((state(), broker.csp.lists()), (BreakerState::Open, before + 5));
    broker.csp.set_down(None);
    sleep(MINUTE).await;
    assert_eq!(state(), BreakerState::Closed);
}

/// A step that fails for some sandboxes.
struct Step {
    prepared: Mutex<Vec<String>>,
    fails: bool,
}

#[async_trait]
impl PreDelete for Step {
    async fn prepare(&self, sandbox: &Sandbox) -> Result<Prepared, PreDeleteError> {
        self.prepared.lock().push(sandbox.external_id.clone());
        if self.fails { Err(PreDeleteError(cause("wrong password"))) } else { Ok(Prepared::Cleaned) }
    }
}

#[actix::test]
async fn the_step_before_a_deletion_is_done_once_and_never_stops_it() {
    for fails in [false, true] {
        tokio::time::pause();
        let step = Arc::new(Step { prepared: Mutex::default(), fails });
        let (store, csp) = (ModelStore::with_sandboxes(2), Arc::new(FakeCsp::with_accounts(2)));
        let clock = Arc::new(PausedClock::new());
        let ports = Ports {
            store: Arc::new(store.clone()),
            csp: csp.clone(),
            pre_delete: Some(step.clone()),
            clock: clock.clone(),
        };
        let here = actix::Arbiter::current();
        let broker = Broker::start(ports, TestBroker::settings("replica-1"), &here, &here).await.unwrap();
        let broker = TestBroker { broker, store, csp, clock };
        sleep(Duration::from_secs(1)).await;
        let claim = broker.allocate("t1").await.unwrap().claim;
        release(&broker, &claim).await;
        broker.csp.set_every_deletion_fault(Some(DeletionFault::Fails(down())));
        broker.broker.cleanup().await.unwrap();
        assert_eq!(broker.sandbox(&claim.sandbox_id).niosxaas_cleaned_at.is_some(), !fails);
        broker.csp.clear_faults();
        sleep(MINUTE * 10).await;
        assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Deleted);
        let prepared = step.prepared.lock().len();
        assert!(if fails { prepared >= 2 } else { prepared == 1 }, "{prepared}");
        let records = broker.store.pre_delete_records();
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!((record.cleaned_at.is_some(), record.failed_reason.is_some()), (!fails, fails));
        assert_eq!(
            (&record.sandbox.sandbox_id, record.ttl.since(record.deleted_at)),
            (&claim.sandbox_id, HOUR * 24 * 30)
        );
        broker.broker.stop().await;
        tokio::time::resume();
    }
}

#[actix::test]
async fn a_cleanup_that_deleted_something_has_the_replacements_synced() {
    let (broker, _) = with_one_pending().await;
    broker.csp.add(2);
    broker.broker.cleanup().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.count(Status::Available), 1);
    let lists = broker.csp.lists();
    broker.broker.cleanup().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.csp.lists(), lists, "nothing was deleted");
}

/// One sandbox that the store refuses to write stops no others.
#[actix::test]
async fn a_record_that_cannot_be_written_stops_no_others() {
    let broker = TestBroker::with_sandboxes(20).await;
    allocate_and_release(&broker, 20).await;
    broker.store.fail_next("update", Fault::LostRequest);
    broker.broker.cleanup().await.unwrap_err();
    assert_eq!(broker.count(Status::Deleted), 19);
}

#[actix::test]
async fn one_bad_sandbox_delays_no_other() {
    let broker = TestBroker::with_sandboxes(20).await;
    allocate_and_release(&broker, 20).await;
    broker.csp.set_deletion_error(1, Some(CspError::BadAnswer(cause("HTTP 409"))));
    let report = broker.broker.cleanup().await.unwrap();
    assert_eq!((report.deleted, report.failed), (19, 1));
}

#[actix::test]
async fn retry_after_of_the_csp_is_kept_and_throttling_is_not_an_attempt() {
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
async fn an_open_breaker_skips_the_run_and_is_reported() {
    let (broker, sandbox) = with_one_pending().await;
    broker.csp.set_down(Some(down()));
    for _ in 0..5 {
        broker.broker.sync(SyncOptions::default()).await.unwrap_err();
    }
    let skipped = broker.broker.cleanup().await;
    assert!(matches!(skipped, Err(JobError::Csp(CspError::BreakerOpen { .. }))), "{skipped:?}");
    assert_eq!(broker.sandbox(&sandbox.sandbox_id), sandbox, "no attempt is counted");
    let status = broker.broker.actor(ActorName::Cleanup).await.unwrap();
    assert!(status.last_run.unwrap().error.unwrap().contains("circuit breaker"));
    assert_eq!(status.details.unwrap()["circuit_breaker"]["state"], "open");
}

/// The CSP has deleted the account, but the write to the table is lost.
#[actix::test]
async fn a_deletion_that_was_not_recorded_is_completed_by_the_next_run() {
    let broker = TestBroker::with_sandboxes(2).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    release(&broker, &claim).await;
    let sandbox = broker.sandbox(&claim.sandbox_id);
    broker.store.fail_next("update", Fault::LostRequest);
    broker.broker.cleanup().await.unwrap_err();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::PendingDeletion);
    broker.broker.cleanup().await.unwrap();
    let deleted = broker.sandbox(&sandbox.sandbox_id);
    assert_eq!(deleted.status, Status::Deleted, "a 404 that the listing confirms counts as deleted");
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
    let started = Instant::now();
    assert_eq!(broker.broker.cleanup().await.unwrap().deleted, 10_000);
    assert_eq!(broker.count(Status::Deleted), 10_000);
    assert!(started.elapsed() >= Duration::from_secs(250), "4 at a time, each 100 ms: {:?}", started.elapsed());
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
    allocate_and_release(&broker, 10).await;
    let started = Instant::now();
    assert_eq!(broker.broker.cleanup().await.unwrap().deleted, 10);
    assert_eq!(started.elapsed().as_secs(), 90, "ten seconds between any two");
}

/// Failures slow the queue down, and calm brings it back.
#[actix::test]
async fn the_gap_between_deletions_follows_the_failures() {
    tokio::time::pause();
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut gap = Gap::new(Duration::ZERO);
    assert_eq!(gap.next_start(start), start, "no gap while all is well");
    let gaps: Vec<_> = (0..8)
        .map(|_| {
            gap.fail(start);
            gap.at(start).as_secs()
        })
        .collect();
    assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 60, 60]);
    gap.start(start);
    assert_eq!(gap.next_start(start), start + second * 60);
    let calmer: Vec<_> = (1..=7).map(|minute| gap.at(start + MINUTE * minute).as_millis()).collect();
    assert_eq!(calmer, [30_000, 15_000, 7_500, 3_750, 1_875, 0, 0]);
    let mut slow = Gap::new(second * 90);
    slow.fail(start);
    assert_eq!(slow.at(start), second * 90, "failures never shorten it");
}

/// A slow run ends, so that no one waits for it for hours, and the next one goes on at once.
#[actix::test]
async fn a_run_is_bounded_and_the_next_one_goes_on() {
    let mut settings = TestBroker::settings("replica-1");
    settings.cleanup.delay = Duration::from_secs(50);
    let broker = TestBroker::with_sandboxes_and(20, settings).await;
    allocate_and_release(&broker, 20).await;
    let report = broker.broker.cleanup().await.unwrap();
    assert!(report.unfinished && report.deleted < 10, "{report:?}");
    sleep(Duration::from_secs(50 * 15)).await;
    assert_eq!(broker.count(Status::Deleted), 20);
}

#[actix::test]
async fn a_pause_ends_a_run_between_two_sandboxes() {
    let broker = TestBroker::with_sandboxes(100).await;
    allocate_and_release(&broker, 100).await;
    broker.csp.set_delay(Duration::from_secs(1));
    let run = actix::spawn({
        let broker = broker.broker.clone();
        async move { broker.cleanup().await }
    });
    sleep(Duration::from_millis(5500)).await;
    let paused = broker.broker.pause(ActorName::Cleanup, "freeze", "ops").await.unwrap();
    assert_eq!(paused.desired_state, DesiredState::Paused);
    let report = run.await.unwrap().expect("the deletions so far are reported");
    assert!((20..=28).contains(&report.deleted), "{report:?}");
    assert_eq!(broker.count(Status::Deleted) as u64, report.deleted, "started deletions are completed");
    sleep(HOUR).await;
    assert_eq!(broker.count(Status::Deleted) as u64, report.deleted, "no deletions while paused");
    broker.broker.resume(ActorName::Cleanup, "ops").await.unwrap();
    sleep(MINUTE * 10).await;
    assert_eq!(broker.count(Status::Deleted), 100);
    assert!(broker.csp.deletes().values().all(|times| *times == 1), "each exactly once");
}
