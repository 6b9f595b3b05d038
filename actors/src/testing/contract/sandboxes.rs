use std::collections::BTreeSet;

use super::{NOW, Store, claim_writes, created, fresh_holding, fresh_sandbox};
use crate::ports::{ClaimOutcome, Cursor, Listing, StoreError, WriteOutcome};
use crate::sandbox::{Event, Sandbox, SandboxId, Status, Timestamp};

/// I7: an existing item is not overwritten.
pub async fn create_never_overwrites(store: Store) {
    let sandbox = created(&store).await;
    let mut impostor = sandbox.clone();
    impostor.name = "impostor".to_owned();
    assert!(!store.create(&impostor).await.unwrap());
    assert_eq!(store.get(&sandbox.sandbox_id).await.unwrap(), Some(sandbox));
}

/// I5: a writer with an old epoch changes nothing and gets the current item.
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

/// Every field of a mutation is set or removed; the others are unchanged.
pub async fn update_sets_and_removes_the_named_fields(store: Store) {
    let mut sandbox = fresh_sandbox();
    sandbox.status = Status::PendingDeletion;
    assert!(store.create(&sandbox).await.unwrap());
    let steps = [
        Event::DeletionAttemptFailed {
            attempts: 1, retry_at: Some(Timestamp(NOW.0 + 60)), error: "é 💥".to_owned()
        },
        Event::DeletionAttemptFailed { attempts: 2, retry_at: None, error: "x".repeat(500) },
        Event::RetryDeletion,
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

/// A stored sandbox is read back, with and without the optional attributes.
pub async fn attributes_round_trip(store: Store) {
    let plain = created(&store).await;
    assert_eq!(store.get(&plain.sandbox_id).await.unwrap(), Some(plain));
    let mut full = fresh_sandbox();
    full.name = "Übung 1 “quoted” \\ #:=".to_owned();
    full.sfdc_account_id = Some("crm-1".to_owned());
    full.created_at = Timestamp(1);
    full.ttl = Some(Timestamp(NOW.0 + 86_400));
    assert!(store.create(&full).await.unwrap());
    assert_eq!(store.get(&full.sandbox_id).await.unwrap(), Some(full));
}

/// All pages together hold each sandbox once.
pub async fn list_pages_without_loss_or_repetition(store: Store) {
    let mine: BTreeSet<SandboxId> = stale_ones(&store, 25).await;
    for limit in [1, 7, 500] {
        let mut listing = Listing { limit, ..Listing::of(Status::Stale) };
        let mut seen = Vec::new();
        loop {
            let page = store.list(&listing).await.unwrap();
            assert!(page.sandboxes.len() <= limit as usize);
            assert!(page.sandboxes.iter().all(|sandbox| sandbox.status == Status::Stale));
            seen.extend(page.sandboxes.into_iter().map(|sandbox| sandbox.sandbox_id));
            match page.next {
                Some(next) => listing.after = Some(next),
                None => break,
            }
        }
        let distinct: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(distinct.len(), seen.len(), "none twice with pages of {limit}");
        assert!(mine.is_subset(&distinct), "none lost with pages of {limit}");
    }
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

/// The range key cuts a listing off.
pub async fn list_stops_at_the_time_given(store: Store) {
    let sandbox = created(&store).await;
    let (write, claim) = claim_writes(&sandbox, &fresh_holding());
    assert_eq!(store.claim(&write, &claim).await.unwrap(), ClaimOutcome::Claimed);
    for (until, is_listed) in [(NOW, true), (Timestamp(NOW.0 - 1), false)] {
        let mut listing = Listing { allocated_until: Some(until), ..Listing::of(Status::Allocated) };
        let mut found = false;
        loop {
            let page = store.list(&listing).await.unwrap();
            found |= page.sandboxes.iter().any(|listed| listed.sandbox_id == sandbox.sandbox_id);
            match page.next {
                Some(next) => listing.after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, is_listed, "allocated at {NOW:?}, listed until {until:?}");
    }
}

/// A string that is not a cursor is refused.
pub async fn list_refuses_foreign_cursors(store: Store) {
    for garbage in ["", "garbage", "%%%", "bm90LWEtY3Vyc29y", "x#y", "🦀"] {
        let listing = Listing { after: Some(Cursor(garbage.to_owned())), ..Listing::of(Status::Available) };
        let refused = store.list(&listing).await;
        assert!(matches!(refused, Err(StoreError::BadCursor)), "{garbage:?} gives {refused:?}");
    }
}

/// A count grows by what was added.
pub async fn count_counts_all_pages(store: Store) {
    stale_ones(&store, 12).await;
    assert!(store.count(Status::Stale).await.unwrap() >= 12);
}

/// A sandbox that does not exist is `None`.
pub async fn a_missing_sandbox_is_none(store: Store) {
    assert_eq!(store.get(&fresh_sandbox().sandbox_id).await.unwrap(), None);
}
