use std::collections::BTreeSet;

use super::*;
use crate::sandbox::{AccountChanges, Event, Timestamp};
use crate::testing::{ModelStore, PausedClock};

const NOW: Timestamp = PausedClock::BEGIN;

fn available(number: u32) -> Sandbox {
    ModelStore::sandbox(number)
}

/// The sandbox as it is after it became stale and came back: available at a later epoch.
fn available_later(number: u32) -> Sandbox {
    let sandbox = available(number);
    let stale = sandbox.after(&sandbox.update(Event::Missing { keep_until: NOW }, NOW).unwrap().mutation);
    stale.after(&stale.update(Event::Listed(AccountChanges::default()), NOW).unwrap().mutation)
}

fn empty_cache() -> Cache {
    Cache::new(ReplicaId::new("own"), ShardCount::default())
}

fn cache_of(numbers: impl IntoIterator<Item = u32>) -> Cache {
    let mut cache = empty_cache();
    refresh(&mut cache, Scope::All, numbers);
    cache
}

fn listed(sandboxes: impl IntoIterator<Item = Sandbox>) -> Listed {
    Listed { sandboxes: sandboxes.into_iter().collect(), is_truncated: false }
}

/// A whole refresh that lists these sandboxes. Returns whether it is complete.
fn refresh(cache: &mut Cache, scope: Scope, numbers: impl IntoIterator<Item = u32>) -> bool {
    let refresh = cache.start_refresh(scope);
    let is_complete = cache.refill(&refresh, listed(numbers.into_iter().map(available)), Instant::now());
    cache.end_refresh();
    is_complete
}

fn take_all(cache: &mut Cache, prefix: Option<&str>) -> Vec<String> {
    std::iter::from_fn(|| cache.take(prefix)).map(|sandbox| sandbox.name.clone()).collect()
}

fn names(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| available(number).name).collect()
}

#[test]
fn each_free_sandbox_is_handed_out_once() {
    let mut cache = cache_of(1..=5);
    assert_eq!(take_all(&mut cache, None).into_iter().collect::<BTreeSet<_>>(), names(1..=5));
    assert_eq!((cache.free_count(), cache.outstanding_count()), (0, 5));
}

#[test]
fn a_refresh_does_not_take_back_what_is_in_flight() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    refresh(&mut cache, Scope::All, [1]);
    assert!(cache.take(None).is_none());
    cache.complete(&taken, CandidateOutcome::Untouched, Instant::now());
    assert_eq!(cache.take(None), Some(taken));
}

#[test]
fn a_prefix_selects_by_name_whether_few_or_many_match() {
    let many = u32::try_from(FEW_OF_A_PREFIX).unwrap() + 8;
    let mut cache = cache_of((1..=3).chain(1000..1000 + many));
    assert_eq!(cache.take(Some("other")), None);
    assert!(cache.take(Some("lab-01")).unwrap().name.starts_with("lab-01"));
    assert_eq!(take_all(&mut cache, Some("lab-0000")).len(), 3);
    assert_eq!(take_all(&mut cache, Some("lab-01")).len() as u32, many - 1, "every match is handed out");
}

