//! Adoption of a table that the Python broker wrote, and the way back.

use reqwest::Method;

use crate::broker::{Broker, eventually};
use crate::csp::Csp;
use crate::old_service::{OldService, assert_readable_by_old_service, fixture};
use crate::table::{Dump, Server, assert_adopted, assert_only_added, now, number, number_of, run, text, text_of};

/// The holders of a table: track, key, sandbox.
fn holders(dump: &Dump) -> Vec<(String, String, String)> {
    let held = dump.values().filter(|item| text_of(item, "status") == "allocated");
    let name = |item, name| text_of(item, name).to_owned();
    held.map(|it| (name(it, "allocated_to_track"), name(it, "idempotency_key"), name(it, "sandbox_id"))).collect()
}

#[actix_web::test]
async fn a_dry_run_says_what_adoption_would_do_and_changes_nothing() {
    let server = Server::with_items(fixture()).await;
    let (items, indexes) = (server.dump().await, server.indexes().await);
    let report = server.succeed(&["adopt"]).await;
    for expected in [
        "is not adopted yet",
        "32  sandboxes:",
        "23    available",
        "1  NIOSXAAS#… items of other programs, which are left alone",
        "6  holders",
        "1  of them are past their end",
        "make the index StatusIndexSharded (status_shard + shard_at), beside StatusIndex",
        "32  sandboxes get epoch",
        "6  sandboxes get expires_at",
        "6  claims to make",
        "again with --yes",
    ] {
        assert!(report.contains(expected), "{expected} is not in\n{report}");
    }
    assert_eq!((server.dump().await, server.indexes().await), (items, indexes));
}

#[actix_web::test]
async fn holdings_without_an_end_need_the_length_of_a_lab() {
    let server = Server::with_items(fixture()).await;
    let items = server.dump().await;
    for flags in [&["adopt"][..], &["adopt", "--yes"]] {
        let done = run(server.command(flags, &[])).await;
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.err.contains("6 holdings") && done.err.contains("set LAB_DURATION_HOURS"), "{done:?}");
    }
    let done = run(server.command(&["adopt", "--yes"], &[("LAB_DURATION_HOURS", "two days")])).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert_eq!(server.dump().await, items);
}

/// Page 7 of the design: adopt beside the old service, stop that, adopt again, go back.
#[actix_web::test]
async fn adoption_beside_the_old_service_loses_nothing_and_can_be_taken_back() {
    let server = Server::with_items(fixture()).await;
    // The old service does not always write it.
    for id in [2_030_002, 2_030_006] {
        let mut item = server.get(&format!("SBX#{id}"), "META").await.unwrap();
        item.remove("last_synced");
        server.put(&item);
    }
    let old_service = OldService::start(server.client.clone());
    eventually("the old service allocates", async || {
        (old_service.allocated.load(std::sync::atomic::Ordering::Relaxed) > 2).then_some(())
    })
    .await;
    server.succeed(&["adopt", "--yes"]).await;
    server.succeed(&["adopt", "--yes"]).await;
    let allocated = old_service.stop().await;
    assert!(allocated > 5, "{allocated} allocations beside the adoption");

    let before = server.dump().await;
    server.succeed(&["adopt", "--yes"]).await;
    let adopted = server.dump().await;
    assert!(assert_adopted(&adopted, 16) >= 6);
    for (key, item) in before.iter().filter(|(key, _)| key.0.starts_with("SBX#") || key.0.starts_with("NIOS")) {
        let now = &adopted[key];
        for (name, value) in item.iter().filter(|(name, _)| !["epoch", "status_shard", "shard_at"].contains(&&***name))
        {
            assert_eq!(now.get(name), Some(value), "{name} of {key:?}");
        }
    }

    let again = server.succeed(&["adopt", "--yes"]).await;
    assert!(again.contains("Nothing to do."), "{again}");
    assert_eq!(server.dump().await, adopted, "a second run changes nothing");

    let report = server.succeed(&["unadopt"]).await;
    assert!(report.contains("Lost by it") && report.contains("again with --yes"), "{report}");
    assert_eq!(server.dump().await, adopted, "a dry run changes nothing");
    server.succeed(&["unadopt", "--yes"]).await;
    let returned = server.dump().await;
    assert_readable_by_old_service(&returned);
    let own = ["epoch", "expires_at", "status_shard", "shard_at", "adopted"];
    let mut old = before;
    old.retain(|(partition, _), _| partition.starts_with("SBX#") || partition.starts_with("NIOSXAAS#"));
    for item in old.values_mut() {
        // What adoption had to add, unless the old service has written it since.
        let remembered = item.get("adopted").map(|value| value.as_m().unwrap().clone()).unwrap_or_default();
        item.retain(|name, value| !own.contains(&name.as_str()) && remembered.get(name) != Some(value));
    }
    assert_eq!(returned, old, "exactly the old items");
    let again = server.succeed(&["unadopt", "--yes"]).await;
    assert!(again.contains("Nothing to do."), "{again}");
}

