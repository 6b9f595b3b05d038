//! The model store keeps the store's contract, and its faults do what they say.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::ports::{SandboxStore, StoreError};
use broker_actors::sandbox::{Event, Status};
use broker_actors::store_contract;
use broker_actors::testing::{Fault, ModelStore};

async fn model() -> Arc<dyn SandboxStore> {
    Arc::new(ModelStore::default())
}

store_contract!(model_store, model());

#[tokio::test(start_paused = true)]
async fn faults_decide_whether_a_write_is_carried_out() {
    let now = broker_actors::testing::PausedClock::BEGIN;
    let cases = [
        (Fault::Throttle, Status::Available, Status::Available),
        (Fault::LostRequest, Status::Available, Status::Available),
        (Fault::LateRequest(Duration::from_secs(5)), Status::Available, Status::Stale),
        (Fault::LostResponse, Status::Stale, Status::Stale),
        (Fault::Delay(Duration::from_secs(1)), Status::Stale, Status::Stale),
    ];
    for (fault, at_once, later) in cases {
        let store = ModelStore::with_sandboxes(1);
        store.fail_next("update", fault);
        let write = store.sandboxes()[0].write(Event::Missing { keep_until: now }, now).unwrap();
        let answer = store.update(&write).await;
        let failed = !matches!(fault, Fault::Delay(_));
        assert_eq!(answer.is_err(), failed, "{fault:?} gives {answer:?}");
        assert_eq!(store.sandboxes()[0].status, at_once, "{fault:?}, at once");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(store.sandboxes()[0].status, later, "{fault:?}, later");
    }
}

#[tokio::test]
async fn a_store_that_is_down_answers_nothing() {
    let store = ModelStore::with_sandboxes(1);
    store.set_down(true);
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    store.set_down(false);
    store.ping().await.unwrap();
}
