//! Requests without an answer: a failure of the server never counts as "nothing was written" (I1, I3), and what an
//! attempt wrote whose answer was lost is recognized.

use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::ports::{ClaimOutcome, LeaseOutcome, LeaseRequest, StoreError, WriteOutcome};
use broker_actors::sandbox::{ReplicaId, Status};
use broker_actors::testing::PausedClock;
use test_support::metering::{Fault, FaultRule};

use crate::table::{Table, claim_key, claim_of, sandbox};

/// Answers that do not say whether the request was executed.
fn unanswered() -> Vec<Fault> {
    vec![
        Fault::internal_server_error(),
        Fault::service_unavailable(),
        Fault::error(500, "AnyOtherCode", "an internal failure"),
        Fault::error(503, "ThrottlingException", "a code of throttling does not make it one"),
        Fault::error(400, "TransactionInProgressException", "the same transaction is in progress"),
        Fault::request_timeout(),
        Fault::html(502),
        Fault::html(503),
        Fault::html(504),
        Fault::Closed,
        Fault::Silent,
    ]
}

#[actix_web::test]
async fn a_claim_whose_first_answer_is_lost_is_made_once() {
    tokio::time::pause();
    for fault in unanswered() {
        for rule in [FaultRule::before(fault.clone()), FaultRule::after(fault.clone())] {
            let mut table = Table::new().await;
            table.fill(1);
            table.connection.engine.add_fault(rule.clone().next(1));
            let (update, claim) = claim_of(&sandbox(1), "t1");
            let outcome = table.store.claim(&update, &claim).await;
            assert!(matches!(outcome, Ok(ClaimOutcome::Claimed)), "{rule:?}: {outcome:?}");
            assert_eq!(table.store.find_claim(&claim_key("t1")).await.unwrap(), Some(claim));
        }
    }
}

#[actix_web::test]
async fn a_claim_that_is_never_answered_has_an_unknown_outcome() {
    tokio::time::pause();
    for fault in unanswered() {
        let mut table = Table::new().await;
        table.fill(1);
        table.connection.engine.add_fault(FaultRule::before(fault.clone()).on(&["TransactWriteItems"]));
        let (update, claim) = claim_of(&sandbox(1), "t1");
        let outcome = table.store.claim(&update, &claim).await;
        assert!(matches!(outcome, Err(StoreError::OutcomeUnknown(_))), "{fault:?}: {outcome:?}");
        assert_eq!(table.requests("TransactWriteItems"), 3, "{fault:?}: it is not repeated for ever");
    }
}

/// The last answer is about the last attempt alone.
#[actix_web::test]
async fn throttling_or_refusal_after_an_attempt_without_an_answer_is_an_unknown_outcome() {
    tokio::time::pause();
    for last in [Fault::error(400, "ThrottlingException", "slow down"), Fault::access_denied()] {
        let mut table = Table::new().await;
        table.fill(1);
        let engine = &table.connection.engine;
        engine.add_fault(FaultRule::after(Fault::internal_server_error()).next(1));
        engine.add_fault(FaultRule::before(last.clone()));
        let (update, claim) = claim_of(&sandbox(1), "t1");
        let outcome = table.store.claim(&update, &claim).await;
        assert!(matches!(outcome, Err(StoreError::OutcomeUnknown(_))), "{last:?}: {outcome:?}");
        engine.clear_faults();
        assert_eq!(table.store.find_claim(&claim_key("t1")).await.unwrap(), Some(claim), "it was written");
    }
}

/// A repeated single write meets its own change.
#[actix_web::test]
async fn a_write_whose_answer_was_lost_is_recognized() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(1);
    let engine = &table.connection.engine;
    let lose_one_answer = || engine.add_fault(FaultRule::after(Fault::internal_server_error()).next(1));

    lose_one_answer();
    assert!(table.store.create(&sandbox(2)).await.unwrap(), "created");
    assert!(!table.store.create(&sandbox(2)).await.unwrap(), "it exists");

    let event = broker_actors::sandbox::Event::Missing { keep_until: PausedClock::BEGIN };
    let update = sandbox(1).update(event, PausedClock::BEGIN).unwrap();
    lose_one_answer();
    assert_eq!(table.store.update(&update).await.unwrap(), WriteOutcome::Done);
    assert!(matches!(table.store.update(&update).await.unwrap(), WriteOutcome::PreconditionFailed { .. }));
    assert_eq!(table.store.get(&sandbox(1).sandbox_id).await.unwrap().unwrap().status, Status::Stale);

    let (update, claim) = claim_of(&sandbox(2), "t1");
    table.store.claim(&update, &claim).await.unwrap();
    lose_one_answer();
    assert!(table.store.delete_claim(&claim).await.unwrap(), "deleted");
    assert!(!table.store.delete_claim(&claim).await.unwrap(), "it is gone");

    let until = PausedClock::BEGIN.plus(Duration::from_secs(30));
    let request =
        LeaseRequest { job: ActorName::CspSync, holder: ReplicaId::new("replica-1"), until, stale: None, due: None };
    lose_one_answer();
    let LeaseOutcome::Acquired(lease) = table.store.acquire_lease(&request).await.unwrap() else { panic!("refused") };
    lose_one_answer();
    assert!(table.store.extend_lease(&lease, until.plus(Duration::from_secs(30))).await.unwrap());
    lose_one_answer();
    assert!(table.store.release_lease(&lease).await.unwrap());
}
