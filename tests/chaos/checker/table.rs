//! I1, I2, I3 and I5 by the table: every commit takes each sandbox one legal step further, and after each one sandboxes
//! and claims agree.

use super::Violation;
use crate::history::{Evidence, SandboxItem, Table, Written};

/// The steps that a sandbox may take.
const STEPS: [(&str, &[&str]); 6] = [
    ("available", &["allocated", "stale"]),
    ("allocated", &["allocated", "pending_deletion"]),
    ("pending_deletion", &["pending_deletion", "deleted", "deletion_failed"]),
    ("deletion_failed", &["pending_deletion", "deleted"]),
    ("stale", &["available", "deleted"]),
    ("deleted", &[]),
];

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut table = Table::default();
    let mut violations = Vec::new();
    let mut agreed = true;
    for commit in &evidence.journal {
        for written in &commit.written {
            if let Written::Sandbox(id, after) = written {
                violations.extend(bad_step(id, table.sandboxes.get(id), after.as_ref()));
            }
            table.apply(written);
        }
        // What disagrees now does so after the next commits as well; once is enough.
        let disagreements = disagreements(&table);
        if agreed {
            violations.extend(disagreements.iter().cloned());
        }
        agreed = disagreements.is_empty();
    }
    if table != evidence.table {
        violations.push(Violation::new("I5", "the table at the end is not what its commits made of it"));
    }
    violations
}

fn bad_step(id: &str, before: Option<&SandboxItem>, after: Option<&SandboxItem>) -> Option<Violation> {
    let completion =
        |invariant, what: &str| Some(Violation::new(invariant, format!("{id} {what}: {before:?} → {after:?}")));
    match (before, after) {
        (None, None) => None,
        (Some(_), None) => completion("I3", "vanished"),
        (None, Some(after)) if !after.is("available") || after.epoch != 1 || after.owner.is_some() => {
            completion("I3", "did not begin as an available one")
        }
        (None, Some(_)) => None,
        (Some(before), Some(after)) => {
            let steps = STEPS.iter().find(|(from, _)| before.is(from)).map_or(&[][..], |(_, to)| to);
            let is_claim = before.is("available") && after.is("allocated");
            if after.epoch != before.epoch + 1 {
                return completion("I5", "changed without one step of its epoch");
            }
            if before.owner != after.owner && !is_claim {
                return completion("I1", "changed its owner");
            }
            if !steps.iter().any(|to| after.is(to)) {
                return completion("I3", "took a step that there is not");
            }
            None
        }
    }
}

/// Every claim has its sandbox and every allocated sandbox has its claim.
fn disagreements(table: &Table) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, claim) in &table.claims {
        let sandbox = table.sandboxes.get(&claim.sandbox);
        let is_held = |sandbox: &&SandboxItem| {
            sandbox.is("allocated") && sandbox.owner.as_ref() == Some(key) && sandbox.epoch == claim.epoch
        };
        if sandbox.filter(is_held).is_none() {
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
