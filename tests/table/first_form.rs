//! Tables of this broker's first form: an index by the bare status, claims with a `ttl`, epochs from 1.

use sandbox_broker::dynamo::embedded::{EmbeddedEngine, OpenError};

use crate::broker::{Broker, eventually};
use crate::csp::Csp;
use crate::table::{
    Dump, Item, Server, assert_adopted, assert_only_added, create_old_table, dump, item, now, number, number_of,
    program, run, text, text_of,
};

/// Sandboxes in every status, with claims, a lease, a command and a heartbeat.
fn first_form() -> Vec<Item> {
    let now = now();
    let sandbox = |id: u64, status: &str, epoch: u64| {
        item(
            format!("SBX#{id}"),
            "META",
            [
                ("sandbox_id", text(id.to_string())),
                ("name", text(format!("lab-{id}"))),
                ("external_id", text(format!("identity/accounts/00000000-0000-4000-8000-{id:012}"))),
                ("status", text(status)),
                ("allocated_at", number(0)),
                ("deletion_retry_count", number(0)),
                ("created_at", number(now - 9000)),
                ("updated_at", number(now - 100)),
                ("last_synced", number(now - 9000)),
                ("epoch", number(epoch)),
            ],
        )
    };
    let mut items = Vec::new();
    for id in 1..=10 {
        items.push(sandbox(id, "available", 1));
    }
    for id in 11..=14 {
        let mut held = sandbox(id, "allocated", 2);
        held.extend([
            ("allocated_at".to_owned(), number(now - 100)),
            ("expires_at".to_owned(), number(now + 14_300)),
            ("allocated_to_track".to_owned(), text(format!("student-{id}"))),
            ("idempotency_key".to_owned(), text("key")),
        ]);
        items.push(held);
        items.push(item(
            format!("TRACK#student-{id}"),
            "CLAIM#key",
            [
                ("sandbox_id", text(id.to_string())),
                ("name", text(format!("lab-{id}"))),
                ("external_id", text(format!("identity/accounts/00000000-0000-4000-8000-{id:012}"))),
                ("held_since", number(now - 100)),
                ("expires_at", number(now + 14_300)),
                ("epoch", number(2)),
                ("ttl", number(now + 2_000_000)),
            ],
        ));
    }
    let mut waiting = sandbox(15, "pending_deletion", 4);
    waiting.insert("next_attempt_at".to_owned(), number(now + 600));
    waiting.insert("deletion_retry_count".to_owned(), number(1));
    waiting.insert("last_error".to_owned(), text("the CSP answered 500"));
    let mut tombstone = sandbox(16, "deleted", 5);
    tombstone.insert("ttl".to_owned(), number(now + 80_000));
    items.extend([waiting, tombstone, sandbox(17, "stale", 2), sandbox(18, "deletion_failed", 6)]);
    items.push(item(
        "LEASE#cleanup".to_owned(),
        "META",
        [
            ("holder", text("one")),
            ("expires_at", number(0)),
            ("term", number(5)),
            ("ran_at", number(now - 60)),
            ("last_run", text("{}")),
        ],
    ));
    items.push(item(
        "CTRL#stale-collector".to_owned(),
        "META",
        [
            ("actor", text("stale-collector")),
            ("desired", text("paused")),
            ("reason", text("holidays")),
            ("by", text("admin")),
            ("at", number(now - 60)),
        ],
    ));
    items.push(item(
        "LEASE#pool-manager".to_owned(),
        "REPLICA#one",
        [("holder", text("one")), ("expires_at", number(now - 5)), ("ttl", number(now - 5))],
    ));
    items
}

