//! I9, by the account: it serves one student in its life, whatever id it is listed under and whatever its CSP said; and it
//! becomes stale only if a listing lacked it.

use std::collections::BTreeMap;

use super::violation::Violation;
use crate::history::{Account, Evidence, SandboxId, SandboxItem, Written};

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut sandboxes: BTreeMap<&SandboxId, &SandboxItem> = BTreeMap::new();
    let mut served: BTreeMap<&Account, (&SandboxId, &SandboxItem)> = BTreeMap::new();
    let mut violations = Vec::new();
    for written in evidence.journal.iter().flat_map(|commit| &commit.written) {
        let Written::Sandbox(id, Some(item)) = written else { continue };
        let was = |status: &str| sandboxes.get(id).is_some_and(|before| before.is(status));
        if item.is("allocated")
            && !was("allocated")
            && let Some(before) = served.insert(&item.account, (id, item))
        {
            violations.push(Violation::new("I9", format!("{before:?}, and then {id}: {item:?}")));
        }
        let is_there = evidence.accounts.contains(&item.account) && !evidence.omitted.contains(&item.account);
        if item.is("stale") && !was("stale") && is_there {
            violations.push(Violation::new("I9", format!("{id} became stale, and its account was listed: {item:?}")));
        }
        sandboxes.insert(id, item);
    }
    violations
}
