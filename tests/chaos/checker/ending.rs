//! I3 after the last fault: every sandbox that was held is deleted in the table and at the CSP, and every replica serves.

use super::violation::Violation;
use crate::history::{Call, Completion, Evidence, Written};

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let violation = |description: String| Violation::new("I3", description);
    let mut violations = Vec::new();
    let table = &evidence.table;
    for (id, sandbox) in &table.sandboxes {
        if !sandbox.is("available") && !sandbox.is("deleted") {
            violations.push(violation(format!("{id} is stuck: {sandbox:?}")));
        }
    }
    violations.extend(table.claims.iter().map(|(key, claim)| violation(format!("{key:?} is stuck with {claim:?}"))));
    for account in table.differences(&evidence.accounts) {
        if !is_deletion_excused(&account, evidence) {
            let (at_csp, in_table) = (evidence.accounts.contains(&account), table.of_account(&account));
            violations
                .push(violation(format!("{account} differs: listed by the CSP: {at_csp}, in the table: {in_table:?}")));
        }
    }
    for replica in 0..evidence.replicas {
        let is_after_faults = |call: &&Call| call.replica == replica && call.invoked >= evidence.healed_at;
        let completions: Vec<_> =
            evidence.history.iter().filter(is_after_faults).map(|call| &call.completion).collect();
        if !completions.iter().any(|completion| matches!(completion, Completion::Holds { .. })) {
            violations.push(violation(format!("replica {replica} does not allocate: {completions:?}")));
        } else if !completions.contains(&&Completion::Released) {
            violations.push(violation(format!("replica {replica} does not release: {completions:?}")));
        }
    }
    violations
}

/// Whether the account may be deleted in the table and alive at the CSP: the CSP called it deleted; or its deletion failed,
/// and a fault left it out of two listings, which by the specification confirms that it is gone. Either way it is never
/// offered again (I9).
fn is_deletion_excused(account: &str, evidence: &Evidence) -> bool {
    let Some((id, sandbox)) = evidence.table.of_account(account) else { return false };
    if evidence.falsely_deleted.contains(account) && sandbox.is("deleted") {
        return true;
    }
    let written = evidence.journal.iter().flat_map(|commit| &commit.written);
    let states: Vec<_> = written
        .filter_map(|written| match written {
            Written::Sandbox(of, Some(item)) if of == id => Some(item.status.as_str()),
            _ => None,
        })
        .collect();
    evidence.omitted.contains(account) && states.ends_with(&["deletion_failed", "deleted"])
}