/// The positions in the index follow from what each status waits for; epochs stay, claims lose their `ttl`.
fn assert_upgraded(before: &Dump, after: &Dump) {
    assert_eq!(assert_adopted(after, 16), 4);
    let mut without_ttl = before.clone();
    for item in without_ttl.values_mut().filter(|item| text_of(item, "SK") == "CLAIM#key") {
        item.remove("ttl");
    }
    assert_only_added(&without_ttl, after);
    let position = |id: u64| number_of(&after[&(format!("SBX#{id}"), "META".to_owned())], "shard_at");
    let stored = |id: u64, name: &str| number_of(&before[&(format!("SBX#{id}"), "META".to_owned())], name);
    assert_eq!(position(1), stored(1, "updated_at"));
    assert_eq!(position(11), stored(11, "expires_at"));
    assert_eq!(position(15), stored(15, "next_attempt_at"));
    assert_eq!(position(16), stored(16, "ttl"));
    assert_eq!(position(17), stored(17, "updated_at"));
}

#[actix_web::test]
async fn a_table_of_the_first_form_is_adopted_and_served() {
    let server = Server::with_items(first_form()).await;
    let before = server.dump().await;
    // Its holdings have an end, so the length of a lab need not be known.
    let report = run(server.command(&["adopt"], &[])).await;
    assert_eq!(report.code, Some(0), "{report:?}");
    assert!(report.out.contains("4  claims to correct"), "{report:?}");
    let done = run(server.command(&["adopt", "--yes"], &[])).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let after = server.dump().await;
    assert_upgraded(&before, &after);
    server.succeed(&["adopt", "--yes"]).await;
    assert_eq!(server.dump().await, after, "a second run changes nothing");

    let csp = Csp::of(&before);
    let broker = Broker::start(&[&server.settings()[..], &csp.settings()].concat()).await;
    for id in 11..=14 {
        let answer = broker.allocate(&format!("student-{id}"), "key").await;
        assert_eq!((answer.status, answer.sandbox_id()), (200, id.to_string().as_str()), "{answer:?}");
    }
    assert_eq!(broker.allocate("student-20", "key").await.status, 201);
}

/// Replicas of the first form change `status` and know no `status_shard`.
#[actix_web::test]
async fn a_table_of_the_first_form_is_not_adopted_while_its_brokers_run() {
    let server = Server::with_items(first_form()).await;
    server.put(&item(
        "LEASE#pool-manager".to_owned(),
        "REPLICA#two",
        [("holder", text("two")), ("expires_at", number(now() + 3))],
    ));
    let before = server.dump().await;
    let refused = server.table(&["adopt", "--yes"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("brokers are running on the table `sandbox-broker-pool`: two;"), "{refused:?}");
    assert_eq!(server.dump().await, before);
    eventually("the heartbeat ends", async || (server.table(&["adopt", "--yes"]).await.code == Some(0)).then_some(()))
        .await;
}

#[actix_web::test]
async fn an_embedded_store_of_the_first_form_upgrades_itself_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let client = EmbeddedEngine::on_disk(directory.path()).unwrap().client();
        create_old_table(&client).await;
        for item in first_form() {
            client.put_item().table_name(crate::table::TABLE).set_item(Some(item)).send().await.unwrap();
        }
        dump(&client).await
    };
    eventually("the store is closed", async || match EmbeddedEngine::on_disk(directory.path()) {
        Err(OpenError::InUse(_)) => None,
        opened => opened.ok().map(|_| ()),
    })
    .await;
    let path = directory.path().to_str().unwrap();
    let settings = [("BROKER_STORE", "embedded"), ("BROKER_DATA_DIR", path)];
    let csp = Csp::of(&before);
    let broker = Broker::start(&[&settings[..], &csp.settings()].concat()).await;
    assert!(broker.process.output().contains("table_upgraded"), "{}", broker.process.output());
    for id in 11..=14 {
        let answer = broker.allocate(&format!("student-{id}"), "key").await;
        assert_eq!((answer.status, answer.sandbox_id()), (200, id.to_string().as_str()), "{answer:?}");
    }
    broker.process.terminate().await;
    let checked = run(program(&["table", "check"], &settings)).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");

    // A second start has nothing to upgrade.
    let broker = Broker::start(&[&settings[..], &csp.settings()].concat()).await;
    assert!(!broker.process.output().contains("table_upgrade"), "{}", broker.process.output());
    assert_eq!(broker.allocate("student-11", "key").await.sandbox_id(), "11");
}
