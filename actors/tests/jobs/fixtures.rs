use std::time::Duration;

use broker_actors::error::cause;
use broker_actors::jobs::JobError;
use broker_actors::jobs::csp_sync::{SyncOptions, SyncReport};
use broker_actors::ports::CspError;
use broker_actors::sandbox::{Claim, Owner, Sandbox};
use broker_actors::start::BrokerSettings;
use broker_actors::testing::TestBroker;
use tokio::task::JoinHandle;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// The lab duration of [`TestBroker::settings`].
pub(crate) const LAB: Duration = Duration::from_secs(4 * 3600);
/// The grace period of [`TestBroker::settings`].
pub(crate) const GRACE: Duration = Duration::from_secs(1800);

pub(crate) async fn release(broker: &TestBroker, claim: &Claim) {
    broker.broker.allocator().release(&claim.sandbox_id, &Owner::named(claim.claim_key.track.clone())).await.unwrap();
}

/// Allocates and releases this number of sandboxes.
pub(crate) async fn allocate_and_release(broker: &TestBroker, count: usize) {
    for track in 0..count {
        let claim = broker.allocate(&format!("t{track}")).await.unwrap().claim;
        release(broker, &claim).await;
    }
}

/// A broker whose only sandbox is pending deletion.
pub(crate) async fn with_one_pending() -> (TestBroker, Sandbox) {
    with_one_pending_on(TestBroker::settings("replica-1")).await
}

/// A broker with these settings whose only sandbox is pending deletion.
pub(crate) async fn with_one_pending_on(settings: BrokerSettings) -> (TestBroker, Sandbox) {
    let broker = TestBroker::with_sandboxes_and(1, settings).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    release(&broker, &claim).await;
    let sandbox = broker.sandbox(&claim.sandbox_id);
    (broker, sandbox)
}

/// Starts a sync and does not wait for it.
pub(crate) fn start_sync(broker: &TestBroker) -> JoinHandle<Result<SyncReport, JobError>> {
    let broker = broker.broker.clone();
    actix::spawn(async move { broker.sync(SyncOptions::default()).await })
}

/// The error of a CSP that is down.
pub(crate) fn down() -> CspError {
    CspError::Unavailable(cause("down"))
}
