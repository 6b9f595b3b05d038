//! `table check`: each kind of tear is found and repaired, and a table in use is not said to be torn.

use std::cell::Cell;

use crate::broker::Broker;
use crate::csp::Csp;
use crate::old_service::{fixture, generated};
use crate::table::{Item, Server, assert_adopted, now, number, text};

async fn adopted() -> Server {
    let server = Server::with_items(fixture()).await;
    server.succeed(&["adopt", "--yes"]).await;
    server
}

async fn change(server: &Server, partition: &str, sort: &str, change: impl FnOnce(&mut Item)) {
    let mut item = server.get(partition, sort).await.unwrap();
    change(&mut item);
    server.put(&item);
}

#[actix_web::test]
async fn each_kind_of_tear_is_found_and_repaired() {
    let server = adopted().await;
    let clean = server.succeed(&["check"]).await;
    assert!(clean.contains("All of them fit together."), "{clean}");

    // A claim that a restore brought back, and one that it lost.
    let mut orphan = server.get("TRACK#part-1", "CLAIM#part-1").await.unwrap();
    orphan.insert("PK".to_owned(), text("TRACK#gone"));
    server.put(&orphan);
    server.delete("TRACK#part-2", "CLAIM#my-own-key");
    change(&server, "TRACK#part-3", "CLAIM#part-3", |claim| drop(claim.insert("epoch".to_owned(), number(3)))).await;
    change(&server, "TRACK#part-1", "CLAIM#part-1", |claim| drop(claim.insert("expires_at".to_owned(), number(9))))
        .await;
    change(&server, "TRACK#legacy-student", "CLAIM#legacy-student", |claim| {
        claim.insert("ttl".to_owned(), number(now() + 60));
    })
    .await;
    change(&server, "TRACK#part-old-20h", "CLAIM#part-old-20h", |claim| drop(claim.remove("held_since"))).await;
    // Sandboxes in a wrong place of the index.
    change(&server, "SBX#2030002", "META", |item| {
        item.insert("status_shard".to_owned(), text("stale#00"));
    })
    .await;
    change(&server, "SBX#2030004", "META", |item| drop(item.insert("shard_at".to_owned(), number(5)))).await;
    change(&server, "SBX#2030003", "META", |item| drop(item.insert("shard_at".to_owned(), number(now() + 1)))).await;
    // A sandbox that another program wrote.
    change(&server, "SBX#2030005", "META", |item| {
        item.retain(|name, _| !["epoch", "status_shard", "shard_at"].contains(&name.as_str()));
    })
    .await;

    let torn = server.dump().await;
    let found = server.table(&["check"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    for expected in [
        "1  claims without a holding",
        "TRACK#gone/CLAIM#part-1: names 2030011, which is not held under it",
        "1  holdings without a claim",
        "SBX#2030001: TRACK#part-2/CLAIM#my-own-key is missing",
        "4  claims that differ",
        "TRACK#part-3/CLAIM#part-3: has another epoch than SBX#2030017",
        "TRACK#part-1/CLAIM#part-1: has another end than SBX#2030011",
        "TRACK#legacy-student/CLAIM#legacy-student: has a ttl",
        "TRACK#part-old-20h/CLAIM#part-old-20h: cannot be read",
        "3  sandboxes in the wrong place",
        "SBX#2030003/META",
        "SBX#2030002/META",
        "SBX#2030004/META",
        "1  sandboxes that another program wrote",
        "SBX#2030005/META",
        "again with --yes",
    ] {
        assert!(found.out.contains(expected), "{expected} is not in\n{}", found.out);
    }
    assert_eq!(server.dump().await, torn, "a dry run changes nothing");

    let repaired = server.succeed(&["check", "--yes"]).await;
    assert!(repaired.contains("All of them fit together."), "{repaired}");
    assert_eq!(assert_adopted(&server.dump().await, 16), 6);
}

#[actix_web::test]
async fn what_only_an_operator_can_decide_is_reported_and_left() {
    let server = adopted().await;
    change(&server, "SBX#2030020", "META", |item| {
        item.extend([
            ("status".to_owned(), text("allocated")),
            ("status_shard".to_owned(), text("allocated#00")),
            ("allocated_at".to_owned(), number(now())),
            ("expires_at".to_owned(), number(now() + 3600)),
            ("allocated_to_track".to_owned(), text("part-1")),
            ("idempotency_key".to_owned(), text("part-1")),
        ]);
    })
    .await;
    change(&server, "SBX#2030021", "META", |item| drop(item.remove("name"))).await;
    change(&server, "SBX#2030006", "META", |item| drop(item.remove("expires_at"))).await;
    server.put(&crate::table::item("LEASE#cleanup".to_owned(), "META", [("holder", number(1))]));
    let found = server.table(&["check", "--yes"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    for expected in [
        "SBX#2030020: track part-1 with key part-1 holds SBX#2030011",
        "SBX#2030021/META: name is missing",
        "1  holdings without an end",
        "SBX#2030006/META",
        "LEASE#cleanup/META: holder is not a string",
    ] {
        assert!(found.out.contains(expected), "{expected} is not in\n{}", found.out);
    }
    assert!(server.get("TRACK#legacy-student", "CLAIM#legacy-student").await.is_some(), "its holder keeps it");
    assert!(server.get("SBX#2030021", "META").await.is_some());
}

/// A scan sees a claim and its sandbox at different moments. What brokers write meanwhile is no tear.
#[actix_web::test]
async fn a_table_in_use_is_not_torn() {
    // Several pages, so that claims are read later than their sandboxes.
    let server = Server::with_items(generated(2000)).await;
    server.succeed(&["adopt", "--yes"]).await;
    let csp = Csp::of(&server.dump().await);
    let broker = Broker::start(&[&server.settings()[..], &csp.settings()].concat()).await;
    let (allocations, is_checked) = (Cell::new(0), Cell::new(false));
    let load = async {
        while !is_checked.get() {
            let track = format!("student-{}", allocations.get());
            let answer = broker.allocate(&track, "key").await;
            if answer.status == 409 && allocations.get() > 50 {
                break;
            }
            assert_eq!(answer.status, 201, "{answer:?}");
            allocations.set(allocations.get() + 1);
            if allocations.get() % 2 == 0 {
                assert_eq!(broker.release(answer.sandbox_id(), &track).await.status, 200);
            }
        }
    };
    let checks = async {
        let mut checks = 0;
        while checks < 5 || allocations.get() <= 50 {
            checks += 1;
            let clean = server.succeed(&["check", "--yes"]).await;
            assert!(clean.contains("All of them fit together."), "{clean}");
        }
        is_checked.set(true);
    };
    tokio::join!(load, checks);
    assert_adopted(&server.dump().await, 16);
}
