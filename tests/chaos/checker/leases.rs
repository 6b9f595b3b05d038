//! I1 to I3 by exclusive leases: what a track was completion is its own from the answer until it gives it back or until the
//! end that it was completion, to the histories of all clients and to the table alike.

use std::collections::BTreeMap;

use super::Violation;
use crate::history::{Call, ClaimKey, Commit, Completion, Evidence, Op, SandboxId, Timestamp, Written};

/// A sandbox that is certainly held.
struct Lease {
    key: ClaimKey,
    sandbox: SandboxId,
    /// The first answer that said so.
    from: Timestamp,
    /// When its owner began to give it back, or the last end that was completion, whichever is sooner.
    until: Timestamp,
    /// The last end that was completion.
    promised: Timestamp,
}

/// The time in which a sandbox is allocated in the table.
struct Life {
    owner: ClaimKey,
    began: Timestamp,
    end: Option<(Timestamp, Timestamp)>,
}

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let leases = leases(&evidence.history);
    let lives = lives(&evidence.journal);
    let mut violations = overlaps(&leases, "I1", |lease| lease.sandbox.clone(), |one, other| one.key.0 != other.key.0);
    violations.extend(overlaps(
        &leases,
        "I2",
        |lease| format!("{:?}", lease.key),
        |one, other| one.sandbox != other.sandbox,
    ));
    violations.extend(leases.iter().filter_map(|lease| missing_in_table(lease, lives.get(&lease.sandbox))));
    for call in &evidence.history {
        violations.extend(denied(call, &leases));
        violations.extend(release_lost(call, &lives));
    }
    violations
}

fn leases(history: &[Call]) -> Vec<Lease> {
    let mut given_back: BTreeMap<(&str, &str), Timestamp> = BTreeMap::new();
    for call in history {
        if let Op::Release(sandbox) = &call.op {
            let at = given_back.entry((&call.track, sandbox)).or_insert(call.sent);
            *at = call.sent.min(*at);
        }
    }
    let mut leases: BTreeMap<(ClaimKey, SandboxId), Vec<Lease>> = BTreeMap::new();
    for call in in_order_of_answers(history) {
        let Completion::Holds { sandbox, until: promised } = &call.completion else { continue };
        let given_back = given_back.get(&(call.track.as_str(), sandbox.as_str()));
        let until = given_back.map_or(*promised, |at| *promised.min(at));
        if until <= call.received {
            continue;
        }
        let key = (call.track.clone(), call.key.clone());
        let of_key = leases.entry((key.clone(), sandbox.clone())).or_default();
        match of_key.last_mut().filter(|lease| call.received <= lease.until) {
            Some(lease) => {
                lease.until = lease.until.max(until);
                lease.promised = lease.promised.max(*promised);
            }
            // One that lapsed may be renewed in its grace, but was not certain meanwhile.
            None => {
                let (sandbox, from) = (sandbox.clone(), call.received);
                of_key.push(Lease { key, sandbox, from, until, promised: *promised });
            }
        }
    }
    leases.into_values().flatten().collect()
}

fn in_order_of_answers(history: &[Call]) -> Vec<&Call> {
    let mut calls: Vec<_> = history.iter().collect();
    calls.sort_by_key(|call| call.received);
    calls
}

/// Leases of one group that are not the same and hold at the same time.
fn overlaps<G: Ord>(
    leases: &[Lease],
    invariant: &'static str,
    group: impl Fn(&Lease) -> G,
    differ: impl Fn(&Lease, &Lease) -> bool,
) -> Vec<Violation> {
    let mut groups: BTreeMap<G, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        groups.entry(group(lease)).or_default().push(lease);
    }
    let mut violations = Vec::new();
    for group in groups.into_values() {
        for (index, one) in group.iter().enumerate() {
            for other in &group[index + 1..] {
                if differ(one, other) && one.from.max(other.from) < one.until.min(other.until) {
                    let holder = |lease: &Lease| {
                        format!("{:?} holds {} from {:?} until {:?}", lease.key, lease.sandbox, lease.from, lease.until)
                    };
                    violations.push(Violation::new(invariant, format!("{}, {}", holder(one), holder(other))));
                }
            }
        }
    }
    violations
}

