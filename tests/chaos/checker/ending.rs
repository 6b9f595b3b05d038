//! I3: nothing is stuck. Once nothing is disturbed any more, every sandbox that was used is deleted, everywhere, and
//! every replica serves again.

use super::Violation;
use crate::history::{Call, Completion, Evidence, Written};

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let stuck = |what: String| Violation::new("I3", what);
    let mut violations = Vec::new();
    let table = &evidence.table;
    for (id, sandbox) in &table.sandboxes {
        if !sandbox.is("available") && !sandbox.is("deleted") {
            violations.push(stuck(format!("{id} is stuck: {sandbox:?}")));
        }
    }
    violations.extend(table.claims.iter().map(|(key, claim)| stuck(format!("{key:?} is stuck with {claim:?}"))));
    for id in table.differences(&evidence.accounts) {
        if !is_believed_gone(&id, evidence) {
            let (at_csp, in_table) = (evidence.accounts.contains(&id), table.sandboxes.get(&id));
            violations.push(stuck(format!("the table and the CSP disagree on {id}: {at_csp}, {in_table:?}")));
        }
    }
    for replica in 0..evidence.replicas {
        let is_calm = |call: &&Call| call.replica == replica && call.sent >= evidence.calm_since;
        let completion: Vec<_> = evidence.history.iter().filter(is_calm).map(|call| &call.completion).collect();
        if !completion.iter().any(|completion| matches!(completion, Completion::Holds { .. })) {
            violations.push(stuck(format!("replica {replica} allocates no more: {completion:?}")));
        } else if !completion.contains(&&Completion::Released) {
            violations.push(stuck(format!("replica {replica} releases no more: {completion:?}")));
        }
    }
    violations
}

/// By the specification, a sandbox whose deletion failed is deleted once the CSP's listing lacks it. A listing that lies
/// about it is believed, and there is no second one to ask.
fn is_believed_gone(id: &str, evidence: &Evidence) -> bool {
    let written = evidence.journal.iter().flat_map(|commit| &commit.written);
    let states = written.filter_map(|written| match written {
        Written::Sandbox(of, Some(item)) if of == id => Some(item.status.as_str()),
        _ => None,
    });
    let states: Vec<_> = states.collect();
    evidence.hidden.contains(id) && states.ends_with(&["deletion_failed", "deleted"])
}
