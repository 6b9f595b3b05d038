//! The claim protocol as a model, explored exhaustively within small bounds: every order in which the steps of
//! replicas, clients, clock and network can come. Decisions are the domain's own (`Sandbox::claim`, `ConditionalUpdate`,
//! `transition`), and conditions are those of the model store, which keeps the same contract as the real ones; what a
//! replica does between two requests is restated in `protocol.rs`, because the real code is asynchronous. The
//! simulation (`simulation/`) runs that real code, at random instead of exhaustively.
//!
//! Always: I1, I2, I3, I5, and I4 as "none is said only when there was none". Not in the model: operators, the jobs but
//! expiry, more than one page of the index, and refreshes that take time.
//!
//! | bounds | replicas | askers | sandboxes | besides |
//! |---|---|---|---|---|
//! | two pairs of twins | 2 | 2 tracks, each at both | 2 | 1 crash |
//! | twins and a third | 2 | a track at both, another at one | 2 | 1 crash, 1 loss |
//! | twins that ask again | 2 | a track at both, 1 retry each | 2 | 1 crash, 1 loss, releases |
//! | an end from three sides | 2 | a track at both | 2 | the holding's time passes, releases |
//! | one that renews | 2 | a track at one, 1 retry | 2 | time passes, renewals, releases, 1 loss |
//! | twins over time | 2 | a track at both | 2 | time passes, 1 loss |
//! | an empty pool | 2 | a track at both, another at one | 1 | a lagging index, 1 loss, releases |
//!
//! A loss is a request that never arrives, or at any later time, or an answer that is lost, or a read that fails.
#![allow(clippy::print_stdout, reason = "how much was explored belongs to the result")]

mod properties;
mod protocol;
mod state;

use properties::{
    COLLISION, EXPIRY_AFTER_RENEWAL, I1, I2, I3, I3_END, I4, I5, INHERITED, LATE_CLAIM, LATE_EXPIRY, NONE, REPLAY,
};
use state::{Ask, Protocol, Variant};
use stateright::{Checker as _, Model as _, Path};

/// A counterexample takes no more steps than this, counting the state it begins in.
const LONGEST_STORY: usize = 12;

/// Two twins, nothing else.
fn twins() -> Protocol {
    Protocol {
        asks: vec![ask(0, 0), ask(0, 1)],
        sandboxes: 2,
        replicas: 2,
        crashes: 0,
        losses: 0,
        ticks: 0,
        retries: 0,
        releases: false,
        renews: false,
        lags: false,
        variant: Variant::Sound,
    }
}

/// The twins, and another track at the first replica.
fn twins_and_a_third() -> Protocol {
    Protocol { asks: vec![ask(0, 0), ask(0, 1), ask(1, 0)], ..twins() }
}

fn one_that_renews() -> Protocol {
    Protocol { asks: vec![ask(0, 0)], ticks: 1, releases: true, renews: true, ..twins() }
}

fn ask(track: u8, replica: usize) -> Ask {
    Ask { track, replica }
}

/// Explores everything: what must always hold does, and these sights are seen.
fn explore(protocol: Protocol, sights: &[&str]) {
    let bounds = format!("{protocol:?}");
    let checker = protocol.checker().spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.max_depth());
    println!("{states} states, up to {steps} steps deep: {bounds}");
    assert!(checker.is_done());
    let discoveries = checker.discoveries();
    for property in [I1, I2, I3, I3_END, I4, I5] {
        let story = discoveries.get(property).cloned().map(Path::into_actions);
        assert_eq!(story, None, "this breaks \"{property}\"");
    }
    for sight in sights {
        assert!(discoveries.contains_key(sight), "nothing shows that {sight}");
    }
}

/// The wrong protocol breaks this property, and a short story tells how.
fn expect_broken(protocol: &Protocol, property: &'static str) {
    let variant = protocol.variant;
    let story_of = |steps| {
        let checker = protocol.clone().checker().target_max_depth(steps).spawn_bfs().join();
        checker.discovery(property).map(Path::into_actions)
    };
    let story = (2..=LONGEST_STORY).find_map(story_of);
    let story = story.unwrap_or_else(|| panic!("{variant:?} does not break \"{property}\" in few steps"));
    println!("{variant:?} breaks \"{property}\": {story:?}");
}

#[test]
fn two_pairs_of_twins_and_a_crash() {
    let asks = vec![ask(0, 0), ask(0, 1), ask(1, 0), ask(1, 1)];
    explore(Protocol { asks, crashes: 1, ..twins() }, &[REPLAY, COLLISION]);
}

#[test]
fn twins_and_a_third_and_a_crash_and_a_loss() {
    let protocol = Protocol { crashes: 1, losses: 1, ..twins_and_a_third() };
    explore(protocol, &[REPLAY, COLLISION, LATE_CLAIM]);
}

#[test]
fn twins_that_ask_again_after_a_crash_and_a_loss() {
    let protocol = Protocol { crashes: 1, losses: 1, retries: 1, releases: true, ..twins() };
    explore(protocol, &[REPLAY, COLLISION, LATE_CLAIM, INHERITED]);
}

#[test]
fn an_end_from_three_sides() {
    explore(Protocol { ticks: 1, releases: true, ..twins() }, &[REPLAY, COLLISION, LATE_EXPIRY]);
}

#[test]
fn one_that_renews_while_its_time_passes() {
    let protocol = Protocol { losses: 1, retries: 1, ..one_that_renews() };
    explore(protocol, &[LATE_EXPIRY, EXPIRY_AFTER_RENEWAL]);
}

#[test]
fn twins_over_time() {
    explore(Protocol { ticks: 1, losses: 1, ..twins() }, &[REPLAY, COLLISION, LATE_CLAIM]);
}

#[test]
fn an_empty_pool_behind_a_lagging_index() {
    let protocol = Protocol { sandboxes: 1, losses: 1, lags: true, releases: true, ..twins_and_a_third() };
    explore(protocol, &[REPLAY, COLLISION, NONE]);
}

#[test]
fn i2_is_broken_by_reading_the_key_before_the_claim_instead_of_within_it() {
    expect_broken(&Protocol { variant: Variant::ReadThenWrite, ..twins() }, I2);
}

#[test]
fn i3_is_broken_by_taking_an_unknown_outcome_for_a_success() {
    expect_broken(&Protocol { variant: Variant::UnknownIsSuccess, losses: 1, ..twins() }, I3);
}

#[test]
fn i4_is_broken_by_saying_none_while_a_candidate_is_in_flight() {
    expect_broken(&Protocol { variant: Variant::NoneAtOnce, ..twins_and_a_third() }, I4);
}

#[test]
fn i4_is_broken_by_forgetting_what_a_refresh_found_for_others() {
    expect_broken(&Protocol { variant: Variant::FindsForgotten, crashes: 1, ..twins_and_a_third() }, I4);
}

#[test]
fn i5_is_broken_by_releases_and_expiries_without_a_fence() {
    expect_broken(&Protocol { variant: Variant::UnfencedEnd, releases: true, ..twins() }, I5);
    expect_broken(&Protocol { variant: Variant::UnfencedEnd, ..one_that_renews() }, I3_END);
}

/// The fence alone makes it safe; that such a candidate waits for a refresh saves a conflict, no more.
#[test]
fn a_candidate_of_unknown_fate_that_is_put_back_at_once_breaks_nothing() {
    explore(Protocol { variant: Variant::UnknownPutBack, losses: 1, ..twins_and_a_third() }, &[REPLAY, LATE_CLAIM]);
}
