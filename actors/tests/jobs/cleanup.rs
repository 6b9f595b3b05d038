//! Cleanup: deletion at the CSP, retries, concurrency, rate, pause.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::actor::{ActorName, DesiredState};
use broker_actors::error::cause;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::{CspError, SandboxStore as _};
use broker_actors::sandbox::{Sandbox, Status};
use broker_actors::testing::{FakeCsp, Fault, ModelStore, PausedClock, TestBroker};
use tokio::time::{Instant, sleep};

use crate::fixtures::{HOUR, MINUTE, allocate_and_release, down, with_one_pending};

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

#[actix::test]
async fn a_deletion_is_retried_with_growing_delays_and_then_fails() {
    let (broker, sandbox) = with_one_pending().await;
    broker.csp.set_deletion_error(1, Some(CspError::BadAnswer(cause("HTTP 409"))));
    let mut waits = Vec::new();
    for attempt in 1..=2 {
        assert_eq!(broker.broker.cleanup().await.unwrap().failed, 1);
        let pending = broker.sandbox(&sandbox.sandbox_id);
        assert_eq!((pending.status, pending.deletion_retry_count), (Status::PendingDeletion, attempt));
        assert!(pending.last_error.as_ref().unwrap().contains("409"));
        let wait = pending.next_attempt_at.unwrap().since(pending.updated_at);
        assert_eq!(broker.broker.cleanup().await.unwrap().waiting, 1, "it waits for the next attempt");
        waits.push(wait);
        sleep(wait).await;
    }
    assert!(waits[0] >= Duration::from_secs(30) && waits[1] >= Duration::from_secs(60), "{waits:?}");
    let report = broker.broker.cleanup().await;
    let failed = broker.sandbox(&sandbox.sandbox_id);
    assert_eq!(failed.status, Status::DeletionFailed, "{report:?}");
    assert_eq!(broker.csp.deletes()[&sandbox.external_id], 3);

    broker.csp.set_deletion_error(1, None);
    let retried = broker.broker.admin().retry_deletion(&sandbox.sandbox_id, "ops").await.unwrap();
    assert_eq!((retried.status, retried.deletion_retry_count), (Status::PendingDeletion, 0));
    broker.broker.cleanup().await.unwrap();
    assert_eq!(broker.sandbox(&sandbox.sandbox_id).status, Status::Deleted);
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
    assert_eq!(started.elapsed().as_secs(), 50, "two at a time, each after ten seconds");
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