#[test]
fn a_prefix_takes_the_first_in_candidate_order() {
    for count in [3, 40] {
        let mut all = cache_of(1..=count);
        let mut with_prefix = cache_of(1..=count);
        assert_eq!(take_all(&mut all, None), take_all(&mut with_prefix, Some("lab-")), "{count} sandboxes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumed_epoch_stays_hidden_for_a_minute() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    cache.complete(&taken, CandidateOutcome::Consumed, Instant::now());
    tokio::time::advance(CONSUMED_MEMORY - Duration::from_secs(1)).await;
    refresh(&mut cache, Scope::All, [1]);
    assert!(cache.take(None).is_none(), "the index lags");
    tokio::time::advance(Duration::from_secs(1)).await;
    refresh(&mut cache, Scope::All, [1]);
    assert!(cache.take(None).is_some(), "the index still lists it: the transaction decides");
}

#[test]
fn a_later_epoch_of_a_consumed_sandbox_is_handed_out() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    cache.complete(&taken, CandidateOutcome::Consumed, Instant::now());
    let refresh = cache.start_refresh(Scope::New);
    cache.refill(&refresh, listed([available_later(1)]), Instant::now());
    assert_eq!(cache.take(None).unwrap().epoch, available_later(1).epoch);
}

#[test]
fn a_refusal_brings_the_current_record() {
    let mut cache = cache_of([1, 2]);
    let [one, two] = [Some("lab-00001"), Some("lab-00002")].map(|name| cache.take(name).unwrap());
    let again = CandidateOutcome::Found(Some(Box::new(available_later(1))));
    cache.complete(&one, again, Instant::now());
    assert_eq!(cache.take(Some("lab-00001")).unwrap().epoch, available_later(1).epoch, "available at a later epoch");

    let stale = two.after(&two.update(Event::Missing { keep_until: NOW }, NOW).unwrap().mutation);
    cache.complete(&two, CandidateOutcome::Found(Some(Box::new(stale))), Instant::now());
    refresh(&mut cache, Scope::All, [2]);
    assert!(cache.take(Some("lab-00002")).is_none(), "the index still lists the epoch before");
}

#[test]
fn an_unknown_outcome_waits_for_a_full_refresh_that_starts_later() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    let reading = cache.start_refresh(Scope::All);
    cache.complete(&taken, CandidateOutcome::Unknown, Instant::now());
    cache.refill(&reading, listed([available(1)]), Instant::now());
    cache.end_refresh();
    assert!(cache.take(None).is_none(), "the refresh may have read before the write");
    refresh(&mut cache, Scope::New, []);
    assert_eq!(cache.scope_of_unknown(), Some(Scope::Own), "a read of what is new says nothing about it");
    refresh(&mut cache, Scope::Own, [1]);
    assert_eq!(cache.scope_of_unknown(), None);
    assert!(cache.take(None).is_some());
}

#[test]
fn an_unknown_outcome_that_is_no_longer_listed_is_forgotten() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    cache.complete(&taken, CandidateOutcome::Unknown, Instant::now());
    refresh(&mut cache, Scope::All, []);
    assert_eq!((cache.outstanding_count(), cache.free_count()), (0, 0));
}

#[test]
fn only_a_refresh_without_outstanding_matches_shows_none() {
    let mut cache = cache_of([1]);
    cache.start_refresh(Scope::All);
    let taken = cache.take(None).unwrap();
    assert!(!cache.shows_none(None), "handed out while the refresh read");
    assert!(cache.shows_none(Some("other")), "a candidate of another prefix does not matter");
    cache.end_refresh();

    let reading = cache.start_refresh(Scope::All);
    cache.refill(&reading, listed([]), Instant::now());
    assert!(!cache.shows_none(None), "in flight from before the refresh");
    cache.end_refresh();

    cache.complete(&taken, CandidateOutcome::Consumed, Instant::now());
    let reading = cache.start_refresh(Scope::All);
    cache.refill(&reading, listed([available(1)]), Instant::now());
    assert!(cache.shows_none(None), "a consumed epoch that a lagging index lists is none");
}

#[test]
fn a_free_sandbox_is_dropped_when_two_full_refreshes_in_a_row_do_not_list_it() {
    let mut cache = cache_of([1, 2]);
    refresh(&mut cache, Scope::All, [2]);
    refresh(&mut cache, Scope::New, []);
    assert_eq!(cache.free_count(), 1, "it is not handed out while it is doubtful");
    assert!(!cache.shows_none(Some("lab-00001")), "but it may be there");
    refresh(&mut cache, Scope::All, [1, 2]);
    assert_eq!(cache.free_count(), 2, "it is listed again");
    refresh(&mut cache, Scope::All, [2]);
    refresh(&mut cache, Scope::All, [2]);
    assert!(cache.shows_none(Some("lab-00001")));
    assert_eq!(take_all(&mut cache, None), [available(2).name]);
}

