//! I1 to I3 as exclusive leases: from an answer that gives a track a sandbox until its release or the expiry in the answer,
//! the track holds it alone, in the histories of all clients and in the table.

use std::collections::BTreeMap;

use super::violation::Violation;
use crate::history::{Call, Caller, ClaimKey, Commit, Completion, Evidence, Op, SandboxId, Timestamp, Written};

/// A period in which a key certainly holds a sandbox.
struct Lease {
    key: ClaimKey,
    sandbox: SandboxId,
    /// The completion of the first answer.
    start: Timestamp,
    /// The first release by the track or the last expiry, whichever is earlier.
    end: Timestamp,
    /// The last expiry in an answer.
    expires_at: Timestamp,
}

/// A period in which a sandbox is allocated in the table.
struct Allocation {
    owner: ClaimKey,
    started: Timestamp,
    ended: Option<Timestamp>,
}

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let history: Vec<&Call> = evidence.history.iter().filter(|call| call.caller != Caller::Impostor).collect();
    let leases = leases(&history);
    let allocations = allocations(&evidence.journal);
    let mut violations = overlaps(&leases, "I1", |lease| lease.sandbox.clone(), |one, other| one.key.0 != other.key.0);
    violations.extend(overlaps(
        &leases,
        "I2",
        |lease| format!("{:?}", lease.key),
        |one, other| one.sandbox != other.sandbox,
    ));
    violations.extend(leases.iter().filter_map(|lease| missing_in_table(lease, allocations.get(&lease.sandbox))));
    for call in history {
        violations.extend(denied(call, &leases));
        violations.extend(release_lost(call, &allocations));
    }
    violations
}

fn leases(history: &[&Call]) -> Vec<Lease> {
    let mut first_releases: BTreeMap<(&str, &str), Timestamp> = BTreeMap::new();
    for call in history {
        if let Op::Release(sandbox) = &call.op {
            let first = first_releases.entry((&call.track, sandbox)).or_insert(call.invoked);
            *first = call.invoked.min(*first);
        }
    }
    let mut leaves: BTreeMap<(&str, &str), Vec<&Call>> = BTreeMap::new();
    for call in history.iter().filter(|call| call.op == Op::Leave) {
        leaves.entry((&call.track, &call.key)).or_default().push(call);
    }
    let mut leases: BTreeMap<(ClaimKey, SandboxId), Vec<Lease>> = BTreeMap::new();
    for call in by_completion(history) {
        let Completion::Holds { sandbox, until: expires_at } = &call.completion else { continue };
        let released = first_releases.get(&(call.track.as_str(), sandbox.as_str()));
        let end = released.map_or(*expires_at, |released| *expires_at.min(released));
        let left = leaves.get(&(call.track.as_str(), call.key.as_str()));
        let left = left.into_iter().flatten().filter(|leave| may_take_effect_after(leave, call.invoked));
        let end = left.map(|leave| leave.invoked).chain([end]).min().unwrap_or(end);
        if end <= call.completed {
            continue;
        }
        let key = (call.track.clone(), call.key.clone());
        let of_key = leases.entry((key.clone(), sandbox.clone())).or_default();
        match of_key.last_mut().filter(|lease| call.completed <= lease.end) {
            Some(lease) => {
                lease.end = lease.end.max(end);
                lease.expires_at = lease.expires_at.max(*expires_at);
            }
            // A lease that expired may be renewed within the grace period, but was not certain in between.
            None => {
                let (sandbox, start) = (sandbox.clone(), call.completed);
                of_key.push(Lease { key, sandbox, start, end, expires_at: *expires_at });
            }
        }
    }
    leases.into_values().flatten().collect()
}

/// Whether a call may take effect after this time: it completed later, or there is no answer.
fn may_take_effect_after(call: &Call, time: Timestamp) -> bool {
    call.completed >= time || call.completion == Completion::Indeterminate
}

fn by_completion<'a>(history: &[&'a Call]) -> Vec<&'a Call> {
    let mut calls = history.to_vec();
    calls.sort_by_key(|call| call.completed);
    calls
}

/// The pairs of leases in one group that conflict and overlap.
fn overlaps<G: Ord>(
    leases: &[Lease],
    invariant: &'static str,
    group: impl Fn(&Lease) -> G,
    conflict: impl Fn(&Lease, &Lease) -> bool,
) -> Vec<Violation> {
    let mut groups: BTreeMap<G, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        groups.entry(group(lease)).or_default().push(lease);
    }
    let mut violations = Vec::new();
    for group in groups.into_values() {
        for (index, one) in group.iter().enumerate() {
            for other in &group[index + 1..] {
                if conflict(one, other) && one.start.max(other.start) < one.end.min(other.end) {
                    let describe = |lease: &Lease| {
                        format!("{:?} holds {} from {:?} until {:?}", lease.key, lease.sandbox, lease.start, lease.end)
                    };
                    violations.push(Violation::new(invariant, format!("{}, {}", describe(one), describe(other))));
                }
            }
        }
    }
    violations
}