fn lives(journal: &[Commit]) -> BTreeMap<SandboxId, Vec<Life>> {
    let mut lives: BTreeMap<SandboxId, Vec<Life>> = BTreeMap::new();
    for commit in journal {
        for written in &commit.written {
            let Written::Sandbox(id, item) = written else { continue };
            let owner = item.as_ref().filter(|item| item.is("allocated")).and_then(|item| item.owner.clone());
            let of_sandbox = lives.entry(id.clone()).or_default();
            let current = of_sandbox.last_mut().filter(|life| life.end.is_none());
            if current.as_ref().map(|life| &life.owner) == owner.as_ref() {
                continue;
            }
            if let Some(life) = current {
                life.end = Some((commit.began, commit.ended));
            }
            if let Some(owner) = owner {
                of_sandbox.push(Life { owner, began: commit.began, end: None });
            }
        }
    }
    lives
}

/// I3: a success is durable. The table has it before the answer, and keeps it for as long as it was promised.
fn missing_in_table(lease: &Lease, lives: Option<&Vec<Life>>) -> Option<Violation> {
    let of_owner = || lives.into_iter().flatten().filter(|life| life.owner == lease.key && life.began <= lease.from);
    let is_kept = |life: &Life| life.end.is_none_or(|(_, ended)| ended >= lease.until);
    if of_owner().any(is_kept) {
        return None;
    }
    let Lease { key, sandbox, from, until, .. } = lease;
    let promised = format!("{key:?} was completion at {from:?} that it holds {sandbox} until {until:?}");
    Some(Violation::new(
        "I3",
        match of_owner().next_back() {
            Some(life) => format!("{promised}; the table ended that at {:?}", life.end),
            None => format!("{promised}; the table never said so"),
        },
    ))
}

/// I3: an owner is not turned away from what it certainly holds, and its key's request is answered with it.
fn denied(call: &Call, leases: &[Lease]) -> Option<Violation> {
    let is_sure = |lease: &&Lease| lease.from <= call.sent && call.received <= lease.until && lease.key.0 == call.track;
    let denied = match (&call.op, &call.completion) {
        (Op::Read(sandbox), Completion::Reads { status }) if status != "allocated" => sandbox,
        (Op::Read(sandbox) | Op::Renew(sandbox), Completion::NotYours | Completion::WrongState) => sandbox,
        (Op::Release(sandbox), Completion::NotYours) => {
            // The lease ends where its first release begins, and would have lasted longer than that took.
            let was_held = |lease: &&Lease| lease.until == call.sent && call.received <= lease.promised;
            let of_caller = |lease: &&Lease| lease.sandbox == *sandbox && lease.key.0 == call.track;
            let lease = leases.iter().filter(of_caller).find(was_held)?;
            return Some(Violation::new("I3", format!("{call:?}, though it was held since {:?}", lease.from)));
        }
        (Op::Allocate { .. }, Completion::NoneAvailable) => {
            let lease = leases.iter().filter(is_sure).find(|lease| lease.key.1 == call.key)?;
            return Some(Violation::new("I3", format!("{call:?}, though its key holds {}", lease.sandbox)));
        }
        _ => return None,
    };
    let lease = leases.iter().filter(is_sure).find(|lease| lease.sandbox == *denied)?;
    Some(Violation::new("I3", format!("{call:?}, though it is held until {:?}", lease.until)))
}

/// I3: a release that was answered has taken effect.
fn release_lost(call: &Call, lives: &BTreeMap<SandboxId, Vec<Life>>) -> Option<Violation> {
    let (Op::Release(sandbox), Completion::Released) = (&call.op, &call.completion) else { return None };
    let is_over = |life: &Life| life.owner.0 == call.track && life.end.is_some_and(|(began, _)| began <= call.received);
    let is_known = lives.get(sandbox).into_iter().flatten().any(is_over);
    (!is_known).then(|| Violation::new("I3", format!("{call:?}; the table did not release it")))
}
