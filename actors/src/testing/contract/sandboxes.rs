use std::collections::BTreeSet;

use super::{NOW, Store, claim_writes, created, fresh_holding, fresh_sandbox, unique};
use crate::ports::{ClaimOutcome, Cursor, Listing, Lookup, PageRequest, PreDeleteRecord, StoreError, WriteOutcome};
use crate::sandbox::{
    AccountChanges, Event, Holding, IdempotencyKey, Sandbox, SandboxId, Shard, Status, Timestamp, TrackId,
};

/// I7: an item that is there is not overwritten.
pub async fn create_never_overwrites(store: Store) {
    let sandbox = created(&store).await;
    let mut impostor = sandbox.clone();
    impostor.name = "impostor".to_owned();
    assert!(!store.create(&impostor).await.unwrap());
    assert_eq!(store.get(&sandbox.sandbox_id).await.unwrap(), Some(sandbox));
}

/// I5: a writer with an old view changes nothing and learns what is there.
pub async fn update_is_fenced_by_the_epoch(store: Store) {
    let sandbox = created(&store).await;
    let write = sandbox.update(Event::Missing { keep_until: NOW }, NOW).unwrap();
    assert_eq!(store.update(&write).await.unwrap(), WriteOutcome::Done);
    let after = sandbox.after(&write.mutation);
    assert_eq!(store.update(&write).await.unwrap(), WriteOutcome::PreconditionFailed { current: Some(after.clone()) });
    assert_eq!(store.get(&sandbox.sandbox_id).await.unwrap(), Some(after));
    let missing = fresh_sandbox().update(Event::Missing { keep_until: NOW }, NOW).unwrap();
    assert_eq!(store.update(&missing).await.unwrap(), WriteOutcome::PreconditionFailed { current: None });
}

/// Every field that a change names is set or removed; the others stay.
pub async fn update_sets_and_removes_the_named_fields(store: Store) {
    let mut sandbox = fresh_sandbox();
    sandbox.status = Status::PendingDeletion;
    assert!(store.create(&sandbox).await.unwrap());
    let steps = [
        Event::Freeze { until: Timestamp(NOW.0 + 60) },
        Event::Observed { is_gone: true, replaced_by: Some("identity/accounts/other".to_owned()) },
        Event::Observed { is_gone: false, replaced_by: None },
        Event::DeletionAccepted { retry_at: Timestamp(NOW.0 + 60) },
        failed(1, Some(Timestamp(NOW.0 + 60)), "é 💥".to_owned()),
        failed(2, None, "x".repeat(500)),
        Event::RetryDeletion,
        Event::Quarantine { reason: "é".to_owned(), requested_by: "ops".to_owned() },
        Event::Unquarantine { was_held: false },
        Event::Listed(AccountChanges {
            name: Some("another".to_owned()),
            external_id: Some("identity/accounts/another".to_owned()),
            sfdc_account_id: Some("crm-2".to_owned()),
            created_at: Some(NOW),
            available_from: Some(Timestamp(NOW.0 + 60)),
        }),
        Event::Quarantine { reason: "again".to_owned(), requested_by: "ops".to_owned() },
        Event::Unquarantine { was_held: true },
        Event::DeletedAtCsp { keep_until: Timestamp(NOW.0 + 3600) },
        Event::KeepTombstone { keep_until: Timestamp(NOW.0 + 7200) },
        Event::ListedAfterDeletion { deletion_requested_at: NOW, replaced_by: Some("identity/accounts/3".to_owned()) },
        Event::DeletedAtCsp { keep_until: Timestamp(NOW.0 + 3600) },
    ];
    for step in steps {
        let write = sandbox.update(step, NOW).unwrap();
        assert_eq!(store.update(&write).await.unwrap(), WriteOutcome::Done);
        sandbox = sandbox.after(&write.mutation);
        assert_eq!(store.get(&sandbox.sandbox_id).await.unwrap().as_ref(), Some(&sandbox));
    }
    assert_eq!(sandbox.status, Status::Deleted);
}

fn failed(attempts: u32, retry_at: Option<Timestamp>, error: String) -> Event {
    Event::DeletionAttemptFailed { attempts, failing_since: NOW, retry_at, error }
}

