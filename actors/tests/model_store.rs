//! The model store keeps the store's contract, and its faults do what they say.

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
async fn the_contract_finds_a_store_out_that_leaves_a_condition_out() {
    let held_key = Flaw::HeldKeyIgnored;
    assert_found_out(held_key, contract::claim_under_a_held_key_answers_with_the_holding).await;
    assert_found_out(held_key, contract::a_key_gets_one_sandbox_from_many_at_once).await;
    let view = Flaw::ViewIgnored;
    assert_found_out(view, contract::claim_of_a_moved_candidate_answers_with_what_is_there).await;
    assert_found_out(view, contract::a_candidate_is_claimed_once_by_many_at_once).await;
    assert_found_out(view, contract::end_claim_by_a_stranger_changes_nothing).await;
    assert_found_out(view, contract::update_is_fenced_by_the_epoch).await;
    let forgotten = Flaw::ClaimForgotten;
    assert_found_out(forgotten, contract::claim_allocates_and_can_be_read_back).await;
    assert_found_out(forgotten, contract::end_claim_frees_the_key).await;
}

/// Whether a store with this flaw breaks this promise; the sound one keeps it, as the tests above show.
async fn assert_found_out<F: Future<Output = ()> + Send + 'static>(flaw: Flaw, promise: impl FnOnce(Store) -> F) {
    let store = ModelStore::default();
    store.set_flaw(flaw);
    let kept = tokio::spawn(promise(Arc::new(store))).await;
    assert!(kept.is_err_and(|error| error.is_panic()), "{flaw:?} passes {}", std::any::type_name::<F>());
}

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
async fn what_a_dead_replica_has_sent_arrives_and_it_hears_and_sends_no_more() {
    let now = broker_actors::testing::PausedClock::BEGIN;
    let (store, connection) = (ModelStore::with_sandboxes(2), Connection::of("replica"));
    let [first, second] = [0, 1].map(|n| store.sandboxes()[n].update(Event::Missing { keep_until: now }, now).unwrap());
    let replica = store.through(connection.clone());
    store.fail_next("update", Fault::Delay(Duration::from_secs(1)));
    let life = tokio::spawn(async move {
        replica.update(&first).await.unwrap();
        replica.update(&second).await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    connection.cut();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let statuses: Vec<_> = store.sandboxes().iter().map(|sandbox| sandbox.status).collect();
    assert_eq!(statuses, [Status::Stale, Status::Available]);
    assert!(!life.is_finished(), "no answer came");
    store.check(&ReplicaId::new("replica")).await.expect("others reach the store");
}

#[tokio::test]
async fn a_store_that_is_down_answers_nothing() {
    let store = ModelStore::with_sandboxes(1);
    store.set_down(true);
    assert!(matches!(store.check(&ReplicaId::new("replica")).await, Err(StoreError::Unavailable(_))));
    store.set_down(false);
    store.check(&ReplicaId::new("replica")).await.unwrap();
}
