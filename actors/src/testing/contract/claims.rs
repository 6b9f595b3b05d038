use super::{NOW, Store, claim_writes, created, fresh_holding, fresh_sandbox, key_of};
use crate::ports::{ClaimOutcome, WriteOutcome};
use crate::sandbox::{
    AccountChanges, Claim, ConditionalUpdate, Event, Holding, Owner, Sandbox, Status, Timestamp, TrackId,
};

async fn held(store: &Store) -> (Sandbox, Holding, Claim) {
    let (sandbox, holding) = (created(store).await, fresh_holding());
    let (write, claim) = claim_writes(&sandbox, &holding);
    assert_eq!(store.claim(&write, &claim).await.unwrap(), ClaimOutcome::Claimed);
    (sandbox.after(&write.mutation), holding, claim)
}

/// I3: a successful claim is stored with every field.
pub async fn claim_allocates_and_can_be_read_back(store: Store) {
    let (allocated, holding, claim) = held(&store).await;
    assert_eq!(claim.epoch, allocated.epoch);
    assert_eq!(store.get(&allocated.sandbox_id).await.unwrap().as_ref(), Some(&allocated));
    assert_eq!(store.find_claim(&key_of(&holding)).await.unwrap(), Some(claim));
    assert_eq!(allocated.status, Status::Allocated);
    assert_eq!(allocated.allocated_to_track, Some(holding.owner.track));
}

/// I2: a key that holds a sandbox does not get another.
pub async fn claim_under_a_held_key_answers_with_the_holding(store: Store) {
    let (_, holding, first) = held(&store).await;
    let other = created(&store).await;
    let (write, claim) = claim_writes(&other, &holding);
    assert_eq!(store.claim(&write, &claim).await.unwrap(), ClaimOutcome::AlreadyHeld(first));
    assert_eq!(store.get(&other.sandbox_id).await.unwrap(), Some(other), "the candidate is unchanged");
}

/// I1, I5: a candidate that has changed since it was read is not claimed, whether its status or only its epoch changed.
pub async fn claim_of_a_changed_candidate_returns_the_current_item(store: Store) {
    let sandbox = created(&store).await;
    let stale = sandbox.update(Event::Missing { keep_until: NOW }, NOW).unwrap();
    assert_eq!(store.update(&stale).await.unwrap(), WriteOutcome::Done);
    let gone = sandbox.after(&stale.mutation);
    let holding = fresh_holding();
    let (write, claim) = claim_writes(&sandbox, &holding);
    let changed = ClaimOutcome::CandidateChanged { current: Some(gone.clone()) };
    assert_eq!(store.claim(&write, &claim).await.unwrap(), changed);

    let back = gone.update(Event::Listed(AccountChanges::default()), NOW).unwrap();
    assert_eq!(store.update(&back).await.unwrap(), WriteOutcome::Done);
    let changed = ClaimOutcome::CandidateChanged { current: Some(gone.after(&back.mutation)) };
    assert_eq!(store.claim(&write, &claim).await.unwrap(), changed, "available again with another epoch");
    assert_eq!(store.find_claim(&key_of(&holding)).await.unwrap(), None, "a failed claim writes nothing");
}

/// A candidate that is not in the table is not claimed.
pub async fn claim_of_a_missing_candidate_returns_none(store: Store) {
    let (write, claim) = claim_writes(&fresh_sandbox(), &fresh_holding());
    assert_eq!(store.claim(&write, &claim).await.unwrap(), ClaimOutcome::CandidateChanged { current: None });
}

/// I1: of many concurrent claims of one candidate, one succeeds.
pub async fn a_candidate_is_claimed_once_by_many_at_once(store: Store) {
    let sandbox = created(&store).await;
    let claims = (0..32).map(|_| {
        let (store, (write, claim)) = (store.clone(), claim_writes(&sandbox, &fresh_holding()));
        tokio::spawn(async move { claim_with_retries(&store, &write, &claim).await })
    });
    let mut claimed = 0;
    for outcome in futures_util::future::join_all(claims).await {
        match outcome.unwrap() {
            ClaimOutcome::Claimed => claimed += 1,
            ClaimOutcome::CandidateChanged { current: Some(found) } => assert_eq!(found.status, Status::Allocated),
            other => panic!("I1: {other:?}"),
        }
    }
    assert_eq!(claimed, 1, "I1");
}

/// I2: of many concurrent claims with one key, one succeeds and the others return the same sandbox.
pub async fn a_key_gets_one_sandbox_from_many_at_once(store: Store) {
    let holding = fresh_holding();
    let mut claims = Vec::new();
    for _ in 0..32 {
        let (store, (write, claim)) = (store.clone(), claim_writes(&created(&store).await, &holding));
        claims.push(tokio::spawn(async move { (claim_with_retries(&store, &write, &claim).await, claim) }));
    }
    let mut answers = Vec::new();
    let mut claimed = 0;
    for outcome in futures_util::future::join_all(claims).await {
        match outcome.unwrap() {
            (ClaimOutcome::Claimed, claim) => {
                claimed += 1;
                answers.push(claim);
            }
            (ClaimOutcome::AlreadyHeld(held), _) => answers.push(held),
            (other, _) => panic!("I2: {other:?}"),
        }
    }
    assert_eq!(claimed, 1, "I2");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "I2: all get the same");
}

/// Claims until there is no conflict with a concurrent transaction.
async fn claim_with_retries(store: &Store, write: &ConditionalUpdate, claim: &Claim) -> ClaimOutcome {
    for _ in 0..200 {
        match store.claim(write, claim).await.unwrap() {
            ClaimOutcome::CandidateConflict | ClaimOutcome::ClaimConflict => tokio::task::yield_now().await,
            outcome => return outcome,
        }
    }
    panic!("the claim conflicts every time");
}