/// What is stored comes back, with and without the optional attributes.
pub async fn attributes_round_trip(store: Store) {
    let plain = created(&store).await;
    assert_eq!(store.get(&plain.sandbox_id).await.unwrap(), Some(plain));
    let mut full = fresh_sandbox();
    full.name = "Übung 1 “quoted” \\ #:=".to_owned();
    full.sfdc_account_id = Some("crm-1".to_owned());
    full.created_at = Timestamp(1);
    full.ttl = Some(Timestamp(NOW.0 + 86_400));
    full.replaced_by = Some("identity/accounts/2".to_owned());
    full.gone_at_provider = true;
    full.available_from = Some(Timestamp(2));
    full.deletion_failing_since = Some(Timestamp(3));
    full.freeze_until = Some(Timestamp(4));
    full.quarantine_reason = Some("damaged".to_owned());
    full.quarantined_by = Some("ops".to_owned());
    full.deleted_at = Some(Timestamp(5));
    assert!(store.create(&full).await.unwrap());
    assert_eq!(store.get(&full.sandbox_id).await.unwrap(), Some(full));
}

/// All pages of a listing with this largest page, over all shards.
async fn pages_of(store: &Store, listing: Listing, limit: u32) -> Vec<Vec<Sandbox>> {
    let mut pages = Vec::new();
    for shard in store.shards().all() {
        let mut request = PageRequest { listing, shard, limit: Some(limit), after: None };
        loop {
            let page = store.list(&request).await.unwrap();
            assert!(page.sandboxes.iter().all(|sandbox| store.shards().shard_of(&sandbox.sandbox_id) == shard));
            pages.push(page.sandboxes);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
    }
    pages
}

async fn ids_of(store: &Store, listing: Listing) -> BTreeSet<SandboxId> {
    let pages = pages_of(store, listing, 500).await;
    pages.into_iter().flatten().map(|sandbox| sandbox.sandbox_id).collect()
}

/// Small pages together are the whole, each sandbox once.
pub async fn list_pages_without_loss_or_repetition(store: Store) {
    let mine: BTreeSet<SandboxId> = stale_ones(&store, 25).await;
    for limit in [1, 7, 500] {
        let pages = pages_of(&store, Listing::of(Status::Stale), limit).await;
        assert!(pages.iter().all(|page| page.len() <= limit as usize));
        assert!(pages.iter().flatten().all(|sandbox| sandbox.status == Status::Stale));
        let seen: Vec<_> = pages.into_iter().flatten().map(|sandbox| sandbox.sandbox_id).collect();
        let distinct: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(distinct.len(), seen.len(), "none twice with pages of {limit}");
        assert!(mine.is_subset(&distinct), "none lost with pages of {limit}");
    }
}

/// The helper over all shards returns the same.
pub async fn pages_cover_all_shards(store: Store) {
    let mine = stale_ones(&store, 40).await;
    let mut pages = store.pages(Listing::of(Status::Stale));
    let mut seen = BTreeSet::new();
    while let Some(page) = pages.next().await.unwrap() {
        for sandbox in page {
            assert!(seen.insert(sandbox.sandbox_id), "none twice");
        }
    }
    assert!(mine.is_subset(&seen));
}

async fn stale_ones(store: &Store, count: usize) -> BTreeSet<SandboxId> {
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        let sandbox = Sandbox { status: Status::Stale, ..fresh_sandbox() };
        assert!(store.create(&sandbox).await.unwrap());
        ids.insert(sandbox.sandbox_id);
    }
    ids
}

/// A listing takes both ends of a range of positions, and each change moves the sandbox to its new position.
pub async fn list_takes_a_range_of_positions(store: Store) {
    let sandbox = created(&store).await;
    let at = |seconds: u64| Timestamp(NOW.0 + seconds);
    let available = |from, until| Listing { status: Status::Available, from, until };
    for (from, until, is_listed) in [
        (None, None, true),
        (Some(NOW), None, true),
        (Some(at(1)), None, false),
        (None, Some(NOW), true),
        (None, Some(NOW.minus(std::time::Duration::from_secs(1))), false),
        (Some(NOW), Some(NOW), true),
    ] {
        let ids = ids_of(&store, available(from, until)).await;
        assert_eq!(ids.contains(&sandbox.sandbox_id), is_listed, "from {from:?} until {until:?}");
    }
    let holding = fresh_holding();
    let (update, claim) = claim_writes(&sandbox, &holding);
    assert_eq!(store.claim(&update, &claim).await.unwrap(), ClaimOutcome::Claimed);
    let ends_then = Listing::of(Status::Allocated).from(holding.expires_at).until(holding.expires_at);
    assert!(ids_of(&store, ends_then).await.contains(&sandbox.sandbox_id), "by the end of the holding");
    assert!(!ids_of(&store, available(None, None)).await.contains(&sandbox.sandbox_id));
}

