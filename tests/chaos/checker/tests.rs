//! What the checker must not overlook. Each test tells a story that is in order but for one thing.

use super::violations;
use crate::history::{Call, ClaimItem, Commit, Completion, Evidence, Op, SandboxItem, Timestamp, Written};

/// Evidence in the making. Each step takes a second or two; what a track holds, it is completion to hold for a minute.
#[derive(Default)]
struct Story {
    evidence: Evidence,
    second: u64,
}

const MINUTE: u64 = 60;

impl Story {
    /// Two sandboxes, and the tracks `a` and `b`, of which `a` holds the first.
    fn of_two() -> Self {
        let mut story = Self::default();
        for id in ["1", "2"] {
            story.evidence.accounts.insert(id.to_owned());
            story.write(id, "available", None);
        }
        story.claim("1", "a");
        story
    }

    /// Ends a story of two in good order, and checks it.
    fn ends(mut self) -> Vec<&'static str> {
        self.give_back();
        self.verdict()
    }

    /// `a` releases the first sandbox, which is deleted then.
    fn give_back(&mut self) {
        self.second += 1;
        let (sent, called) = (self.now(), self.evidence.history.len());
        self.release("1", "a");
        self.completion("a", Op::Release("1".to_owned()), Completion::Released);
        self.evidence.history[called].sent = sent;
        self.write("1", "deleted", Some("a"));
        self.evidence.accounts.remove("1");
    }

    fn verdict(mut self) -> Vec<&'static str> {
        for commit in &self.evidence.journal {
            commit.written.iter().for_each(|written| self.evidence.table.apply(written));
        }
        self.judged()
    }

    fn judged(self) -> Vec<&'static str> {
        violations(&self.evidence).into_iter().map(|violation| violation.invariant).collect()
    }

    fn now(&self) -> Timestamp {
        Timestamp::of_second(self.second)
    }

    fn commit(&mut self, written: Vec<Written>) {
        self.second += 1;
        self.evidence.journal.push(Commit { began: self.now(), ended: self.now(), written });
    }

    fn epoch(&self, id: &str) -> u64 {
        let written = self.evidence.journal.iter().flat_map(|commit| &commit.written);
        written.filter(|written| matches!(written, Written::Sandbox(of, _) if of == id)).count() as u64
    }

    fn item(&self, id: &str, status: &str, track: Option<&str>) -> Written {
        let owner = track.map(|track| (track.to_owned(), track.to_owned()));
        let (name, status) = (format!("lab-{id}"), status.to_owned());
        Written::Sandbox(id.to_owned(), Some(SandboxItem { name, status, epoch: self.epoch(id) + 1, owner }))
    }

    fn write(&mut self, id: &str, status: &str, track: Option<&str>) {
        self.commit(vec![self.item(id, status, track)]);
    }

    fn claim_item(&self, id: &str, track: &str) -> Written {
        let claim = ClaimItem { sandbox: id.to_owned(), epoch: self.epoch(id) + 1 };
        Written::Claim((track.to_owned(), track.to_owned()), Some(claim))
    }

    /// The table gives the sandbox to the track, and the track is completion.
    fn claim(&mut self, id: &str, track: &str) {
        self.commit(vec![self.claim_item(id, track), self.item(id, "allocated", Some(track))]);
        self.told_to_hold(id, track);
    }

    fn release(&mut self, id: &str, track: &str) {
        let gone = Written::Claim((track.to_owned(), track.to_owned()), None);
        self.commit(vec![gone, self.item(id, "pending_deletion", Some(track))]);
    }

    fn completion(&mut self, track: &str, op: Op, completion: Completion) {
        self.second += 1;
        let sent = self.now();
        self.second += 1;
        let (track, received) = (track.to_owned(), self.now());
        self.evidence.history.push(Call { key: track.clone(), track, replica: 0, op, sent, received, completion });
    }

    fn told_to_hold(&mut self, id: &str, track: &str) {
        let until = Timestamp::of_second(self.second + MINUTE);
        self.completion(track, allocate(""), Completion::Holds { sandbox: id.to_owned(), until });
    }
}

fn allocate(prefix: &str) -> Op {
    Op::Allocate { prefix: prefix.to_owned() }
}

fn read(id: &str) -> Op {
    Op::Read(id.to_owned())
}

