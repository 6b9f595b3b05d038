//! Adoption in pages, killed in the middle and run again, beside the old service.

use crate::broker::{Process, eventually};
use crate::old_service::{OldService, assert_readable_by_old_service, generated};
use crate::table::{Server, assert_adopted, assert_only_added};

const ITEMS: u64 = 20_000;

#[actix_web::test]
async fn twenty_thousand_items_are_adopted_although_the_program_is_killed_twice() {
    let server = Server::with_items(generated(ITEMS)).await;
    let before = server.dump().await;
    let adopt = || server.command(&["adopt", "--yes"], &[("LAB_DURATION_HOURS", "48")]);

    for (step, least, most) in
        [("Writing holdings and their claims", 1, 2000), ("Writing the other sandboxes", 2001, ITEMS as usize - 1)]
    {
        let mut process = Process::spawn(adopt());
        assert!(process.printed(step).await, "{}", process.output());
        eventually("some items are adopted", async || (server.count_with("status_shard").await >= least).then_some(()))
            .await;
        assert!(process.kill(), "it was over before it was killed: {}", process.output());
        let dump = server.dump().await;
        let adopted = server.count_with("status_shard").await;
        assert!((least..=most).contains(&adopted), "{step}: {adopted} items are adopted");
        assert!(!dump.contains_key(&("CTRL#schema".to_owned(), "META".to_owned())));
        assert_only_added(&before, &dump);
    }

    server.succeed(&["adopt", "--yes"]).await;
    let adopted = server.dump().await;
    assert_eq!(assert_adopted(&adopted, 16), ITEMS as usize / 10);
    assert_only_added(&before, &adopted);
    server.succeed(&["adopt", "--yes"]).await;
    assert_eq!(server.dump().await, adopted, "a second run changes nothing");
    server.succeed(&["unadopt", "--yes"]).await;
    assert_eq!(server.dump().await, before, "exactly the old items");
}

#[actix_web::test]
async fn many_items_are_adopted_while_the_old_service_works() {
    let server = Server::with_items(generated(3000)).await;
    let old_service = OldService::start(server.client.clone());
    server.succeed(&["adopt", "--yes"]).await;
    server.succeed(&["adopt", "--yes"]).await;
    let allocated = old_service.stop().await;
    assert!(allocated > 20, "{allocated} allocations beside the adoption");
    server.succeed(&["adopt", "--yes"]).await;
    assert_adopted(&server.dump().await, 16);
    server.succeed(&["check"]).await;
    server.succeed(&["unadopt", "--yes"]).await;
    assert_readable_by_old_service(&server.dump().await);
}
