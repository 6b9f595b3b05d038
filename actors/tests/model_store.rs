//! The model store keeps the contract of the store, and its faults work.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::ports::{SandboxStore, StoreError};
use broker_actors::sandbox::{Event, ReplicaId, Status};
use broker_actors::store_contract;
use broker_actors::testing::{Connection, Fault, Flaw, ModelStore, contract};

type Store = Arc<dyn SandboxStore>;

async fn model() -> Store {
    Arc::new(ModelStore::default())
}

store_contract!(model_store, model());

#[tokio::test]
async fn the_contract_detects_a_missing_condition() {
    let held_key = Flaw::HeldKeyIgnored;
    assert_detected(held_key, contract::claim_under_a_held_key_answers_with_the_holding).await;
    assert_detected(held_key, contract::a_key_gets_one_sandbox_from_many_at_once).await;
    let view = Flaw::ViewIgnored;
    assert_detected(view, contract::claim_of_a_changed_candidate_returns_the_current_item).await;
    assert_detected(view, contract::a_candidate_is_claimed_once_by_many_at_once).await;
    assert_detected(view, contract::end_claim_by_a_stranger_changes_nothing).await;
    assert_detected(view, contract::update_is_fenced_by_the_epoch).await;
    let forgotten = Flaw::ClaimForgotten;
    assert_detected(forgotten, contract::claim_allocates_and_can_be_read_back).await;
    assert_detected(forgotten, contract::end_claim_frees_the_key).await;
}

/// Asserts that a store with this flaw violates the clause. Without the flaw it keeps the clause, as the tests above show.
async fn assert_detected<F: Future<Output = ()> + Send + 'static>(flaw: Flaw, clause: impl FnOnce(Store) -> F) {
    let store = ModelStore::default();
    store.set_flaw(flaw);
    let kept = tokio::spawn(clause(Arc::new(store))).await;
    assert!(kept.is_err_and(|error| error.is_panic()), "{flaw:?} passes {}", std::any::type_name::<F>());
}

#[tokio::test(start_paused = true)]
async fn faults_decide_whether_a_write_takes_effect() {
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
        let write = store.sandboxes()[0].update(Event::Missing { keep_until: now }, now).unwrap();
        let answer = store.update(&write).await;
        let failed = !matches!(fault, Fault::Delay(_));
        assert_eq!(answer.is_err(), failed, "{fault:?} gives {answer:?}");
        assert_eq!(store.sandboxes()[0].status, at_once, "{fault:?}, at once");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(store.sandboxes()[0].status, later, "{fault:?}, later");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_delivers_sent_requests_and_nothing_else() {
    let now = broker_actors::testing::PausedClock::BEGIN;
    let (store, connection) = (ModelStore::with_sandboxes(2), Connection::of("replica"));
    let [first, second] = [0, 1].map(|n| store.sandboxes()[n].update(Event::Missing { keep_until: now }, now).unwrap());
    let replica = store.through(connection.clone());
    store.fail_next("update", Fault::Delay(Duration::from_secs(1)));
    let writes = tokio::spawn(async move {
        replica.update(&first).await.unwrap();
        replica.update(&second).await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    connection.cut();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let statuses: Vec<_> = store.sandboxes().iter().map(|sandbox| sandbox.status).collect();
    assert_eq!(statuses, [Status::Stale, Status::Available]);
    assert!(!writes.is_finished(), "no response arrives");
    store.check(&ReplicaId::new("replica")).await.expect("other replicas reach the store");
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable() {
    let store = ModelStore::with_sandboxes(1);
    store.set_down(true);
    assert!(matches!(store.check(&ReplicaId::new("replica")).await, Err(StoreError::Unavailable(_))));
    store.set_down(false);
    store.check(&ReplicaId::new("replica")).await.unwrap();
}