#[test]
fn a_run_in_order_is_in_order() {
    let mut story = Story::of_two();
    story.told_to_hold("1", "a");
    story.completion("a", read("1"), Completion::Reads { status: "allocated".to_owned() });
    story.completion("b", read("1"), Completion::NotYours);
    story.completion("a", allocate(""), Completion::TryAgain);
    story.completion("b", allocate("none-such"), Completion::NoneAvailable);
    story.write("2", "stale", None);
    story.completion("b", allocate(""), Completion::NoneAvailable);
    story.write("2", "available", None);
    assert_eq!(story.ends(), [""; 0]);
}

#[test]
fn i1_a_double_allocation_in_the_histories() {
    let mut story = Story::of_two();
    story.told_to_hold("1", "b");
    // Nor did the table ever say so.
    assert_eq!(story.ends(), ["I1", "I3"]);
}

#[test]
fn i1_a_double_allocation_in_the_table() {
    let mut story = Story::of_two();
    story.claim("1", "b");
    let verdict = story.ends();
    assert!(verdict.iter().filter(|invariant| **invariant == "I1").count() >= 2, "in both: {verdict:?}");
}

/// What one track has given back, or held to its end, another may be completion to hold.
#[test]
fn leases_one_after_another_are_no_double_allocation() {
    let mut story = Story::of_two();
    story.second += MINUTE;
    story.told_to_hold("1", "b");
    assert!(!story.ends().contains(&"I1"));
    let mut story = Story::of_two();
    story.completion("a", Op::Release("1".to_owned()), Completion::NoAnswer);
    story.told_to_hold("1", "b");
    assert!(!story.ends().contains(&"I1"));
}

/// Whoever lets it lapse cannot count on it, though it may be renewed in its grace.
#[test]
fn between_its_end_and_its_renewal_a_lease_is_not_certain() {
    let mut story = Story::of_two();
    story.second += MINUTE;
    story.completion("a", allocate("none-such"), Completion::NoneAvailable);
    story.told_to_hold("1", "a");
    assert_eq!(story.ends(), [""; 0]);
}

#[test]
fn i2_two_sandboxes_for_one_key() {
    let mut story = Story::of_two();
    story.claim("2", "a");
    let verdict = story.ends();
    assert!(verdict.iter().filter(|invariant| **invariant == "I2").count() >= 2, "in both: {verdict:?}");
}

#[test]
fn i2_a_claim_without_its_sandbox() {
    let mut story = Story::of_two();
    story.commit(vec![story.claim_item("2", "b")]);
    story.commit(vec![Written::Claim(("b".to_owned(), "b".to_owned()), None)]);
    assert_eq!(story.ends(), ["I2"]);
}

#[test]
fn i3_a_success_that_was_never_written() {
    let mut story = Story::of_two();
    story.told_to_hold("2", "b");
    assert_eq!(story.ends(), ["I3"]);
}

/// Taken away before its end, though nobody gave it back.
#[test]
fn i3_a_lost_lease_in_the_table() {
    let mut story = Story::of_two();
    story.release("1", "a");
    story.write("1", "deleted", Some("a"));
    story.evidence.accounts.remove("1");
    assert_eq!(story.verdict(), ["I3"]);
}

#[test]
fn i3_a_lost_lease_in_the_histories() {
    let turned_away = [
        (read("1"), Completion::NotYours),
        (read("1"), Completion::Reads { status: "pending_deletion".to_owned() }),
        (Op::Renew("1".to_owned()), Completion::NotYours),
        (Op::Renew("1".to_owned()), Completion::WrongState),
        (allocate("none-such"), Completion::NoneAvailable),
    ];
    for (op, completion) in turned_away {
        let mut story = Story::of_two();
        story.completion("a", op.clone(), completion);
        assert_eq!(story.ends(), ["I3"], "{op:?}");
    }
    let mut story = Story::of_two();
    story.completion("a", Op::Release("1".to_owned()), Completion::NotYours);
    assert_eq!(story.ends(), ["I3"], "a release");
}

#[test]
fn i3_a_release_that_was_lost() {
    let mut story = Story::of_two();
    story.completion("a", Op::Release("1".to_owned()), Completion::Released);
    assert_eq!(story.ends(), ["I3"]);
}

#[test]
fn i3_a_sandbox_that_comes_back_from_the_dead_or_vanishes() {
    let mut story = Story::of_two();
    story.write("2", "stale", None);
    story.write("2", "deleted", None);
    story.write("2", "available", None);
    assert_eq!(story.ends(), ["I3"]);
    let mut story = Story::of_two();
    story.commit(vec![Written::Sandbox("2".to_owned(), None)]);
    story.evidence.accounts.remove("2");
    assert_eq!(story.ends(), ["I3"]);
}

