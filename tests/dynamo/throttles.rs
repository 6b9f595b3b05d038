//! Throttling and conflicts: what is hidden by another attempt, how many there are, and which of several reasons is the
//! answer.

use broker_actors::ports::{ClaimOutcome, StoreError};
use serde_json::json;
use test_support::metering::{Fault, FaultRule};

use crate::table::{Table, claim_of, json_of, reason, request, sandbox};

const THROTTLES: [&str; 2] = ["ThrottlingError", "ProvisionedThroughputExceeded"];

/// Codes of a throttled single write, and of a throttled account.
const EXCEPTIONS: [&str; 4] =
    ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingError"];

#[actix_web::test]
async fn a_throttled_transaction_is_repeated() {
    tokio::time::pause();
    let none = || json!({ "Code": "None" });
    for throttle in THROTTLES {
        for (claim, candidate) in [
            (reason(throttle), none()),
            (none(), reason(throttle)),
            (reason(throttle), reason("TransactionConflict")),
            (reason("TransactionConflict"), reason(throttle)),
        ] {
            let mut table = Table::new().await;
            table.fill(1);
            table.connection.cancel(3, claim.clone(), candidate.clone());
            let (update, of_track) = claim_of(&sandbox(1), "t1");
            let outcome = table.store.claim(&update, &of_track).await;
            assert!(matches!(outcome, Ok(ClaimOutcome::Claimed)), "{claim} {candidate}: {outcome:?}");
            assert!(table.connection.is_script_over());
        }
    }
}

#[actix_web::test]
async fn every_write_is_repeated_five_times_when_it_is_throttled() {
    tokio::time::pause();
    for code in EXCEPTIONS {
        let mut table = Table::new().await;
        table.fill(2);
        let engine = &table.connection.engine;
        let (update, claim) = claim_of(&sandbox(1), "t1");

        // Nothing was written, so the answer is not "unknown".
        engine.add_fault(FaultRule::before(Fault::error(400, code, "slow down")));
        let throttled = |result: Option<StoreError>| matches!(result, Some(StoreError::Throttled(_)));
        assert!(throttled(table.store.claim(&update, &claim).await.err()), "{code}");
        assert!(throttled(table.store.end_claim(&update, &claim.claim_key).await.err()), "{code}");
        assert_eq!(table.requests("TransactWriteItems"), 2 * 6, "{code}");
        assert!(throttled(table.store.update(&update).await.err()), "{code}");
        assert_eq!(table.requests("UpdateItem"), 6, "{code}");
        assert!(throttled(table.store.create(&sandbox(3)).await.err()), "{code}");
        assert_eq!(table.requests("PutItem"), 6, "{code}");
        assert!(throttled(table.store.get(&sandbox(1).sandbox_id).await.err()), "{code}");
        assert_eq!(table.requests("GetItem"), 6, "{code}");
        engine.clear_faults();

        engine.add_fault(FaultRule::before(Fault::error(400, code, "slow down")).next(5));
        assert!(matches!(table.store.claim(&update, &claim).await, Ok(ClaimOutcome::Claimed)), "{code}");
    }
}

/// A known holding is the answer, whatever happened to the candidate.
#[actix_web::test]
async fn the_claims_reason_is_judged_first() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(2);
    let (update, held) = claim_of(&sandbox(1), "t1");
    table.store.claim(&update, &held).await.unwrap();
    let mut with_item = reason("ConditionalCheckFailed");
    with_item["Item"] = json_of(&sandbox_broker::dynamo::item::claim_item(&held));
    for candidate in ["ThrottlingError", "TransactionConflict", "ConditionalCheckFailed", "ValidationError", "None"] {
        table.connection.cancel(1, with_item.clone(), reason(candidate));
        let (update, claim) = claim_of(&sandbox(2), "t1");
        let outcome = table.store.claim(&update, &claim).await;
        assert!(matches!(&outcome, Ok(ClaimOutcome::AlreadyHeld(found)) if *found == held), "{candidate}: {outcome:?}");
    }
}

#[actix_web::test]
async fn a_conflict_on_the_claim_alone_is_told_from_one_on_the_candidate() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(1);
    let (conflict, none) = (reason("TransactionConflict"), json!({ "Code": "None" }));
    let (update, claim) = claim_of(&sandbox(1), "t1");
    table.connection.cancel(1, conflict.clone(), none.clone());
    assert!(matches!(table.store.claim(&update, &claim).await, Ok(ClaimOutcome::ClaimConflict)));
    table.connection.cancel(1, none, conflict.clone());
    assert!(matches!(table.store.claim(&update, &claim).await, Ok(ClaimOutcome::CandidateConflict)));
    table.connection.cancel(1, conflict.clone(), conflict);
    assert!(matches!(table.store.claim(&update, &claim).await, Ok(ClaimOutcome::CandidateConflict)));
}

/// The candidate is untouched: the same one is claimed after a wait, and nothing is read.
#[actix_web::test]
async fn a_conflict_on_the_claim_alone_costs_no_refresh() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(40);
    let broker = table.broker("replica-1").await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    table.connection.engine.reset_counters();
    table.connection.cancel(4, reason("TransactionConflict"), json!({ "Code": "None" }));
    let allocation = broker.allocator().allocate(request("t1")).await.unwrap();
    assert!(!allocation.replayed && table.connection.is_script_over());
    assert_eq!(table.requests("TransactWriteItems"), 1, "the conflicts do not reach the engine");
    assert_eq!(table.requests("Query"), 0);
    assert_eq!(broker.pool_snapshot().await.unwrap().cached, 39);
}

/// A storm of conflicts ends with the budget, and loses nothing.
#[actix_web::test]
async fn endless_conflicts_end_with_the_budget() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(40);
    let broker = table.broker("replica-1").await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    for (claim, candidate) in [("TransactionConflict", "None"), ("None", "TransactionConflict")] {
        table.connection.cancel(100_000, reason(claim), reason(candidate));
        let refused = broker.allocator().allocate(request("t1")).await;
        assert!(refused.is_err(), "{refused:?}");
        table.connection.end_script();
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        assert_eq!(broker.pool_snapshot().await.unwrap().cached, 40);
    }
    broker.allocator().allocate(request("t1")).await.unwrap();
}
