//! I1, I2, I3 and I5 in the table: every commit moves each sandbox by one legal transition, and after every commit the
//! sandboxes and claims match.

use super::violation::Violation;
use crate::history::{Evidence, SandboxItem, Table, Written};

/// The legal transitions.
const TRANSITIONS: [(&str, &[&str]); 7] = [
    ("available", &["available", "allocated", "stale", "quarantined"]),
    ("allocated", &["allocated", "pending_deletion"]),
    ("pending_deletion", &["pending_deletion", "deleted", "deletion_failed", "quarantined"]),
    ("deletion_failed", &["deletion_failed", "pending_deletion", "deleted", "quarantined"]),
    ("quarantined", &["available", "pending_deletion"]),
    ("stale", &["available", "deleted"]),
    ("deleted", &["deleted", "pending_deletion"]),
];

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut table = Table::default();
    let mut violations = Vec::new();
    let mut was_consistent = true;
    for commit in &evidence.journal {
        for written in &commit.written {
            if let Written::Sandbox(id, after) = written {
                violations.extend(illegal_transition(id, table.sandboxes.get(id), after.as_ref()));
            }
            table.apply(written);
        }
        // A mismatch lasts over the following commits; only the first is reported.
        let mismatches = mismatches(&table);
        if was_consistent {
            violations.extend(mismatches.iter().cloned());
        }
        was_consistent = mismatches.is_empty();
    }
    if table != evidence.table {
        violations.push(Violation::new("I5", "the table at the end is not the result of the commits"));
    }
    violations
}

fn illegal_transition(id: &str, before: Option<&SandboxItem>, after: Option<&SandboxItem>) -> Option<Violation> {
    let violation =
        |invariant, what: &str| Some(Violation::new(invariant, format!("{id} {what}: {before:?} → {after:?}")));
    match (before, after) {
        (None, None) => None,
        (Some(_), None) => violation("I3", "vanished"),
        (None, Some(after)) if !after.is("available") || after.owner.is_some() => {
            violation("I3", "was not created as available")
        }
        (None, Some(_)) => None,
        (Some(before), Some(after)) => {
            let targets = TRANSITIONS.iter().find(|(from, _)| before.is(from)).map_or(&[][..], |(_, to)| to);
            let is_claim = before.is("available") && after.is("allocated");
            if after.epoch != before.epoch + 1 {
                return violation("I5", "changed and its epoch did not grow by one");
            }
            if before.owner != after.owner && !is_claim {
                return violation("I1", "changed its owner");
            }
            if !targets.iter().any(|to| after.is(to)) {
                return violation("I3", "made an illegal transition");
            }
            None
        }
    }
}

/// The claims without a matching sandbox and the allocated sandboxes without a matching claim.
fn mismatches(table: &Table) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, claim) in &table.claims {
        let sandbox = table.sandboxes.get(&claim.sandbox);
        let is_match = |sandbox: &&SandboxItem| {
            sandbox.is("allocated") && sandbox.owner.as_ref() == Some(key) && sandbox.epoch == claim.epoch
        };
        if sandbox.filter(is_match).is_none() {
            violations.push(Violation::new("I2", format!("{key:?} claims {claim:?}, which is {sandbox:?}")));
        }
    }
    for (id, sandbox) in table.sandboxes.iter().filter(|(_, sandbox)| sandbox.is("allocated")) {
        let claim = sandbox.owner.as_ref().and_then(|owner| table.claims.get(owner));
        if claim.is_none_or(|claim| claim.sandbox != *id) {
            violations.push(Violation::new("I2", format!("{id} is {sandbox:?}, but its owner's claim is {claim:?}")));
        }
    }
    violations
}
