//! The driver: activation, pause, failures, start and stop.

use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use broker_actors::actor::{Activity, ActorName, DesiredState};
use broker_actors::broker::Broker;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::Coordination as _;
use broker_actors::sandbox::{Status, Timestamp};
use broker_actors::start::Ports;
use broker_actors::testing::{FakeCsp, Fault, ModelStore, PausedClock, TestBroker};
use tokio::time::{Instant, sleep, timeout};

use crate::fixtures::{GRACE, HOUR, LAB, MINUTE, start_sync};

#[actix::test]
async fn a_store_error_fails_the_run_and_the_job_runs_again() {
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
async fn a_panic_fails_the_run_and_the_job_runs_again() {
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
    sleep(MINUTE).await;
    assert_eq!(broker.csp.lists(), before + 1, "soon");
    sleep(MINUTE * 5).await;
    assert_eq!(broker.csp.lists(), before + 2, "and after the interval as usual");
}

#[actix::test]
async fn a_dead_actor_is_reported_and_fails_readiness() {
    let broker = TestBroker::with_sandboxes(5).await;
    let is_ready = async || broker.broker.checks().await.iter().all(|(_, check)| check.is_ok());
    assert!(is_ready().await);
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(LAB + GRACE - Duration::from_millis(500)).await;
    // The actor of the expiry timers reads the clock next.
    broker.clock.panic_next();
    let dead = timeout(MINUTE, broker.broker.first_failure()).await.expect("the failure is reported");
    assert_eq!(dead, "expiry timers");
    assert!(!is_ready().await);
    assert_eq!(broker.sandbox(&claim.sandbox_id).status, Status::Allocated);
}

#[actix::test]
async fn activations_during_a_run_are_coalesced() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.set_delay(Duration::from_secs(5));
    let before = broker.csp.lists();
    let runs: Vec<_> = (0..10).map(|_| start_sync(&broker)).collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    assert_eq!(broker.csp.lists() - before, 2, "the first, and one for all activations meanwhile");
}

#[actix::test]
async fn a_pause_reaches_every_replica_and_survives_a_restart() {
    let broker = TestBroker::with_sandboxes(5).await;
    let other = broker.replica("replica-2").await;
    broker.broker.pause(ActorName::CspSync, "maintenance", "ops").await.unwrap();
    broker.broker.pause(ActorName::PoolManager, "maintenance", "ops").await.unwrap();
    sleep(Duration::from_secs(5)).await;
    for replica in [&broker, &other, &broker.replica("restarted").await] {
        let status = replica.broker.actor(ActorName::CspSync).await.unwrap();
        assert_eq!((status.status, status.desired_state), (Activity::Paused, DesiredState::Paused));
        assert_eq!(status.control.unwrap().reason, "maintenance");
        assert!(matches!(replica.broker.sync(SyncOptions::default()).await, Err(JobError::Paused)));
        assert!(replica.allocate("t").await.is_err());
    }
    let before = broker.csp.lists();
    sleep(HOUR).await;
    assert_eq!(broker.csp.lists(), before, "no replica syncs");
    other.broker.resume(ActorName::CspSync, "ops").await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(broker.csp.lists(), before + 1, "one replica runs the overdue job");
}

/// A replica whose clock is behind can overrule a command from a replica whose clock is ahead.
#[actix::test]
async fn the_last_command_wins_although_clocks_differ() {
    let broker = TestBroker::with_sandboxes(1).await;
    broker.clock.set_skew(3600);
    broker.broker.pause(ActorName::Cleanup, "clock is ahead", "ops").await.unwrap();
    broker.clock.set_skew(0);
    let resumed = broker.broker.resume(ActorName::Cleanup, "ops").await.unwrap();
    assert_eq!(resumed.desired_state, DesiredState::Running);
}

#[actix::test]
async fn stopping_releases_leases_and_cancels_the_run() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.set_delay(HOUR);
    let run = start_sync(&broker);
    sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    broker.broker.stop().await;
    assert!(started.elapsed() <= Duration::from_secs(7), "{:?}", started.elapsed());
    assert!(matches!(run.await.unwrap(), Err(JobError::CutOff { .. })));
    let lease = broker.store.read_lease(ActorName::CspSync).await.unwrap().unwrap();
    assert_eq!(lease.expires_at, Timestamp(0), "released");
}

#[actix::test]
async fn a_store_that_is_down_at_the_start_is_an_error() {
    tokio::time::pause();
    let store = ModelStore::with_sandboxes(1);
    store.set_down(true);
    let csp = Arc::new(FakeCsp::default());
    let ports = Ports { store: Arc::new(store), csp, pre_delete: None, clock: Arc::new(PausedClock::new()) };
    let here = Arbiter::current();
    let started = Broker::start(ports, TestBroker::settings("r"), &here, &here).await;
    assert!(started.is_err());
}
