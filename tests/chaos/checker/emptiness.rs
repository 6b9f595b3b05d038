//! I4: "none available" is answered only if the index showed no matching sandbox at some moment of the call.

use std::collections::BTreeMap;

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

/// The periods in which the index may have shown no available sandbox with this prefix, at their longest.
fn empty_periods(journal: &[Commit], prefix: &str) -> Vec<(Timestamp, Timestamp)> {
    let mut listed_at: BTreeMap<&str, Timestamp> = BTreeMap::new();
    // How the number of sandboxes changes, and when.
    let mut changes = Vec::new();
    for commit in journal {
        for written in &commit.written {
            let Written::Sandbox(id, item) = written else { continue };
            match item {
                Some(item) if item.is("available") && item.name.starts_with(prefix) => {
                    listed_at.entry(id).or_insert(commit.listed_at);
                }
                _ => {
                    let listed = listed_at.remove(id.as_str()).filter(|listed_at| *listed_at < commit.at);
                    changes.extend(listed.into_iter().flat_map(|listed_at| [(listed_at, 1), (commit.at, -1)]));
                }
            }
        }
    }
    changes.extend(listed_at.into_values().map(|listed_at| (listed_at, 1)));
    changes.sort_unstable();
    let mut periods = Vec::new();
    let mut empty_since = Some(Timestamp::default());
    let mut available = 0;
    for (at, change) in changes {
        available += change;
        match (available, empty_since) {
            (0, None) => empty_since = Some(at),
            (1.., Some(since)) => {
                periods.push((since, at));
                empty_since = None;
            }
            _ => {}
        }
    }
    periods.extend(empty_since.map(|since| (since, Timestamp(u64::MAX))));
    periods
}