#[actix_web::test]
async fn unadoption_leaves_exactly_the_items_that_were_adopted() {
    let server = Server::with_items(fixture()).await;
    let mut sparse = server.get("SBX#2030007", "META").await.unwrap();
    for name in ["last_synced", "created_at", "updated_at", "deletion_retry_count", "allocated_at"] {
        sparse.remove(name);
    }
    server.put(&sparse);
    let mut without_key = server.get("SBX#2030006", "META").await.unwrap();
    without_key.remove("idempotency_key");
    without_key.insert("a_field_of_next_year".to_owned(), text("stays"));
    server.put(&without_key);
    let before = server.dump().await;
    server.succeed(&["adopt", "--yes"]).await;
    assert_adopted(&server.dump().await, 16);
    server.succeed(&["unadopt", "--yes"]).await;
    assert_eq!(server.dump().await, before);
    server.succeed(&["adopt", "--yes"]).await;
    assert_adopted(&server.dump().await, 16);
}

/// Each holder gets his own sandbox from a real broker, the one whose time is over does not, and is replaced.
#[actix_web::test]
async fn holders_go_on_with_the_new_broker_and_back() {
    let server = Server::with_items(fixture()).await;
    let before = server.dump().await;
    server.succeed(&["adopt", "--yes"]).await;
    assert_only_added(&before, &server.dump().await);

    let csp = Csp::of(&before);
    let jobs = [("CLEANUP_INTERVAL_SEC", "1"), ("SYNC_INTERVAL_SEC", "1"), ("JOB_LEASE_SEC", "3")];
    let broker = Broker::start(&[&server.settings()[..], &csp.settings(), &jobs].concat()).await;
    let mut ended = None;
    for (track, key, sandbox_id) in holders(&before) {
        if track == "part-expired-60h" {
            ended = Some(sandbox_id);
            continue;
        }
        let answer = broker.allocate(&track, &key).await;
        assert_eq!((answer.status, answer.sandbox_id()), (200, sandbox_id.as_str()), "{track}: {answer:?}");
        let item = server.get(&format!("SBX#{sandbox_id}"), "META").await.unwrap();
        assert_eq!(answer.body["expires_at"], number_of(&item, "allocated_at") + 48 * 3600);
    }
    let ended = ended.unwrap();
    let path = text_of(&before[&(format!("SBX#{ended}"), "META".to_owned())], "external_id").to_owned();
    eventually("the holding that is over is deleted", async || csp.deleted().contains(&path).then_some(())).await;
    eventually("its replacement is available", async || {
        let dump = server.dump().await;
        let is_new = |item: &&crate::table::Item| text_of(item, "sandbox_id").starts_with("29");
        dump.values().find(is_new).filter(|item| text_of(item, "status") == "available").map(|_| ())
    })
    .await;
    let next = broker.allocate("part-expired-60h", "part-expired-60h").await;
    assert_eq!(next.status, 201, "{next:?}");
    assert_ne!(next.sandbox_id(), ended);

    let refused = server.table(&["unadopt", "--yes"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("brokers are running") && refused.err.contains("--force"), "{refused:?}");
    broker.process.terminate().await;
    let held = holders(&server.dump().await);
    server.succeed(&["unadopt", "--yes"]).await;
    let returned = server.dump().await;
    assert_readable_by_old_service(&returned);
    assert_eq!(holders(&returned), held, "nothing of a holding is lost");
    for key in before.keys() {
        assert!(returned.contains_key(key), "{key:?} is gone");
    }
    assert!(returned.keys().all(|(partition, _)| partition.starts_with("SBX#") || partition.starts_with("NIOSXAAS#")));
}

#[actix_web::test]
async fn a_table_that_is_not_adopted_is_not_served() {
    let server = Server::with_items(fixture()).await;
    let csp = [("CSP_MODE", "sim"), ("BROKER_PORT", "0"), ("LAB_DURATION_HOURS", "48")];
    let tokens = [("BROKER_API_TOKEN", crate::broker::TRACK_TOKEN), ("BROKER_ADMIN_TOKEN", crate::broker::ADMIN_TOKEN)];
    let settings = [&server.settings()[..], &csp, &tokens].concat();
    let serve = async || run(crate::table::program(&[], &settings)).await;
    let done = serve().await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("sandbox-broker table adopt --yes"), "{done:?}");

    let schema = |form: u64| {
        crate::table::item("CTRL#schema".to_owned(), "META", [("form", number(form)), ("shards", number(16))])
    };
    server.succeed(&["adopt", "--yes"]).await;
    let mut marked = schema(2);
    marked.insert("resharding_to".to_owned(), number(32));
    server.put(&marked);
    let done = serve().await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("table reshard --shards 32 --yes"), "{done:?}");
    for command in [&["adopt", "--yes"][..], &["check"], &["drop-old-index"]] {
        assert_eq!(server.table(command).await.code, Some(2), "{command:?}");
    }
    server.put(&schema(3));
    let done = serve().await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("newer"), "{done:?}");
    assert_eq!(server.table(&["adopt", "--yes"]).await.code, Some(2));
    let empty = Server::start();
    let settings = [&empty.settings()[..], &csp, &tokens].concat();
    let done = run(crate::table::program(&[], &settings)).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("sandbox-broker table create"), "{done:?}");
}

