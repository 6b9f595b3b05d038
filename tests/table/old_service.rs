//! The Python broker: the items that it leaves, a stand-in that writes as it does, and one that reads as it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::table::{Dump, Item, TABLE, from_json, item, now, number, number_of, text, text_of};

/// The items of a real run of the Python broker.
const FIXTURE: &str = include_str!("../fixtures/python-broker-table.jsonl");

/// When they were recorded.
const RECORDED_AT: u64 = 1_795_600_783;

/// The time between two rounds of the stand-in.
const PACE: Duration = Duration::from_millis(3);

/// Numbers from here on are times.
const FIRST_TIME: u64 = 1_600_000_000;

/// The recorded items, as if they had been recorded now.
pub(crate) fn fixture() -> Vec<Item> {
    FIXTURE.lines().map(|line| shifted(from_json(line), now() - RECORDED_AT)).collect()
}

fn shifted(mut item: Item, seconds: u64) -> Item {
    let times: Vec<_> = item.keys().filter(|name| number_of(&item, name) >= FIRST_TIME).cloned().collect();
    for name in times {
        let shifted = number(number_of(&item, &name) + seconds);
        item.insert(name, shifted);
    }
    item
}

/// Items of the same form: one in ten held, by default and own keys, for up to 40 hours; some released, stale and failed.
pub(crate) fn generated(count: u64) -> Vec<Item> {
    let now = now();
    let sandbox = |index: u64| {
        let id = 3_000_000 + index;
        let mut sandbox = item(
            format!("SBX#{id}"),
            "META",
            [
                ("sandbox_id", text(id.to_string())),
                ("name", text(format!("lab-adventure-{index:05}"))),
                ("external_id", text(format!("identity/accounts/0f0f0f0f-0000-4000-8000-{index:012}"))),
                ("status", text("available")),
                ("lab_duration_hours", number(4)),
                ("deletion_retry_count", number(0)),
                ("allocated_at", number(0)),
                ("created_at", number(now - 900_000)),
                ("updated_at", number(now - 60)),
                ("last_synced", number(now - 60)),
            ],
        );
        let mut set = |name: &str, value| drop(sandbox.insert(name.to_owned(), value));
        match index % 20 {
            0 | 10 => {
                set("status", text("allocated"));
                set("allocated_at", number(now - index % 144_000));
                set("allocated_to_track", text(format!("student-{index}")));
                let key = if index.is_multiple_of(20) { "student" } else { "key" };
                set("idempotency_key", text(format!("{key}-{index}")));
            }
            5 => {
                set("status", text("pending_deletion"));
                set("deletion_requested_at", number(now - 30));
                set("allocated_at", number(now - 3600));
                set("allocated_to_track", text(format!("student-{index}")));
                set("idempotency_key", text(format!("student-{index}")));
            }
            11 => set("status", text("stale")),
            17 => set("status", text("deletion_failed")),
            _ => {}
        }
        if index % 7 == 3 {
            sandbox.remove("last_synced");
        }
        sandbox
    };
    (0..count).map(sandbox).collect()
}

/// A stand-in for the Python broker at work: it allocates, releases, syncs and marks stale, without epochs and claims.
pub(crate) struct OldService {
    stop: Arc<AtomicBool>,
    pub(crate) allocated: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl OldService {
    pub(crate) fn start(client: Client) -> Self {
        let (stop, allocated) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(work(client, Arc::clone(&stop), Arc::clone(&allocated)));
        Self { stop, allocated, task }
    }

    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.allocated.load(Ordering::Relaxed)
    }
}

async fn work(client: Client, stop: Arc<AtomicBool>, allocated: Arc<AtomicU64>) {
    const CHANGED: &str = "SET #status = :to, last_synced = :now, updated_at = :now";
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        sleep(PACE).await;
        let available = first(&client, "available", 20).await;
        if available.len() > 8 {
            let track = format!("late-student-{round}");
            let set = "SET #status = :to, allocated_to_track = :track, idempotency_key = :track, allocated_at = :now, \
                       updated_at = :now";
            let update = update(&client, &available[2 + round % 5], "allocated", set);
            let done = update.expression_attribute_values(":track", text(&track)).send().await;
            allocated.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
        }
        if let Some(synced) = available.first() {
            let _ = update(&client, synced, "available", CHANGED).send().await;
        }
        match round % 5 {
            1 if available.len() > 10 => {
                let _ = update(&client, &available[1], "stale", CHANGED).send().await;
            }
            2 => {
                for stale in first(&client, "stale", 1).await {
                    let _ = update(&client, &stale, "available", CHANGED).send().await;
                }
            }
            3 => {
                let set = "SET #status = :to, deletion_requested_at = :now, updated_at = :now";
                for held in first(&client, "allocated", 3).await.iter().filter(|held| is_late(held)).skip(1) {
                    let _ = update(&client, held, "pending_deletion", set).send().await;
                }
            }
            4 => {
                for deleted in first(&client, "pending_deletion", 1).await.iter().filter(|deleted| is_late(deleted)) {
                    let delete = client.delete_item().table_name(TABLE);
                    let delete = delete.key("PK", deleted["PK"].clone()).key("SK", deleted["SK"].clone());
                    let _ = delete.send().await;
                }
            }
            _ => {}
        }
    }
}

/// Whether a track of the stand-in holds the sandbox or held it.
fn is_late(sandbox: &Item) -> bool {
    text_of(sandbox, "allocated_to_track").starts_with("late-student-")
}

async fn first(client: &Client, status: &str, limit: i32) -> Vec<Item> {
    let query = client
        .query()
        .table_name(TABLE)
        .index_name("StatusIndex")
        .key_condition_expression("#status = :status")
        .expression_attribute_names("#status", "status")
        .expression_attribute_values(":status", text(status))
        .scan_index_forward(status == "available")
        .limit(limit);
    query.send().await.unwrap().items.unwrap_or_default()
}

/// An update on condition that the status is as it was read, as the Python broker makes it.
fn update(client: &Client, sandbox: &Item, to: &str, expression: &str) -> UpdateItemFluentBuilder {
    client
        .update_item()
        .table_name(TABLE)
        .key("PK", sandbox["PK"].clone())
        .key("SK", sandbox["SK"].clone())
        .update_expression(expression)
        .condition_expression("#status = :from")
        .expression_attribute_names("#status", "status")
        .expression_attribute_values(":from", sandbox["status"].clone())
        .expression_attribute_values(":to", text(to))
        .expression_attribute_values(":now", number(now()))
}

/// Reads the whole table as the Python broker's listing and sync do: an item without these attributes is a KeyError.
pub(crate) fn assert_readable_by_old_service(dump: &Dump) {
    for ((partition, _), item) in dump {
        if partition.starts_with("NIOSXAAS#") {
            continue;
        }
        for name in [
            "sandbox_id",
            "name",
            "external_id",
            "status",
            "lab_duration_hours",
            "deletion_retry_count",
            "allocated_at",
        ] {
            assert!(item.contains_key(name), "KeyError: {name} in {item:?}");
        }
        let statuses = ["available", "allocated", "pending_deletion", "stale", "deletion_failed"];
        assert!(statuses.contains(&text_of(item, "status")), "{item:?}");
    }
}