fn allocations(journal: &[Commit]) -> BTreeMap<SandboxId, Vec<Allocation>> {
    let mut allocations: BTreeMap<SandboxId, Vec<Allocation>> = BTreeMap::new();
    for commit in journal {
        for written in &commit.written {
            let Written::Sandbox(id, item) = written else { continue };
            let owner = item.as_ref().filter(|item| item.is("allocated")).and_then(|item| item.owner.clone());
            let of_sandbox = allocations.entry(id.clone()).or_default();
            let current = of_sandbox.last_mut().filter(|allocation| allocation.ended.is_none());
            if current.as_ref().map(|allocation| &allocation.owner) == owner.as_ref() {
                continue;
            }
            if let Some(allocation) = current {
                allocation.ended = Some(commit.at);
            }
            if let Some(owner) = owner {
                of_sandbox.push(Allocation { owner, started: commit.at, ended: None });
            }
        }
    }
    allocations
}

/// I3: a success is durable. The table has the allocation before the answer and keeps it until the end of the lease.
fn missing_in_table(lease: &Lease, allocations: Option<&Vec<Allocation>>) -> Option<Violation> {
    let of_lease = || {
        allocations
            .into_iter()
            .flatten()
            .filter(|allocation| allocation.owner == lease.key && allocation.started <= lease.start)
    };
    let covers_lease = |allocation: &Allocation| allocation.ended.is_none_or(|ended| ended >= lease.end);
    if of_lease().any(covers_lease) {
        return None;
    }
    let Lease { key, sandbox, start, end, .. } = lease;
    let observed = format!("{key:?} holds {sandbox} from {start:?} until {end:?}");
    Some(Violation::new(
        "I3",
        match of_lease().next_back() {
            Some(allocation) => format!("{observed}, but the table ended that at {:?}", allocation.ended),
            None => format!("{observed}, but not in the table"),
        },
    ))
}

/// I3: a track is not denied a sandbox that it certainly holds, and a repeated allocation gets it.
fn denied(call: &Call, leases: &[Lease]) -> Option<Violation> {
    let covers_call =
        |lease: &&Lease| lease.start <= call.invoked && call.completed <= lease.end && lease.key.0 == call.track;
    let denied = match (&call.op, &call.completion) {
        (Op::Read(sandbox), Completion::Reads { status }) if status != "allocated" => sandbox,
        (Op::Read(sandbox) | Op::Renew(sandbox), Completion::NotOwned | Completion::WrongState) => sandbox,
        (Op::Release(sandbox), Completion::NotOwned) => {
            // The lease ends when its first release is invoked, so compare the completion with the expiry.
            let covers_release = |lease: &&Lease| lease.end == call.invoked && call.completed <= lease.expires_at;
            let of_track = |lease: &&Lease| lease.sandbox == *sandbox && lease.key.0 == call.track;
            let lease = leases.iter().filter(of_track).find(covers_release)?;
            return Some(Violation::new("I3", format!("{call:?}, but it is held since {:?}", lease.start)));
        }
        (Op::Allocate { .. }, Completion::NoneAvailable | Completion::NotOwned) => {
            let lease = leases.iter().filter(covers_call).find(|lease| lease.key.1 == call.key)?;
            return Some(Violation::new("I3", format!("{call:?}, but its key holds {}", lease.sandbox)));
        }
        _ => return None,
    };
    let lease = leases.iter().filter(covers_call).find(|lease| lease.sandbox == *denied)?;
    Some(Violation::new("I3", format!("{call:?}, but it is held until {:?}", lease.end)))
}

/// I3: a release that was answered has taken effect.
fn release_lost(call: &Call, allocations: &BTreeMap<SandboxId, Vec<Allocation>>) -> Option<Violation> {
    let (Op::Release(sandbox), Completion::Released) = (&call.op, &call.completion) else { return None };
    let is_over = |allocation: &Allocation| {
        allocation.owner.0 == call.track && allocation.ended.is_some_and(|ended| ended <= call.completed)
    };
    let has_ended = allocations.get(sandbox).into_iter().flatten().any(is_over);
    (!has_ended).then(|| Violation::new("I3", format!("{call:?}, but not in the table")))
}
