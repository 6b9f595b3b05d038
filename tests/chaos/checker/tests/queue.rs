//! I11: evidence of the queue.

use super::Scenario;
use crate::history::{TicketItem, Written};

/// A ticket of a track without a secret, seen and open now.
fn ticket(scenario: &Scenario, track: &str, enqueued: u64) -> Written {
    let (seen_at, open_until) = (scenario.second, scenario.second + 15);
    let ticket = TicketItem { enqueued, seen_at, open_until, prefix: String::new() };
    Written::Ticket((track.to_owned(), track.to_owned()), Some(ticket))
}

/// The sandbox is granted to the track, whose ticket goes.
fn grant(scenario: &mut Scenario, id: &str, track: &str) {
    let gone = Written::Ticket((track.to_owned(), track.to_owned()), None);
    let written = vec![scenario.claim_item(id, track), scenario.item(id, "allocated", Some(track)), gone];
    scenario.commit(written);
}

fn i11_violations(scenario: Scenario) -> usize {
    scenario.check().iter().filter(|invariant| **invariant == "I11").count()
}

#[test]
fn i11_a_grant_without_a_live_ticket() {
    for (waits, seconds, is_violated) in [(true, 1, false), (true, 90, true), (false, 1, true)] {
        let mut scenario = Scenario::new();
        if waits {
            let opened = ticket(&scenario, "b", 1);
            scenario.commit(vec![opened]);
        }
        scenario.second += seconds;
        grant(&mut scenario, "2", "b");
        assert_eq!(i11_violations(scenario), usize::from(is_violated), "after {seconds} s, with a ticket: {waits}");
    }
    let mut scenario = Scenario::new();
    let opened = ticket(&scenario, "b", 1);
    scenario.commit(vec![opened]);
    scenario.commit(vec![Written::Ticket(("b".to_owned(), "b".to_owned()), None)]);
    grant(&mut scenario, "2", "b");
    assert_eq!(i11_violations(scenario), 1, "it was withdrawn");
}

#[test]
fn i11_a_live_ticket_that_loses_its_rank() {
    for (seconds, enqueued, is_violated) in [(10, 1, false), (10, 2, true), (100, 2, false)] {
        let mut scenario = Scenario::new();
        let opened = ticket(&scenario, "b", 1);
        scenario.commit(vec![opened]);
        scenario.second += seconds;
        let again = ticket(&scenario, "b", enqueued);
        scenario.commit(vec![again]);
        assert_eq!(i11_violations(scenario), usize::from(is_violated), "after {seconds} s with rank {enqueued}");
    }
}

#[test]
fn i11_a_waiter_that_is_left_alone_with_a_free_sandbox() {
    // Sandbox 2 is free, and `a` holds sandbox 1.
    for (track, seconds, has_settled, is_violated) in
        [("b", 12, true, true), ("b", 5, true, false), ("b", 12, false, false), ("a", 12, true, false)]
    {
        let mut scenario = Scenario::new();
        scenario.evidence.settled_at = has_settled.then(|| scenario.now());
        let opened = ticket(&scenario, track, 1);
        scenario.commit(vec![opened]);
        scenario.second += seconds;
        let again = ticket(&scenario, track, 1);
        scenario.commit(vec![again]);
        assert_eq!(i11_violations(scenario), usize::from(is_violated), "{track} for {seconds} s, {has_settled}");
    }
}

/// A sandbox that those before need is not free for the others.
#[test]
fn i11_one_who_waits_behind_others_is_not_left_alone() {
    let mut scenario = Scenario::new();
    scenario.evidence.settled_at = Some(scenario.now());
    let opened = vec![ticket(&scenario, "b", 1), ticket(&scenario, "c", 2)];
    scenario.commit(opened);
    scenario.second += 5;
    grant(&mut scenario, "2", "b");
    scenario.second += 9;
    let again = ticket(&scenario, "c", 2);
    scenario.commit(vec![again]);
    assert_eq!(i11_violations(scenario), 0);
}