#[test]
fn shards_are_divided_evenly() {
    for replicas in 1..=20 {
        let live: Vec<_> = (0..replicas).map(|number| ReplicaId::new(format!("replica-{number}"))).collect();
        let owned = live.iter().map(|replica| {
            let mut cache = Cache::new(replica.clone(), ShardCount::default());
            cache.set_replicas(live.clone());
            cache.start_refresh(Scope::Own).shards.len()
        });
        let owned: Vec<_> = owned.collect();
        assert_eq!(owned.iter().sum::<usize>(), 16, "{owned:?}");
        assert!(owned.iter().max().unwrap() - owned.iter().min().unwrap() <= 1, "{owned:?}");
    }
}

#[test]
fn a_refresh_of_own_shards_says_nothing_about_others() {
    let mut cache = cache_of(1..=100);
    cache.set_replicas(vec![ReplicaId::new("own"), ReplicaId::new("other")]);
    let own = cache.start_refresh(Scope::Own).shards;
    assert!(!own.is_empty() && own.len() < usize::from(ShardCount::default().get()), "each owns some: {own:?}");
    for _ in 0..2 {
        refresh(&mut cache, Scope::Own, []);
    }
    let is_foreign = |number: &u32| !own.contains(&ShardCount::default().shard_of(&available(*number).sandbox_id));
    let left: BTreeSet<_> = take_all(&mut cache, None).into_iter().collect();
    assert_eq!(left, names((1..=100).filter(is_foreign)));
}

#[test]
fn every_shard_has_one_owner_and_owners_offer_their_sandboxes_first() {
    let live: Vec<_> = ["one", "other", "third"].map(ReplicaId::new).to_vec();
    let mut owners = vec![0; usize::from(ShardCount::default().get())];
    for replica in &live {
        let mut cache = Cache::new(replica.clone(), ShardCount::default());
        cache.set_replicas(live.clone());
        let own = cache.start_refresh(Scope::Own).shards;
        own.iter().for_each(|shard| owners[usize::from(shard.0)] += 1);
        refresh(&mut cache, Scope::All, 1..=100);
        let is_own: Vec<_> = std::iter::from_fn(|| cache.take(None))
            .map(|sandbox| own.contains(&ShardCount::default().shard_of(&sandbox.sandbox_id)))
            .collect();
        assert!(is_own.is_sorted_by(|first, second| first >= second), "{replica}: own ones first");
    }
    assert_eq!(owners, vec![1; owners.len()]);
}

#[test]
fn two_replicas_meet_only_at_the_end() {
    let live = vec![ReplicaId::new("one"), ReplicaId::new("other")];
    let orders = live.clone().into_iter().map(|replica| {
        let mut cache = Cache::new(replica, ShardCount::default());
        refresh(&mut cache, Scope::All, 1..=20);
        assert!(cache.set_replicas(live.clone()), "the order changes and nothing is lost");
        take_all(&mut cache, None)
    });
    let [one, other]: [Vec<String>; 2] = orders.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(one, other.into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn a_full_cache_leaves_sandboxes_out_and_says_so() {
    let limit = u32::try_from(MAX_CACHED).unwrap();
    let mut cache = empty_cache();
    assert!(refresh(&mut cache, Scope::All, 1..=limit));
    assert!(!refresh(&mut cache, Scope::All, 1..=limit + 3));
    assert_eq!(cache.free_count(), MAX_CACHED);
    let refresh = cache.start_refresh(Scope::All);
    let truncated = Listed { sandboxes: Vec::new(), is_truncated: true };
    assert!(!cache.refill(&refresh, truncated, Instant::now()));
    assert_eq!(cache.free_count(), MAX_CACHED, "a truncated read drops nothing");
}

#[test]
fn consumed_epochs_take_no_place() {
    let mut cache = cache_of(1..=10);
    while let Some(taken) = cache.take(None) {
        cache.complete(&taken, CandidateOutcome::Consumed, Instant::now());
    }
    assert_eq!((cache.slots.len(), cache.consumed.len()), (0, 10));
}