fn release_by(sandbox: &Sandbox, holding: &Holding, now: Timestamp) -> ConditionalUpdate {
    ConditionalUpdate::release_by_holder(sandbox.sandbox_id.clone(), holding.owner.clone(), holding.key.clone(), now)
}

/// A release changes sandbox and claim together, and its key can claim another sandbox.
pub async fn end_claim_frees_the_key(store: Store) {
    let (allocated, holding, _) = held(&store).await;
    let release = release_by(&allocated, &holding, NOW);
    assert_eq!(store.end_claim(&release, &key_of(&holding)).await.unwrap(), WriteOutcome::Done);
    let released = store.get(&allocated.sandbox_id).await.unwrap().unwrap();
    assert_eq!(released, allocated.after(&release.mutation));
    assert_eq!(released.status, Status::PendingDeletion);
    assert_eq!(store.find_claim(&key_of(&holding)).await.unwrap(), None);
    let (write, claim) = claim_writes(&created(&store).await, &holding);
    assert_eq!(store.claim(&write, &claim).await.unwrap(), ClaimOutcome::Claimed);
}

/// I5: a writer that is not the holder, or that has an old epoch, changes nothing.
pub async fn end_claim_by_a_stranger_changes_nothing(store: Store) {
    let (allocated, holding, claim) = held(&store).await;
    let mut strangers_key = key_of(&holding);
    strangers_key.track = TrackId::new("another-track");
    let stranger = Owner::named(strangers_key.track.clone());
    let release = release_by(&allocated, &Holding { owner: stranger, ..holding.clone() }, NOW);
    let failed = WriteOutcome::PreconditionFailed { current: Some(allocated.clone()) };
    assert_eq!(store.end_claim(&release, &strangers_key).await.unwrap(), failed);

    let mut late = allocated.update(Event::Release, NOW).unwrap();
    let renewed = allocated.update(Event::Renew { expires_at: Timestamp(NOW.0 + 7200) }, NOW).unwrap();
    let renewed_claim = Claim::held(&allocated.after(&renewed.mutation)).unwrap();
    assert_eq!(store.renew_claim(&renewed, &renewed_claim).await.unwrap(), WriteOutcome::Done);
    late.mutation.at = NOW;
    let outcome = store.end_claim(&late, &key_of(&holding)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::PreconditionFailed { current: Some(allocated.after(&renewed.mutation)) });
    assert_ne!(store.find_claim(&key_of(&holding)).await.unwrap(), Some(claim), "the claim was renewed");
    assert_eq!(store.find_claim(&key_of(&holding)).await.unwrap(), Some(renewed_claim));
}

/// A second release changes nothing and returns the released sandbox.
pub async fn end_claim_twice_changes_nothing_the_second_time(store: Store) {
    let (allocated, holding, _) = held(&store).await;
    let release = release_by(&allocated, &holding, NOW);
    assert_eq!(store.end_claim(&release, &key_of(&holding)).await.unwrap(), WriteOutcome::Done);
    let released = allocated.after(&release.mutation);
    let again = release_by(&allocated, &holding, Timestamp(NOW.0 + 9));
    let outcome = store.end_claim(&again, &key_of(&holding)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::PreconditionFailed { current: Some(released.clone()) });
    assert_eq!(store.get(&allocated.sandbox_id).await.unwrap(), Some(released));
}

/// A claim of another sandbox is not deleted.
pub async fn end_claim_leaves_another_sandboxes_claim_alone(store: Store) {
    let (allocated, _, _) = held(&store).await;
    let (_, others_holding, others_claim) = held(&store).await;
    let release = allocated.update(Event::Release, NOW).unwrap();
    let outcome = store.end_claim(&release, &key_of(&others_holding)).await.unwrap();
    assert_eq!(outcome, WriteOutcome::ClaimMismatch);
    assert_eq!(store.get(&allocated.sandbox_id).await.unwrap(), Some(allocated));
    assert_eq!(store.find_claim(&key_of(&others_holding)).await.unwrap(), Some(others_claim));
}

/// A renewal changes expiry and epoch in both items.
pub async fn renewal_moves_sandbox_and_claim(store: Store) {
    let (allocated, holding, _) = held(&store).await;
    let renewal = allocated.update(Event::Renew { expires_at: Timestamp(NOW.0 + 7200) }, NOW).unwrap();
    let renewed = allocated.after(&renewal.mutation);
    let claim = Claim::held(&renewed).unwrap();
    assert_eq!(store.renew_claim(&renewal, &claim).await.unwrap(), WriteOutcome::Done);
    assert_eq!(store.find_claim(&key_of(&holding)).await.unwrap(), Some(claim));
    assert_eq!(store.get(&allocated.sandbox_id).await.unwrap(), Some(renewed));
}

/// A claim is deleted only while it is the one that was read.
pub async fn delete_claim_is_fenced_by_sandbox_and_epoch(store: Store) {
    let (_, _, claim) = held(&store).await;
    let other_epoch = Claim { epoch: claim.epoch.next(), ..claim.clone() };
    let other_sandbox = Claim { sandbox_id: fresh_sandbox().sandbox_id, ..claim.clone() };
    for other in [other_epoch, other_sandbox] {
        assert!(!store.delete_claim(&other).await.unwrap(), "{other:?}");
    }
    assert!(store.delete_claim(&claim).await.unwrap());
    assert_eq!(store.find_claim(&claim.claim_key).await.unwrap(), None);
    assert!(!store.delete_claim(&claim).await.unwrap(), "it is gone");
}