#[test]
fn i3_a_sandbox_that_is_stuck() {
    // Held for ever,
    assert_eq!(Story::of_two().verdict(), ["I3", "I3", "I3"], "sandbox, claim, and not what the CSP has");
    // never deleted,
    let mut story = Story::of_two();
    story.completion("a", Op::Release("1".to_owned()), Completion::NoAnswer);
    story.release("1", "a");
    assert_eq!(story.verdict(), ["I3", "I3"], "and not what the CSP has");
    // deleted in the table alone, or unknown to it.
    for id in ["1", "3"] {
        let mut story = Story::of_two();
        story.completion("a", Op::Release("1".to_owned()), Completion::NoAnswer);
        story.release("1", "a");
        story.write("1", "deleted", Some("a"));
        story.evidence.accounts.remove("1");
        story.evidence.accounts.insert(id.to_owned());
        assert_eq!(story.verdict(), ["I3"], "{id}");
    }
}

/// A listing that lies is believed of a sandbox whose deletion failed, and of no other.
#[test]
fn i3_a_sandbox_that_is_alive_at_the_csp_though_deleted() {
    for (hidden, failed) in [(true, true), (true, false), (false, true)] {
        let mut story = Story::of_two();
        story.completion("a", Op::Release("1".to_owned()), Completion::NoAnswer);
        story.release("1", "a");
        if failed {
            story.write("1", "deletion_failed", Some("a"));
        }
        story.write("1", "deleted", Some("a"));
        story.evidence.hidden.extend(hidden.then(|| "1".to_owned()));
        assert_eq!(story.verdict().is_empty(), hidden && failed, "hidden: {hidden}, failed: {failed}");
    }
}

#[test]
fn i3_a_replica_that_serves_no_more() {
    let mut story = Story::of_two();
    story.evidence.replicas = 1;
    assert_eq!(story.ends(), [""; 0]);
    let mut story = Story::of_two();
    story.evidence.replicas = 1;
    story.evidence.calm_since = story.now();
    assert_eq!(story.ends(), ["I3"], "released, but did not allocate");
    let mut story = Story::of_two();
    story.evidence.replicas = 1;
    story.give_back();
    story.evidence.history.last_mut().unwrap().completion = Completion::TryAgain;
    assert_eq!(story.verdict(), ["I3"], "allocated, but did not release");
}

#[test]
fn i4_a_false_empty() {
    let mut story = Story::of_two();
    story.completion("b", allocate(""), Completion::NoneAvailable);
    assert_eq!(story.ends(), ["I4"]);
    let mut story = Story::of_two();
    story.completion("b", allocate("lab-2"), Completion::NoneAvailable);
    story.completion("b", allocate("lab-1"), Completion::NoneAvailable);
    assert_eq!(story.ends(), ["I4"], "there was one with this prefix, and none with the other");
}

/// That it was empty before or after is no excuse.
#[test]
fn i4_empty_at_another_time() {
    let mut story = Story::of_two();
    story.write("2", "stale", None);
    story.write("2", "available", None);
    story.second += 1;
    story.completion("b", allocate(""), Completion::NoneAvailable);
    story.second += 1;
    story.write("2", "stale", None);
    story.write("2", "available", None);
    assert_eq!(story.ends(), ["I4"]);
}

#[test]
fn i5_an_epoch_that_goes_back_stands_still_or_leaps() {
    for epoch in [1, 2, 4] {
        let mut story = Story::of_two();
        story.write("2", "stale", None);
        let Written::Sandbox(id, Some(item)) = story.item("2", "available", None) else { panic!("a sandbox") };
        story.commit(vec![Written::Sandbox(id, Some(SandboxItem { epoch, ..item }))]);
        assert_eq!(story.ends(), ["I5"], "3 follows 2, not {epoch}");
    }
}

#[test]
fn i5_a_table_that_its_commits_do_not_explain() {
    let mut story = Story::of_two();
    story.give_back();
    let last = story.evidence.journal.pop().unwrap();
    for commit in story.evidence.journal.iter().chain([&last]) {
        commit.written.iter().for_each(|written| story.evidence.table.apply(written));
    }
    assert_eq!(story.judged(), ["I5"]);
}

#[test]
fn an_answer_that_the_api_does_not_know() {
    let mut story = Story::of_two();
    story.completion("b", allocate(""), Completion::Unexpected("500".to_owned()));
    assert_eq!(story.ends(), ["API"]);
}
