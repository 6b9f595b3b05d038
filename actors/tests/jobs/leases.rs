//! Leadership: one replica runs a job at a time, by its lease.

use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::{Coordination as _, JobLease, LeaseOutcome, LeaseRequest};
use broker_actors::sandbox::{ReplicaId, Timestamp};
use broker_actors::testing::{PausedClock, TestBroker};
use tokio::time::sleep;

use crate::fixtures::{MINUTE, start_sync};

fn lease_request(holder: &str, until: Timestamp, stale: Option<JobLease>) -> LeaseRequest {
    LeaseRequest { job: ActorName::CspSync, holder: ReplicaId::new(holder), until, stale, due: None }
}

#[actix::test]
async fn a_job_runs_once_per_interval_over_all_replicas() {
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
    // A replica acquires the lease and dies.
    let until = Timestamp(PausedClock::BEGIN.0 + 331);
    sleep(MINUTE * 5 - Duration::from_secs(1)).await;
    let taken = broker.store.acquire_lease(&lease_request("dead", until, None)).await.unwrap();
    assert!(matches!(taken, LeaseOutcome::Acquired(_)), "{taken:?}");
    let before = broker.csp.lists();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(broker.csp.lists(), before, "no replica runs the job while the lease lasts");
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
    let run = start_sync(&broker);
    sleep(MINUTE * 9).await;
    let refused = other.broker.sync(SyncOptions::default()).await;
    assert!(matches!(&refused, Err(JobError::Busy { holder }) if holder.as_str() == "replica-1"), "{refused:?}");
    run.await.unwrap().unwrap();
}

#[actix::test]
async fn a_run_that_loses_its_lease_is_cancelled() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.csp.set_delay(MINUTE * 10);
    let run = start_sync(&broker);
    sleep(Duration::from_secs(1)).await;
    // Another replica believes that the lease has expired: its clock is an hour ahead.
    let ahead = Timestamp(PausedClock::BEGIN.0 + 3600);
    let thief = ReplicaId::new("thief");
    let held = broker.store.read_lease(ActorName::CspSync).await.unwrap();
    broker.store.acquire_lease(&lease_request("thief", Timestamp(ahead.0 + 30), held)).await.unwrap();
    assert!(matches!(run.await.unwrap(), Err(JobError::LeaseLost)));
    let lease: JobLease = broker.store.read_lease(ActorName::CspSync).await.unwrap().unwrap();
    assert_eq!(lease.holder, thief, "the cancelled run does not release the lease of another replica");
}
