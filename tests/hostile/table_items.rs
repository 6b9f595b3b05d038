//! Items with invalid attributes: only requests that need such an item fail, and nothing panics.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use test_support::{Broker, DynamoServer, assert_error, send};
use tokio::runtime::Runtime;

use crate::properties;

type Item = HashMap<String, AttributeValue>;

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: &str) -> AttributeValue {
    AttributeValue::N(value.to_owned())
}

fn item(attributes: &[(&str, AttributeValue)]) -> Item {
    attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn sandbox(status: &str) -> Item {
    item(&[
        ("PK", text("SBX#77")),
        ("SK", text("META")),
        ("sandbox_id", text("77")),
        ("name", text("odd-77")),
        ("external_id", text("identity/accounts/77")),
        ("status", text(status)),
        ("allocated_at", number("1000")),
        ("expires_at", number("9000000000")),
        ("allocated_to_track", text("odd")),
        ("track_name", text("lab")),
        ("idempotency_key", text("odd")),
        ("deletion_requested_at", number("1000")),
        ("deletion_retry_count", number("0")),
        ("next_attempt_at", number("1000")),
        ("created_at", number("1000")),
        ("updated_at", number("1000")),
        ("last_synced", number("1000")),
        ("epoch", number("3")),
    ])
}

fn claim() -> Item {
    item(&[
        ("PK", text("TRACK#odd")),
        ("SK", text("CLAIM#odd")),
        ("sandbox_id", text("77")),
        ("name", text("odd-77")),
        ("external_id", text("identity/accounts/77")),
        ("held_since", number("1000")),
        ("expires_at", number("9000000000")),
        ("epoch", number("3")),
        ("ttl", number("9000000000")),
    ])
}

fn lease() -> Item {
    item(&[
        ("PK", text("LEASE#cleanup")),
        ("SK", text("META")),
        ("holder", text("another-replica")),
        ("expires_at", number("0")),
        ("term", number("5")),
        ("ran_at", number("1000")),
        ("last_run", text("{}")),
    ])
}

fn control() -> Item {
    item(&[
        ("PK", text("CTRL#stale-collector")),
        ("SK", text("META")),
        ("actor", text("stale-collector")),
        ("desired", text("running")),
        ("reason", text("why")),
        ("by", text("admin")),
        ("at", number("1000")),
    ])
}

fn odd_value() -> impl Strategy<Value = Option<AttributeValue>> {
    prop_oneof![
        Just(None),
        select(vec!["0", "1", "-1", "1.5", "4294967296", "18446744073709551615", "18446744073709551616", "1e30"])
            .prop_map(|value| Some(number(value))),
        "[ -~é\u{0}]{1,12}".prop_map(|value| Some(text(&value))),
        any::<bool>().prop_map(|value| Some(AttributeValue::Bool(value))),
        Just(Some(AttributeValue::Null(true))),
        Just(Some(AttributeValue::L(Vec::new()))),
    ]
}

/// An item of each kind, in which some attributes are invalid.
fn invalid_items() -> impl Strategy<Value = [Item; 4]> {
    let statuses = select(vec!["available", "allocated", "pending_deletion", "stale", "deletion_failed", "deleted"]);
    let changes = || vec((any::<prop::sample::Index>(), odd_value()), 0..3);
    (statuses, changes(), changes(), changes(), changes()).prop_map(|(status, a, b, c, d)| {
        [(sandbox(status), a), (claim(), b), (lease(), c), (control(), d)].map(|(mut item, changes)| {
            let mut names: Vec<String> =
                item.keys().filter(|name| !["PK", "SK"].contains(&&***name)).cloned().collect();
            names.sort();
            for (index, value) in changes {
                let name = index.get(&names);
                // DynamoDB refuses values of the wrong type for the keys of an index.
                let is_string_key = ["status", "allocated_to_track", "idempotency_key"].contains(&name.as_str());
                match value {
                    None => drop(item.remove(name)),
                    Some(AttributeValue::S(value)) if name != "allocated_at" => {
                        drop(item.insert(name.clone(), text(&value)))
                    }
                    Some(AttributeValue::N(value)) if !is_string_key => drop(item.insert(name.clone(), number(&value))),
                    Some(value) if !is_string_key && name != "allocated_at" => drop(item.insert(name.clone(), value)),
                    Some(_) => {}
                }
            }
            item
        })
    })
}

async fn put(client: &Client, item: &Item) {
    client.put_item().table_name("sandbox-broker-pool").set_item(Some(item.clone())).send().await.unwrap();
}

/// Puts the items, calls every endpoint that reads them, and deletes them.
async fn call_endpoints(broker: &Broker, client: &Client, items: &[Item]) {
    for item in items {
        put(client, item).await;
    }
    let calls = [
        broker.admin(Method::POST, "/v1/admin/actors/pool-manager/run"),
        broker.track(Method::GET, "/v1/sandboxes/77", "odd"),
        broker.track(Method::POST, "/v1/allocate", "odd"),
        broker.track(Method::POST, "/v1/allocate", "another").header("X-Sandbox-Name-Prefix", "odd-"),
        broker.track(Method::POST, "/v1/sandboxes/77/renew", "odd"),
        broker.admin(Method::GET, "/v1/admin/sandboxes"),
        broker.admin(Method::GET, "/v1/admin/sandboxes?search=odd"),
        broker.admin(Method::GET, "/v1/admin/actors"),
        broker.admin(Method::POST, "/v1/admin/auto-expire"),
        broker.track(Method::POST, "/v1/sandboxes/77/mark-for-deletion", "odd"),
        broker.admin(Method::POST, "/v1/admin/sandboxes/77/release"),
        broker.admin(Method::POST, "/v1/admin/sandboxes/77/retry-deletion"),
        broker.admin(Method::POST, "/v1/admin/cleanup"),
        broker.admin(Method::POST, "/v1/admin/auto-delete-stale?grace_period_hours=0"),
    ];
    for call in calls {
        let answer = send(call).await;
        match answer.status.as_u16() {
            200 | 201 => {}
            // An unreadable item is not the caller's fault; the log names it.
            500 => assert_error(&answer, 500, "INTERNAL_ERROR"),
            status => {
                assert!([403, 404, 409, 503].contains(&status), "{answer:?}");
                assert_error(&answer, status, answer.code());
            }
        }
    }
    for key in items {
        let key = key.iter().filter(|(name, _)| ["PK", "SK"].contains(&name.as_str()));
        let key = key.map(|(name, value)| (name.clone(), value.clone())).collect();
        client.delete_item().table_name("sandbox-broker-pool").set_key(Some(key)).send().await.unwrap();
    }
}

/// A server, a broker on it, and a client of the server.
async fn start() -> (DynamoServer, Broker, Client) {
    let server = DynamoServer::start().await;
    let settings = [("CSP_MODE", "sim"), ("ALLOCATE_TIMEOUT_MS", "500"), ("BACKOFF_MAX_MS", "100")];
    let broker = Broker::on_server(&server, &settings).await;
    assert_eq!(broker.sync("").await.status, 200);
    let client = server.client();
    (server, broker, client)
}

#[tokio::test]
async fn numbers_that_cannot_grow_cause_no_panic() {
    let (_server, broker, client) = start().await;
    let (count, time) = ("4294967295", "18446744073709551615");
    for (status, name, end) in [
        ("available", "epoch", time),
        ("available", "allocated_at", time),
        ("allocated", "epoch", time),
        ("allocated", "expires_at", time),
        ("pending_deletion", "epoch", time),
        ("pending_deletion", "next_attempt_at", time),
        ("pending_deletion", "deletion_retry_count", count),
        ("stale", "epoch", time),
        ("stale", "updated_at", time),
        ("deletion_failed", "epoch", time),
    ] {
        let mut item = sandbox(status);
        item.insert(name.to_owned(), number(end));
        call_endpoints(&broker, &client, &[item]).await;
        let log = broker.log();
        assert!(!log.contains("panicked"), "{status} with {name} {end}: {log}");
    }
}

#[test]
fn invalid_items_are_errors_and_nothing_panics() {
    let runtime = Runtime::new().unwrap();
    let (_server, broker, client) = runtime.block_on(start());
    let checked = TestRunner::new(properties()).run(&invalid_items(), |items| {
        runtime.block_on(call_endpoints(&broker, &client, &items));
        let log = broker.log();
        prop_assert!(!log.contains("panicked"), "{log}");
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(async {
        assert_eq!(broker.get("/readyz").await.status, 200);
        assert_eq!(broker.allocate("afterwards").await.status, 201, "other sandboxes are still allocated");
    });
}
