//! The replay of an incident: for 16 minutes, and four hours later again, the CSP's licence service fails half of all
//! deletions with 500. All these accounts can be deleted afterwards.

#![allow(clippy::print_stdout, reason = "the figures are the result")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_actors::allocation::AllocateRequest;
use broker_actors::broker::Broker;
use broker_actors::error::cause;
use broker_actors::ports::{CspClient, CspDeletion, CspError, CspListing};
use broker_actors::sandbox::{IdempotencyKey, Owner, Status, TrackId};
use broker_actors::start::Ports;
use broker_actors::testing::{FakeCsp, ModelStore, PausedClock, TestBroker};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// When the incidents start, and how long each lasts.
const INCIDENTS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(4 * 3600)];
const LENGTH: Duration = Duration::from_secs(16 * 60);

/// The sandboxes that are given back during each.
const RELEASED: u32 = 56;

/// The answer of the licence service.
const LICENCE_ERROR: &str =
    r#"HTTP 500: {"error":[{"message":"<html><head><title>500 Internal Server Error</title></head></html>"}]}"#;

/// A CSP that fails half of the deletions during an incident, and replaces what it deletes.
struct SickCsp {
    csp: FakeCsp,
    started: Instant,
    random: Mutex<fastrand::Rng>,
    accounts: Mutex<u32>,
}

#[async_trait]
impl CspClient for SickCsp {
    async fn list(&self) -> Result<CspListing, CspError> {
        self.csp.list().await
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        let at = self.started.elapsed();
        let is_sick = INCIDENTS.iter().any(|start| (*start..*start + LENGTH).contains(&at));
        if is_sick && self.random.lock().bool() {
            self.csp.fail_next(CspError::Unavailable(cause(LICENCE_ERROR)));
        }
        let deletion = self.csp.delete(external_id).await?;
        let mut accounts = self.accounts.lock();
        *accounts += 1;
        self.csp.add(*accounts);
        Ok(deletion)
    }
}

/// A student takes a sandbox and gives it back.
async fn take_and_give_back(broker: &Broker, track: &str) {
    let owner = Owner::named(TrackId::new(track));
    let key = IdempotencyKey::new(track);
    let request = AllocateRequest {
        owner: owner.clone(),
        track_name: None,
        key,
        name_prefix: None,
        lab_duration: None,
        standby: false,
        wait: None,
        quota: None,
    };
    let allocation = broker.allocator().allocate(request).await.expect("students notice nothing");
    broker.allocator().release(&allocation.claim.sandbox_id, &owner).await.expect("students notice nothing");
}

async fn replay(seed: u64) {
    let store = ModelStore::with_sandboxes(100);
    let csp = FakeCsp::with_accounts(100);
    let sick = SickCsp {
        csp: csp.clone(),
        started: Instant::now(),
        random: Mutex::new(fastrand::Rng::with_seed(seed)),
        accounts: Mutex::new(1000),
    };
    let started = sick.started;
    let ports = Ports {
        store: Arc::new(store.clone()),
        csp: Arc::new(sick),
        pre_delete: None,
        clock: Arc::new(PausedClock::new()),
    };
    let mut settings = TestBroker::settings("replica-1");
    settings.jitter_seed = seed;
    // What has nothing to do with deletions runs rarely, so that hours pass fast.
    (settings.control_poll, settings.pool_refresh_interval) = (MINUTE, MINUTE);
    let here = actix::Arbiter::current();
    let broker = Broker::start(ports, settings, &here, &here).await.unwrap();
    let count = |status| store.sandboxes().iter().filter(|sandbox| sandbox.status == status).count();
    for (incident, start) in INCIDENTS.into_iter().enumerate() {
        sleep_until(started + start).await;
        for number in 0..RELEASED {
            sleep(LENGTH / RELEASED).await;
            take_and_give_back(&broker, &format!("student-{incident}-{number}")).await;
            assert_eq!(count(Status::DeletionFailed), 0, "seed {seed}: given up during incident {incident}");
        }
    }
    while started.elapsed() < INCIDENTS[1] + HOUR * 2 {
        sleep(MINUTE).await;
        assert_eq!(count(Status::DeletionFailed), 0, "seed {seed}: given up");
    }
    assert_eq!(count(Status::PendingDeletion), 0, "seed {seed}: all are deleted");
    let (accounts, calls) = (csp.deletes().len(), csp.deletes().values().sum::<u64>());
    println!("seed {seed}: {calls} deletions of {accounts} accounts");
    assert_eq!(accounts, 2 * RELEASED as usize);
    assert!(calls * 2 <= accounts as u64 * 3, "seed {seed}: {calls} deletions of {accounts} accounts");
    broker.stop().await;
}

#[actix::test]
async fn no_deletion_is_given_up_and_few_are_asked_for_twice() {
    tokio::time::pause();
    for seed in 0..3 {
        replay(seed).await;
    }
}
