//! What a large listing of the CSP costs.

use std::sync::{Arc, Mutex};

use serde_json::json;
use test_support::{Broker, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What a listing may add to a broker's resident memory: 64 MiB. The listing itself is up to 16 MiB of that.
const MAX_GROWTH_KIB: u64 = 64 * 1024;

/// A CSP that answers every request with the present body, and its URL.
async fn csp(body: Arc<Mutex<Vec<u8>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let body = body.lock().unwrap().clone();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            // The broker may stop reading.
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    url
}

/// The status of a dry run of the sync, and how much resident memory grew. The store's own memory grows with each write,
/// so nothing is written.
async fn dry_run(listing: Vec<u8>) -> (u16, u64) {
    let body = Arc::new(Mutex::new(br#"{"results":[]}"#.to_vec()));
    let url = csp(Arc::clone(&body)).await;
    let settings = [
        ("BROKER_STORE", "memory"),
        ("CSP_MODE", "http"),
        ("CSP_BASE_URL", &url),
        ("CSP_API_TOKEN", "csp-token"),
        ("SYNC_INTERVAL_SEC", "86400"),
    ];
    let broker = Broker::start(&settings).await;
    eventually("the first sync is over", async || {
        let actor = broker.get_admin("/v1/admin/actors/csp-sync").await;
        (!actor.body["last_run"].is_null()).then_some(())
    })
    .await;
    let (before, _) = broker.process.resident_kib();
    *body.lock().unwrap() = listing;
    let answer = broker.sync("?dry_run=true").await;
    (answer.status.as_u16(), broker.process.resident_kib().1.saturating_sub(before))
}

#[tokio::test]
async fn sixteen_mebibytes_of_tiny_records_take_little_more_memory_than_their_length() {
    for record in ["0", "{}", "[]"] {
        let count = (16 * 1024 * 1024 - 64) / (record.len() + 1);
        let body = format!("{{\"results\":[{}]}}", vec![record; count].join(","));
        let (status, growth) = dry_run(body.into_bytes()).await;
        assert!(growth <= MAX_GROWTH_KIB, "{growth} KiB for {count} times {record} ({status})");
    }
}

#[tokio::test]
async fn ten_thousand_records_of_many_fields_are_read_within_the_bound() {
    let records: Vec<_> = (0..10_000)
        .map(|number| {
            let mut record = json!({
                "account_type": "sandbox", "state": "active", "csp_id": number, "name": format!("lab-{number:05}"),
                "id": format!("identity/accounts/00000000-0000-4000-8000-{number:012}"),
            });
            for field in 0..20 {
                record[format!("other_field_{field}")] = json!(format!("a value that is not read {number}"));
            }
            record
        })
        .collect();
    let (status, growth) = dry_run(json!({ "results": records }).to_string().into_bytes()).await;
    assert_eq!(status, 200);
    assert!(growth <= MAX_GROWTH_KIB, "{growth} KiB");
}

#[tokio::test]
async fn a_listing_above_the_limit_is_refused() {
    let (status, growth) = dry_run(vec![b' '; 17 * 1024 * 1024]).await;
    assert_eq!(status, 502);
    assert!(growth <= MAX_GROWTH_KIB, "{growth} KiB");
}
