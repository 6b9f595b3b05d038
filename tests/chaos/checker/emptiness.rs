//! I4: whoever was completion that there is none op at a time when there was none.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::history::{Call, Commit, Completion, Evidence, Op, Timestamp, Written};

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut calls_by_prefix: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in &evidence.history {
        if let (Op::Allocate { prefix }, Completion::NoneAvailable) = (&call.op, &call.completion) {
            calls_by_prefix.entry(prefix).or_default().push(call);
        }
    }
    let mut violations = Vec::new();
    for (prefix, calls) in calls_by_prefix {
        let empty = empty_times(&evidence.journal, prefix);
        let was_empty = |call: &Call| empty.iter().any(|(from, until)| *from <= call.received && call.sent <= *until);
        let unfounded = calls.into_iter().filter(|call| !was_empty(call));
        violations.extend(
            unfounded.map(|call| {
                Violation::new("I4", format!("{call:?}, though there was one with this prefix all the time"))
            }),
        );
    }
    violations
}

/// The times in which no sandbox with this prefix was available, as long as they can have been.
fn empty_times(journal: &[Commit], prefix: &str) -> Vec<(Timestamp, Timestamp)> {
    let mut available: BTreeSet<&str> = BTreeSet::new();
    let mut times = Vec::new();
    let mut empty_since = Some(Timestamp::default());
    for commit in journal {
        for written in &commit.written {
            let Written::Sandbox(id, item) = written else { continue };
            match item {
                Some(item) if item.is("available") && item.name.starts_with(prefix) => available.insert(id),
                _ => available.remove(id.as_str()),
            };
        }
        match (available.is_empty(), empty_since) {
            (true, None) => empty_since = Some(commit.began),
            (false, Some(since)) => {
                times.push((since, commit.ended));
                empty_since = None;
            }
            _ => {}
        }
    }
    times.extend(empty_since.map(|since| (since, Timestamp(u64::MAX))));
    times
}
