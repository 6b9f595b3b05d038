//! I4: "none available" is answered only if no matching sandbox was available at some moment of the call.

use std::collections::{BTreeMap, BTreeSet};

use super::violation::Violation;
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
        let periods = empty_periods(&evidence.journal, prefix);
        let was_empty =
            |call: &Call| periods.iter().any(|(start, end)| *start <= call.completed && call.invoked <= *end);
        let wrong = calls.into_iter().filter(|call| !was_empty(call));
        violations.extend(
            wrong.map(|call| Violation::new("I4", format!("{call:?}, but a match was available all the time"))),
        );
    }
    violations
}

/// The periods in which no sandbox with this prefix was available, at their longest.
fn empty_periods(journal: &[Commit], prefix: &str) -> Vec<(Timestamp, Timestamp)> {
    let mut available: BTreeSet<&str> = BTreeSet::new();
    let mut periods = Vec::new();
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
            (true, None) => empty_since = Some(commit.started),
            (false, Some(since)) => {
                periods.push((since, commit.ended));
                empty_since = None;
            }
            _ => {}
        }
    }
    periods.extend(empty_since.map(|since| (since, Timestamp(u64::MAX))));
    periods
}
