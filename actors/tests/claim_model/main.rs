//! A model of the claim protocol, explored exhaustively within small bounds: every order of the steps of replicas, clients,
//! clock and network. The decisions are those of the core (`Sandbox::claim`, `ConditionalUpdate`, `transition`), and the
//! conditional writes are those of the model store, which keeps the contract of the real stores. Only what a replica does
//! between two requests to the store is restated, in `protocol.rs`, because the real code is asynchronous. The simulation
//! (`simulation/`) runs the real code, at random instead of exhaustively.
//!
//! The model checks I1 to I5. It has no operators, no jobs except expiry, no second page of the index, and no refresh that
//! takes time.
//!
//! | test | clients | sandboxes | with |
//! |---|---|---|---|
//! | `two_pairs_of_duplicates` | 2 tracks, each at both replicas | 2 | 1 crash |
//! | `duplicates_and_another_track` | a track at both replicas, another at one | 2 | 1 crash, 1 loss |
//! | `duplicates_with_retries` | a track at both replicas, 1 retry each | 2 | 1 crash, 1 loss, releases |
//! | `concurrent_ends_of_a_holding` | a track at both replicas | 2 | expiry, releases |
//! | `renewal_and_expiry` | a track at one replica, 1 retry | 2 | expiry, renewals, releases, 1 loss |
//! | `duplicates_and_expiry` | a track at both replicas | 2 | expiry, 1 loss |
//! | `an_empty_pool_with_a_lagging_index` | a track at both replicas, another at one | 1 | a lagging index, 1 loss, releases |
//!
//! A loss is a lost or late request, a lost response, or a failed read.
#![allow(clippy::print_stdout, reason = "the size of the state space is part of the result")]

mod properties;
mod protocol;
mod state;

use properties::{
    CONFLICT, EXPIRY_AFTER_RELEASE, EXPIRY_AFTER_RENEWAL, I1, I2, I3, I3_END, I4, I5, LATE_CLAIM, NONE_AVAILABLE,
    REPLAY, REPLAY_AFTER_CRASH,
};
use state::{ClientSpec, Protocol, Variant};
use stateright::{Checker as _, Model as _, Path};

/// The longest counterexample, in states.
const MAX_COUNTEREXAMPLE: usize = 12;

/// One track at both replicas.
fn duplicates() -> Protocol {
    Protocol {
        clients: vec![client(0, 0), client(0, 1)],
        sandboxes: 2,
        replicas: 2,
        crashes: 0,
        losses: 0,
        ticks: 0,
        retries: 0,
        releases: false,
        renews: false,
        lags: false,
        variant: Variant::Correct,
    }
}

/// One track at both replicas, and another at the first.
fn duplicates_and_another() -> Protocol {
    Protocol { clients: vec![client(0, 0), client(0, 1), client(1, 0)], ..duplicates() }
}

/// One client that renews and releases while its holding expires.
fn renewing_client() -> Protocol {
    Protocol { clients: vec![client(0, 0)], ticks: 1, releases: true, renews: true, ..duplicates() }
}

fn client(track: u8, replica: usize) -> ClientSpec {
    ClientSpec { track, replica }
}

/// Explores all states. The invariants hold, and these situations are reached.
fn explore(protocol: Protocol, situations: &[&str]) {
    let bounds = format!("{protocol:?}");
    let checker = protocol.checker().spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{states} states, depth {depth}: {bounds}");
    assert!(checker.is_done());
    let discoveries = checker.discoveries();
    for invariant in [I1, I2, I3, I3_END, I4, I5] {
        let counterexample = discoveries.get(invariant).cloned().map(Path::into_actions);
        assert_eq!(counterexample, None, "this violates \"{invariant}\"");
    }
    for situation in situations {
        assert!(discoveries.contains_key(situation), "not reached: {situation}");
    }
}

