//! I10: no call without the owner's secret reads, renews, releases or replays its sandbox.

use std::collections::{BTreeMap, BTreeSet};

use super::violation::Violation;
use crate::history::{Call, Caller, Completion, Evidence, Op, SandboxId, Written};

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let written = evidence.journal.iter().flat_map(|commit| &commit.written);
    let proofs: BTreeMap<&SandboxId, Option<&str>> = written
        .filter_map(|written| match written {
            Written::Sandbox(id, Some(item)) if item.owner.is_some() => Some((id, item.proof.as_deref())),
            _ => None,
        })
        .collect();
    let proof_of = |id: &SandboxId| proofs.get(id).copied().flatten();
    let by = |caller: Caller| {
        let calls = evidence.history.iter().filter(move |call| call.caller == caller);
        calls.filter_map(|call| Some((call, granted(call)?)))
    };
    // What the table stores for each track's secret.
    let mut own: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (call, sandbox) in by(Caller::Owner) {
        match proof_of(sandbox) {
            Some(proof) => drop(own.entry(&call.track).or_default().insert(proof)),
            None => {
                violations.push(Violation::new("I10", format!("{call:?}, but {sandbox} is stored without a proof")))
            }
        }
    }
    for (call, sandbox) in by(Caller::Impostor) {
        // With a key that holds nothing anyone may allocate; then the proof is that of the other secret.
        let is_owners = proof_of(sandbox)
            .is_none_or(|proof| own.get(call.track.as_str()).is_some_and(|proofs| proofs.contains(proof)));
        if is_owners {
            violations.push(Violation::new("I10", format!("{call:?} without the secret of {sandbox}")));
        }
    }
    violations
}

/// The sandbox that the answer gives, shows or takes.
fn granted(call: &Call) -> Option<&SandboxId> {
    match (&call.op, &call.completion) {
        (_, Completion::Holds { sandbox, .. }) => Some(sandbox),
        (Op::Read(sandbox), Completion::Reads { .. }) | (Op::Release(sandbox), Completion::Released) => Some(sandbox),
        _ => None,
    }
}