/// The earlier of two holdings under one key gets the claim, the other one is reported and still ends in time.
#[actix_web::test]
async fn two_holdings_under_one_key_and_items_that_cannot_be_read_are_reported() {
    let server = Server::with_items(fixture()).await;
    let change = async |id: u64, change: &dyn Fn(&mut crate::table::Item)| {
        let mut item = server.get(&format!("SBX#{id}"), "META").await.unwrap();
        change(&mut item);
        server.put(&item);
    };
    change(2_030_020, &|item| {
        item.extend([
            ("status".to_owned(), text("allocated")),
            ("allocated_at".to_owned(), number(now() - 7200)),
            ("allocated_to_track".to_owned(), text("legacy-student")),
            ("idempotency_key".to_owned(), text("legacy-student")),
        ]);
    })
    .await;
    change(2_030_021, &|item| drop(item.remove("name"))).await;
    change(2_030_022, &|item| drop(item.insert("status".to_owned(), text("borrowed")))).await;
    change(2_030_011, &|item| drop(item.remove("allocated_to_track"))).await;
    change(2_030_023, &|item| drop(item.insert("sandbox_id".to_owned(), text("77")))).await;
    let before = server.dump().await;
    let report = server.succeed(&["adopt", "--yes"]).await;
    for expected in [
        "SBX#2030021/META: name is missing",
        "SBX#2030022/META: status is `borrowed`",
        "SBX#2030011/META: it is allocated, but allocated_to_track is missing",
        "SBX#2030023/META: sandbox_id is 77, not that of its key",
        "4  items that cannot be read",
        "1  second holdings",
        "SBX#2030006: track legacy-student with key legacy-student holds SBX#2030020 since earlier",
    ] {
        assert!(report.contains(expected), "{expected} is not in\n{report}");
    }
    let after = server.dump().await;
    assert_only_added(&before, &after);
    let claim = &after[&("TRACK#legacy-student".to_owned(), "CLAIM#legacy-student".to_owned())];
    assert_eq!(text_of(claim, "sandbox_id"), "2030020");
    let second = &after[&("SBX#2030006".to_owned(), "META".to_owned())];
    assert!(text_of(second, "status_shard").starts_with("allocated#"), "{second:?}");
    for id in [2_030_021, 2_030_022, 2_030_011, 2_030_023] {
        let key = (format!("SBX#{id}"), "META".to_owned());
        assert_eq!(after[&key], before[&key], "left as it is");
    }
    server.succeed(&["adopt", "--yes"]).await;
    assert_eq!(server.dump().await, after, "a second run changes nothing");

    let csp = Csp::of(&before);
    let broker = Broker::start(&[&server.settings()[..], &csp.settings()].concat()).await;
    assert_eq!(broker.allocate("legacy-student", "legacy-student").await.sandbox_id(), "2030020");
    let stats = broker.admin(Method::GET, "stats").await;
    assert_eq!(stats.status, 200, "{stats:?}");
}