/// The incorrect protocol violates this invariant, with a short counterexample.
fn expect_violation(protocol: &Protocol, invariant: &'static str) {
    let variant = protocol.variant;
    let counterexample_within = |depth| {
        let checker = protocol.clone().checker().target_max_depth(depth).spawn_bfs().join();
        checker.discovery(invariant).map(Path::into_actions)
    };
    let counterexample = (2..=MAX_COUNTEREXAMPLE).find_map(counterexample_within);
    let counterexample =
        counterexample.unwrap_or_else(|| panic!("{variant:?} has no short counterexample to \"{invariant}\""));
    println!("{variant:?} violates \"{invariant}\": {counterexample:?}");
}

#[test]
fn two_pairs_of_duplicates() {
    let clients = vec![client(0, 0), client(0, 1), client(1, 0), client(1, 1)];
    explore(Protocol { clients, crashes: 1, ..duplicates() }, &[REPLAY, CONFLICT]);
}

#[test]
fn duplicates_and_another_track() {
    let protocol = Protocol { crashes: 1, losses: 1, ..duplicates_and_another() };
    explore(protocol, &[REPLAY, CONFLICT, LATE_CLAIM]);
}

#[test]
fn duplicates_with_retries() {
    let protocol = Protocol { crashes: 1, losses: 1, retries: 1, releases: true, ..duplicates() };
    explore(protocol, &[REPLAY, CONFLICT, LATE_CLAIM, REPLAY_AFTER_CRASH]);
}

#[test]
fn concurrent_ends_of_a_holding() {
    explore(Protocol { ticks: 1, releases: true, ..duplicates() }, &[REPLAY, CONFLICT, EXPIRY_AFTER_RELEASE]);
}

#[test]
fn renewal_and_expiry() {
    let protocol = Protocol { losses: 1, retries: 1, ..renewing_client() };
    explore(protocol, &[EXPIRY_AFTER_RELEASE, EXPIRY_AFTER_RENEWAL]);
}

#[test]
fn duplicates_and_expiry() {
    explore(Protocol { ticks: 1, losses: 1, ..duplicates() }, &[REPLAY, CONFLICT, LATE_CLAIM]);
}

#[test]
fn an_empty_pool_with_a_lagging_index() {
    let protocol = Protocol { sandboxes: 1, losses: 1, lags: true, releases: true, ..duplicates_and_another() };
    explore(protocol, &[REPLAY, CONFLICT, NONE_AVAILABLE]);
}

#[test]
fn i2_is_violated_if_the_key_is_read_before_the_claim_instead_of_within_it() {
    expect_violation(&Protocol { variant: Variant::ReadThenWrite, ..duplicates() }, I2);
}

#[test]
fn i3_is_violated_if_an_unknown_outcome_counts_as_success() {
    expect_violation(&Protocol { variant: Variant::UnknownIsSuccess, losses: 1, ..duplicates() }, I3);
}

#[test]
fn i4_is_violated_if_none_is_answered_while_a_candidate_is_in_flight() {
    expect_violation(&Protocol { variant: Variant::NoneAtOnce, ..duplicates_and_another() }, I4);
}

#[test]
fn i4_is_violated_if_candidates_that_a_refresh_gave_to_others_are_ignored() {
    expect_violation(&Protocol { variant: Variant::ServedIgnored, crashes: 1, ..duplicates_and_another() }, I4);
}

#[test]
fn i5_is_violated_by_releases_and_expiries_without_a_condition() {
    expect_violation(&Protocol { variant: Variant::UnfencedEnd, releases: true, ..duplicates() }, I5);
    expect_violation(&Protocol { variant: Variant::UnfencedEnd, ..renewing_client() }, I3_END);
}

/// The condition of the claim makes this safe. That such a candidate waits for a refresh only saves a conflict.
#[test]
fn a_candidate_of_unknown_outcome_that_is_put_back_at_once_violates_nothing() {
    explore(
        Protocol { variant: Variant::UnknownPutBack, losses: 1, ..duplicates_and_another() },
        &[REPLAY, LATE_CLAIM],
    );
}
