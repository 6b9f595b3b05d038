use std::collections::BTreeSet;

use super::*;
use crate::sandbox::Event;
use crate::testing::{ModelStore, PausedClock};

const NOW: crate::sandbox::Timestamp = PausedClock::BEGIN;

fn available(number: u32) -> Sandbox {
    ModelStore::sandbox(number)
}

/// The sandbox as it is after it became stale and came back: available at a later epoch.
fn available_later(number: u32) -> Sandbox {
    let sandbox = available(number);
    let stale = sandbox.after(&sandbox.update(Event::Missing { keep_until: NOW }, NOW).unwrap().mutation);
    stale.after(&stale.update(Event::Listed, NOW).unwrap().mutation)
}

fn cache_of(numbers: impl IntoIterator<Item = u32>) -> Cache {
    let mut cache = Cache::new(ReplicaId::new("own"));
    refresh(&mut cache, numbers);
    cache
}

/// A whole refresh that lists these sandboxes. Returns how many did not fit.
fn refresh(cache: &mut Cache, numbers: impl IntoIterator<Item = u32>) -> usize {
    let number = cache.start_refresh();
    let left_out = cache.refill(number, numbers.into_iter().map(available).collect(), Instant::now());
    cache.end_refresh();
    left_out
}

fn take_all(cache: &mut Cache, prefix: Option<&str>) -> Vec<String> {
    std::iter::from_fn(|| cache.take(prefix)).map(|sandbox| sandbox.name.clone()).collect()
}

#[test]
fn each_free_sandbox_is_handed_out_once() {
    let mut cache = cache_of(1..=5);
    let names: BTreeSet<_> = take_all(&mut cache, None).into_iter().collect();
    assert_eq!(names, (1..=5).map(|number| available(number).name).collect());
    assert_eq!((cache.free_count(), cache.outstanding_count()), (0, 5));
}

#[test]
fn a_refresh_does_not_take_back_what_is_in_flight() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    refresh(&mut cache, [1]);
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
    let few: BTreeSet<_> = take_all(&mut cache, Some("lab-0000")).into_iter().collect();
    assert_eq!(few.len(), 3);
    let rest = take_all(&mut cache, Some("lab-01"));
    assert_eq!(rest.len() as u32, many - 1, "every one that matches is handed out");
}

#[test]
fn a_prefix_takes_the_first_in_candidate_order() {
    for count in [3, 40] {
        let mut all = cache_of(1..=count);
        let mut with_prefix = cache_of(1..=count);
        assert_eq!(take_all(&mut all, None), take_all(&mut with_prefix, Some("lab-")), "{count} sandboxes");
    }
}

#[test]
fn a_consumed_epoch_stays_hidden_while_the_index_lists_it() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    cache.complete(&taken, CandidateOutcome::Consumed, Instant::now());
    refresh(&mut cache, [1]);
    assert!(cache.take(None).is_none(), "the index lags");
    let number = cache.start_refresh();
    cache.refill(number, vec![available_later(1)], Instant::now());
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
    refresh(&mut cache, [2]);
    assert!(cache.take(Some("lab-00002")).is_none(), "the index still lists the epoch before");
}

#[test]
fn an_unknown_outcome_waits_for_a_refresh_that_starts_later() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    let number = cache.start_refresh();
    cache.complete(&taken, CandidateOutcome::Unknown, Instant::now());
    cache.refill(number, vec![available(1)], Instant::now());
    cache.end_refresh();
    assert!(cache.take(None).is_none(), "the refresh may have read before the write");
    assert!(cache.has_unknown_after(number));
    refresh(&mut cache, [1]);
    assert!(!cache.has_unknown_after(number + 1));
    assert!(cache.take(None).is_some());
}

#[test]
fn an_unknown_outcome_that_is_no_longer_listed_is_forgotten() {
    let mut cache = cache_of([1]);
    let taken = cache.take(None).unwrap();
    cache.complete(&taken, CandidateOutcome::Unknown, Instant::now());
    refresh(&mut cache, []);
    assert_eq!((cache.outstanding_count(), cache.free_count()), (0, 0));
}

#[test]
fn only_a_refresh_without_outstanding_matches_shows_none() {
    let mut cache = cache_of([1]);
    cache.start_refresh();
    let taken = cache.take(None).unwrap();
    assert!(!cache.shows_none(None), "handed out while the refresh read");
    assert!(cache.shows_none(Some("other")), "a candidate of another prefix does not matter");
    cache.end_refresh();

    let number = cache.start_refresh();
    cache.refill(number, Vec::new(), Instant::now());
    assert!(!cache.shows_none(None), "in flight from before the refresh");
    cache.end_refresh();

    cache.complete(&taken, CandidateOutcome::Consumed, Instant::now());
    let number = cache.start_refresh();
    cache.refill(number, vec![available(1)], Instant::now());
    assert!(cache.shows_none(None), "a consumed epoch that a lagging index lists is none");
}

#[test]
fn a_free_sandbox_that_is_no_longer_listed_is_dropped() {
    let mut cache = cache_of([1, 2]);
    refresh(&mut cache, [2]);
    assert_eq!(take_all(&mut cache, None), [available(2).name]);
}

#[test]
fn other_replicas_change_the_order_and_lose_nothing() {
    let mut cache = cache_of(1..=20);
    cache.set_replicas(vec![ReplicaId::new("own"), ReplicaId::new("other")]);
    let mut other = Cache::new(ReplicaId::new("other"));
    other.set_replicas(vec![ReplicaId::new("own"), ReplicaId::new("other")]);
    refresh(&mut other, 1..=20);
    let [own_order, other_order] = [take_all(&mut cache, None), take_all(&mut other, None)];
    let reversed: Vec<_> = other_order.into_iter().rev().collect();
    assert_eq!(own_order, reversed, "two replicas meet only at the end");
}

#[test]
fn a_full_cache_leaves_sandboxes_out() {
    let limit = u32::try_from(MAX_CACHED).unwrap();
    let mut cache = Cache::new(ReplicaId::new("own"));
    assert_eq!(refresh(&mut cache, 1..=limit + 3), 3);
    assert_eq!(cache.free_count(), MAX_CACHED);
}