/// A student of the old service who released and took another sandbox between two runs must get the new one.
#[actix_web::test]
async fn a_second_run_follows_what_the_old_service_did_in_between() {
    let server = Server::with_items(fixture()).await;
    server.succeed(&["adopt", "--yes"]).await;
    let mut released = server.get("SBX#2030006", "META").await.unwrap();
    released.insert("status".to_owned(), text("pending_deletion"));
    released.insert("deletion_requested_at".to_owned(), number(now()));
    released.insert("updated_at".to_owned(), number(now()));
    server.put(&released);
    let mut taken = server.get("SBX#2030007", "META").await.unwrap();
    taken.extend([
        ("status".to_owned(), text("allocated")),
        ("allocated_at".to_owned(), number(now())),
        ("allocated_to_track".to_owned(), text("legacy-student")),
        ("idempotency_key".to_owned(), text("legacy-student")),
        ("updated_at".to_owned(), number(now())),
    ]);
    server.put(&taken);
    // Another one only released.
    let mut only_released = server.get("SBX#2030017", "META").await.unwrap();
    only_released.insert("status".to_owned(), text("pending_deletion"));
    server.put(&only_released);
    // And one account is deleted and listed again by the old service.
    let mut listed_again = server.get("SBX#2030008", "META").await.unwrap();
    let old_epoch = number_of(&listed_again, "epoch");
    listed_again.retain(|name, _| !["epoch", "status_shard", "shard_at"].contains(&name.as_str()));
    server.put(&listed_again);

    let report = server.succeed(&["adopt", "--yes"]).await;
    assert!(report.contains("1  claims without a holding to delete"), "{report}");
    assert!(report.contains("sandboxes that another program changed"), "{report}");
    let dump = server.dump().await;
    assert_eq!(assert_adopted(&dump, 16), 5);
    let claim = &dump[&("TRACK#legacy-student".to_owned(), "CLAIM#legacy-student".to_owned())];
    assert_eq!(text_of(claim, "sandbox_id"), "2030007");
    let key = |id: u64| (format!("SBX#{id}"), "META".to_owned());
    assert_eq!(number_of(&dump[&key(2_030_006)], "epoch"), number_of(&released, "epoch") + 1, "I5");
    assert!(number_of(&dump[&key(2_030_008)], "epoch") > old_epoch, "no two lives share an epoch");
}