/// A string that is not a cursor is refused.
pub async fn list_refuses_foreign_cursors(store: Store) {
    let shard = Shard(0);
    for garbage in ["", "garbage", "%%%", "bm90LWEtY3Vyc29y", "x#y", "🦀"] {
        let after = Some(Cursor(garbage.to_owned()));
        let request = PageRequest { listing: Listing::of(Status::Available), shard, limit: None, after };
        let refused = store.list(&request).await;
        assert!(matches!(refused, Err(StoreError::BadCursor)), "{garbage:?} gives {refused:?}");
    }
}

/// A count grows by what was added.
pub async fn count_counts_all_pages(store: Store) {
    stale_ones(&store, 12).await;
    let stats = store.count_all(NOW).await.unwrap();
    assert!(stats.stale >= 12 && stats.total >= 12, "{stats:?}");
}

/// A sandbox is found by its owner and by its key, now and after it was given back, the latest allocation first.
pub async fn sandboxes_are_found_by_owner_and_by_key(store: Store) {
    let holding = fresh_holding();
    let mut ids = Vec::new();
    for number in 0..5 {
        let sandbox = created(&store).await;
        let key = IdempotencyKey::new(format!("{}-{number}", holding.key));
        let (update, claim) = sandbox.claim(Holding { key, ..holding.clone() }, Timestamp(NOW.0 + number)).unwrap();
        assert_eq!(store.claim(&update, &claim).await.unwrap(), ClaimOutcome::Claimed);
        ids.push(claim.sandbox_id);
    }
    let lookup = Lookup::Track(holding.owner.track.clone());
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.find(&lookup, 2, after.as_ref()).await.unwrap();
        assert!(page.sandboxes.len() <= 2);
        found.extend(page.sandboxes.into_iter().map(|sandbox| sandbox.sandbox_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, ids.iter().rev().cloned().collect::<Vec<_>>());
    let by_key = Lookup::Key(IdempotencyKey::new(format!("{}-3", holding.key)));
    let page = store.find(&by_key, 10, None).await.unwrap();
    assert_eq!(page.sandboxes.iter().map(|sandbox| &sandbox.sandbox_id).collect::<Vec<_>>(), [&ids[3]]);
    assert_eq!(store.find(&Lookup::Track(TrackId::new(unique("track"))), 10, None).await.unwrap().sandboxes, []);
}

/// What is not there is not there.
pub async fn a_missing_sandbox_is_none(store: Store) {
    assert_eq!(store.get(&fresh_sandbox().sandbox_id).await.unwrap(), None);
}

/// What is kept of a step before a deletion lies beside the sandbox: it changes nothing of it and is in no index. That of
/// another deletion takes its place.
pub async fn the_record_of_a_step_before_a_deletion_is_no_sandbox(store: Store) {
    let (sandbox, holding) = (created(&store).await, super::fresh_holding());
    let (update, claim) = claim_writes(&sandbox, &holding);
    assert_eq!(store.claim(&update, &claim).await.unwrap(), ClaimOutcome::Claimed);
    let held = sandbox.after(&update.mutation);
    let failed = PreDeleteRecord {
        sandbox: held.clone(),
        cleaned_at: None,
        is_skipped: false,
        failed_reason: Some("no session".to_owned()),
        deleted_at: NOW,
        ttl: Timestamp(NOW.0 + 30 * 86_400),
    };
    let cleaned = PreDeleteRecord { cleaned_at: Some(NOW), failed_reason: None, ..failed.clone() };
    for record in [failed, cleaned] {
        store.record_pre_delete(&record).await.unwrap();
        assert_eq!(store.get(&sandbox.sandbox_id).await.unwrap().as_ref(), Some(&held));
        let of_track = Lookup::Track(holding.owner.track.clone());
        assert_eq!(store.find(&of_track, 10, None).await.unwrap().sandboxes, std::slice::from_ref(&held));
    }
}
