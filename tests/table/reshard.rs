//! `table reshard`.

use crate::broker::{ADMIN_TOKEN, Broker, Process, TRACK_TOKEN, eventually};
use crate::old_service::generated;
use crate::table::{Dump, Item, Server, assert_adopted, number_of, program, run, text_of};

async fn adopted(items: u64) -> Server {
    let server = Server::with_items(generated(items)).await;
    server.succeed(&["adopt", "--yes"]).await;
    server
}

fn without_shards(mut dump: Dump) -> Dump {
    dump.values_mut().for_each(|item| drop(item.remove("status_shard")));
    dump
}

#[actix_web::test]
async fn resharding_moves_every_sandbox_and_changes_nothing_else() {
    let server = adopted(300).await;
    let before = server.dump().await;
    let dry = server.succeed(&["reshard", "--shards", "48"]).await;
    assert!(dry.contains("has 16 shards and gets 48") && dry.contains("again with --yes"), "{dry}");
    assert_eq!(server.dump().await, before);
    server.succeed(&["reshard", "--shards", "48", "--yes"]).await;
    let after = server.dump().await;
    assert_adopted(&after, 48);
    let schema = ("CTRL#schema".to_owned(), "META".to_owned());
    let strip = |dump: Dump| {
        let mut dump = without_shards(dump);
        dump.remove(&schema);
        dump
    };
    assert_eq!(strip(after), strip(before));
    let again = server.succeed(&["reshard", "--shards", "48", "--yes"]).await;
    assert!(again.contains("Nothing to do."), "{again}");
    server.succeed(&["check"]).await;
}

#[actix_web::test]
async fn resharding_waits_until_no_broker_runs() {
    let server = adopted(20).await;
    let broker = Broker::start(&[&server.settings()[..], &[("CSP_MODE", "sim")]].concat()).await;
    let refused = server.table(&["reshard", "--shards", "8", "--yes"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("brokers are running"), "{refused:?}");
    let schema = server.get("CTRL#schema", "META").await.unwrap();
    assert!(!schema.contains_key("resharding_to"), "a broker could not be restarted: {schema:?}");
    broker.process.terminate().await;
    server.succeed(&["reshard", "--shards", "8", "--yes"]).await;
    assert_eq!(number_of(&server.get("CTRL#schema", "META").await.unwrap(), "shards"), 8);
}

#[actix_web::test]
async fn a_resharding_that_is_killed_is_finished_by_the_next_run() {
    let server = adopted(4000).await;
    let mut process = Process::spawn(server.command(&["reshard", "--shards", "512", "--yes"], &[]));
    assert!(process.printed("Moving sandboxes").await, "{}", process.output());
    let is_high = |item: &&Item| text_of(item, "status_shard").split_once('#').is_some_and(|(_, shard)| shard > "0f");
    let moved = async || server.dump().await.values().filter(is_high).count();
    eventually("some sandboxes are moved", async || (moved().await > 0).then_some(())).await;
    assert!(process.kill(), "it was over before it was killed: {}", process.output());
    let dump = server.dump().await;
    let schema = &dump[&("CTRL#schema".to_owned(), "META".to_owned())];
    assert_eq!((number_of(schema, "shards"), number_of(schema, "resharding_to")), (16, 512));
    let moved = moved().await;
    assert!((1..3900).contains(&moved), "{moved} were moved");

    let tokens = [("BROKER_API_TOKEN", TRACK_TOKEN), ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN)];
    let others = [("CSP_MODE", "sim"), ("BROKER_PORT", "0"), ("LAB_DURATION_HOURS", "4")];
    let settings = [&server.settings()[..], &tokens, &others].concat();
    let refused = run(program(&[], &settings)).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("table reshard --shards 512 --yes"), "{refused:?}");
    server.succeed(&["reshard", "--shards", "512", "--yes"]).await;
    assert_adopted(&server.dump().await, 512);
}
