//! I3: nothing is stuck. Once nothing is disturbed any more, every sandbox that was used is deleted, everywhere, and
//! every replica serves again.

use std::collections::BTreeSet;

use super::Violation;
use crate::history::{Call, Evidence, Told};

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
    let available = table.sandboxes.iter().filter(|(_, sandbox)| sandbox.is("available")).map(|(id, _)| id.clone());
    let available: BTreeSet<_> = available.collect();
    for id in evidence.accounts.symmetric_difference(&available) {
        let (at_csp, in_table) = (evidence.accounts.contains(id), table.sandboxes.get(id));
        violations.push(stuck(format!("the table and the CSP disagree on {id}: {at_csp}, {in_table:?}")));
    }
    for replica in 0..evidence.replicas {
        let is_calm = |call: &&Call| call.replica == replica && call.sent >= evidence.calm_since;
        let told: Vec<_> = evidence.history.iter().filter(is_calm).map(|call| &call.told).collect();
        if !told.iter().any(|told| matches!(told, Told::Holds { .. })) {
            violations.push(stuck(format!("replica {replica} allocates no more: {told:?}")));
        } else if !told.contains(&&Told::Released) {
            violations.push(stuck(format!("replica {replica} releases no more: {told:?}")));
        }
    }
    violations
}
