//! What adoption makes of items of the Python broker, of this broker's first form, and of damaged ones.

use super::*;

const NOW: u64 = 1_800_000_000;

fn context() -> PlanContext {
    let lab_duration = Some(Duration::from_secs(48 * 3600));
    PlanContext { now: UnixMillis(NOW * 1000 + 7), lab_duration, shards: ShardCount::default() }
}

fn old_item(status: &str) -> Item {
    let mut item = sandbox_key(&SandboxId::new("7"));
    item.extend([
        ("sandbox_id".to_owned(), text("7")),
        ("name".to_owned(), text("lab-7")),
        ("external_id".to_owned(), text("identity/accounts/7")),
        ("status".to_owned(), text(status)),
        ("lab_duration_hours".to_owned(), number(4)),
        ("deletion_retry_count".to_owned(), number(0)),
        ("allocated_at".to_owned(), number(0)),
        ("created_at".to_owned(), number(NOW - 500)),
        ("updated_at".to_owned(), number(NOW - 100)),
        ("last_synced".to_owned(), number(NOW - 90)),
    ]);
    item
}

fn with(mut item: Item, attributes: &[(&str, AttributeValue)]) -> Item {
    item.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    item
}

fn held() -> Item {
    with(old_item("allocated"), &[("allocated_at", number(NOW - 3600)), ("allocated_to_track", text("student"))])
}

/// The item after the plan was carried out.
fn after(item: &Item, plan: &Plan) -> Item {
    let mut after = item.clone();
    after.extend(plan.changes.iter().map(|change| (change.name.to_owned(), change.value.clone())));
    after
}

#[track_caller]
fn adopted(item: &Item) -> Sandbox {
    let plan = plan(item, &context()).unwrap();
    let after = after(item, &plan);
    assert_eq!(read_sandbox(&after).unwrap(), plan.sandbox);
    let later = PlanContext { now: UnixMillis(NOW * 1000 + 99_000), lab_duration: None, ..context() };
    assert_eq!(super::plan(&after, &later).unwrap().changes, [], "a second look finds nothing to do");
    plan.sandbox
}

#[test]
fn an_available_sandbox_is_placed_by_its_last_change() {
    let sandbox = adopted(&old_item("available"));
    assert_eq!(sandbox.epoch, Epoch(NOW * 1000 + 7), "the clock in milliseconds");
    assert_eq!(sandbox.shard_at, Timestamp(NOW - 100));
    assert_eq!(sandbox.expires_at, None);
}

#[test]
fn an_available_sandbox_is_never_placed_in_the_future() {
    let item = with(old_item("available"), &[("updated_at", number(NOW + 5000))]);
    assert_eq!(adopted(&item).shard_at, Timestamp(NOW));
}

#[test]
fn a_holding_ends_after_the_length_of_a_lab_whatever_the_item_says() {
    let sandbox = adopted(&held());
    let end = Timestamp(NOW - 3600 + 48 * 3600);
    assert_eq!((sandbox.expires_at, sandbox.shard_at), (Some(end), end));
    assert_eq!(sandbox.idempotency_key, Some(IdempotencyKey::new("student")), "a track's default key");
    let of_first_form = with(held(), &[("expires_at", number(NOW + 9)), ("epoch", number(2))]);
    let sandbox = adopted(&of_first_form);
    assert_eq!((sandbox.expires_at, sandbox.epoch), (Some(Timestamp(NOW + 9)), Epoch(2)), "kept");
}

#[test]
fn other_statuses_are_placed_by_what_they_wait_for() {
    let waiting = with(old_item("pending_deletion"), &[("next_attempt_at", number(NOW + 60))]);
    assert_eq!(adopted(&waiting).shard_at, Timestamp(NOW + 60));
    assert_eq!(adopted(&old_item("pending_deletion")).shard_at, Timestamp(NOW - 100));
    assert_eq!(adopted(&old_item("stale")).shard_at, Timestamp(NOW - 100));
    assert_eq!(adopted(&with(old_item("deleted"), &[("ttl", number(NOW + 777))])).shard_at, Timestamp(NOW + 777));
}

#[test]
fn what_other_programs_know_and_adoption_adds_is_remembered() {
    let mut item = old_item("available");
    item.remove("last_synced");
    item.remove("created_at");
    let plan = plan(&item, &context()).unwrap();
    let remembered = after(&item, &plan)[ADOPTED].as_m().unwrap().clone();
    let expected = [("created_at", NOW - 100), ("last_synced", NOW - 100)];
    assert_eq!(remembered, expected.map(|(name, at)| (name.to_owned(), number(at))).into());
}

#[test]
fn a_change_by_a_program_without_epochs_counts_as_one() {
    let item = old_item("available");
    let item = after(&item, &plan(&item, &context()).unwrap());
    let released = with(item, &[("status", text("pending_deletion")), ("updated_at", number(NOW + 3))]);
    let sandbox = adopted(&released);
    assert_eq!((sandbox.epoch, sandbox.shard_at), (Epoch(NOW * 1000 + 8), Timestamp(NOW + 3)));
}

#[test]
fn another_number_of_shards_moves_a_sandbox_without_a_new_epoch() {
    let item = after(&old_item("stale"), &plan(&old_item("stale"), &context()).unwrap());
    let shards = ShardCount::new(512).unwrap();
    let moved = plan(&item, &PlanContext { shards, ..context() }).unwrap();
    let names: Vec<_> = moved.changes.iter().map(|change| change.name).collect();
    assert_eq!(names, ["status_shard"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let reason = |item: Item| match plan(&item, &context()) {
        Err(Unplannable::Unreadable(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let without = |mut item: Item, name: &str| {
        item.remove(name);
        item
    };
    assert_eq!(reason(without(old_item("available"), "name")), "name is missing");
    assert_eq!(reason(old_item("borrowed")), "status is `borrowed`");
    assert_eq!(reason(with(old_item("stale"), &[("epoch", text("one"))])), "epoch is not a whole number");
    assert_eq!(reason(with(old_item("stale"), &[("epoch", number(u64::MAX))])), "epoch is too large");
    assert_eq!(reason(without(held(), "allocated_to_track")), "it is allocated, but allocated_to_track is missing");
    assert_eq!(
        reason(with(held(), &[("allocated_at", number(0))])),
        "it is allocated, but allocated_at is missing or not a time"
    );
    let long = text("k".repeat(1001));
    assert!(reason(with(held(), &[("idempotency_key", long)])).contains("longer"));
    let unknown_length = PlanContext { lab_duration: None, ..context() };
    assert_eq!(plan(&held(), &unknown_length).unwrap_err(), Unplannable::NoEnd);
}

#[test]
fn a_damaged_place_in_the_index_is_repaired() {
    let item = after(&old_item("available"), &plan(&old_item("available"), &context()).unwrap());
    let damaged = with(item, &[("shard_at", text("yesterday")), ("status_shard", text("available"))]);
    assert_eq!(adopted(&damaged).shard_at, Timestamp(NOW - 100));
}
