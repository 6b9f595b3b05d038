//! Items that cannot be read: one of them hides no other, and a table of them is not taken for an empty one.

use std::time::Duration;

use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::StoreError;
use tokio::time::sleep;

use crate::table::{Table, request, sandbox};

/// The attributes whose type decides whether an item can be read.
const NUMBERS: [&str; 7] =
    ["created_at", "updated_at", "last_synced", "deletion_retry_count", "epoch", "ttl", "next_attempt_at"];

#[actix_web::test]
async fn an_unreadable_item_stops_neither_a_sync_nor_the_pool() {
    tokio::time::pause();
    for attribute in NUMBERS {
        let mut table = Table::new().await;
        table.fill(20);
        table.spoil(&sandbox(1), attribute).await;
        assert!(matches!(table.store.get(&sandbox(1).sandbox_id).await, Err(StoreError::Corrupt { .. })));
        table.csp.add(21);
        let broker = table.broker("replica-1").await;
        let report = broker.sync(SyncOptions::default()).await.unwrap();
        assert_eq!((report.synced, report.marked_stale), (21, 0), "{attribute}: {report:?}");
        assert_eq!(
            table.store.get(&sandbox(21).sandbox_id).await.unwrap().map(|found| found.name),
            Some("lab-00021".to_owned())
        );
        sleep(Duration::from_secs(5)).await;
        for track in 0..20 {
            broker.allocator().allocate(request(&format!("t{track}"))).await.unwrap();
        }
        assert!(broker.checks().await.iter().all(|(_, check)| check.is_ok()), "one item does not make it unready");
    }
}

/// A candidate that became unreadable after it was listed.
#[actix_web::test]
async fn an_unreadable_candidate_is_passed_over() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(2);
    let broker = table.broker("replica-1").await;
    sleep(Duration::from_secs(5)).await;
    for number in [1, 2] {
        table.spoil(&sandbox(number), "epoch").await;
    }
    table.csp.add(3);
    broker.sync(SyncOptions::default()).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let claim = broker.allocator().allocate(request("t1")).await.unwrap().claim;
    assert_eq!(claim.sandbox_id, sandbox(3).sandbox_id);
}

#[actix_web::test]
async fn a_table_of_unreadable_items_is_not_ready_until_it_is_repaired() {
    tokio::time::pause();
    let mut table = Table::new().await;
    table.fill(20);
    for number in 1..=15 {
        table.spoil(&sandbox(number), "created_at").await;
    }
    let broker = table.broker("replica-1").await;
    sleep(Duration::from_secs(60)).await;
    let store_check = async || {
        // The answer of a check is kept for a moment.
        sleep(Duration::from_secs(60)).await;
        broker.checks().await.into_iter().find(|(name, _)| *name == "dynamodb").unwrap().1
    };
    assert!(store_check().await.is_err());
    for number in 1..=15 {
        table.repair(&sandbox(number)).await;
    }
    sleep(Duration::from_secs(900)).await;
    assert_eq!(store_check().await, Ok(()));
}
