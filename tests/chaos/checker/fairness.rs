//! I11 in the journal: a live ticket keeps its rank; a grant takes a live ticket; and once the faults are over, no one with
//! an open ticket waits while a sandbox that fits is free and not needed by those before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::violation::Violation;
use crate::history::{ClaimKey, Commit, Evidence, SandboxId, TicketItem, Timestamp, Written};

/// The seconds that a ticket lives after its owner was last seen.
const TICKET_LIFETIME: u64 = 90;

/// How long a waiter may be left alone with a sandbox: the two seconds of I11, and what skewed clocks and a loaded machine
/// add.
const MAX_WAIT: Duration = Duration::from_secs(8);

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut queue = Queue::default();
    let mut violations = Vec::new();
    for commit in &evidence.journal {
        if evidence.settled_at.is_some_and(|settled_at| settled_at <= commit.at) {
            violations.extend(queue.left_alone(commit.at));
        }
        violations.extend(queue.apply(commit));
    }
    violations
}

#[derive(Default)]
struct Queue<'a> {
    tickets: BTreeMap<&'a ClaimKey, &'a TicketItem>,
    holders: BTreeSet<&'a ClaimKey>,
    /// The available sandboxes: their names, and since when the index shows them.
    free: BTreeMap<&'a SandboxId, (&'a str, Timestamp)>,
    /// Those for whom a sandbox is free, and since when.
    due: BTreeMap<&'a ClaimKey, Timestamp>,
}

impl<'a> Queue<'a> {
    /// Those who were due for too long until now. Each is reported once.
    fn left_alone(&mut self, now: Timestamp) -> Vec<Violation> {
        let mut violations = Vec::new();
        self.due.retain(|key, since| {
            let Some(ticket) = self.tickets.get(key) else { return false };
            let waited_until = now.min(Timestamp::from_seconds(ticket.open_until));
            let is_left_alone = waited_until > since.plus(MAX_WAIT);
            if is_left_alone {
                let description =
                    format!("{key:?} waits with {ticket:?}, and since {since:?} a sandbox is free for it");
                violations.push(Violation::new("I11", description));
            }
            !is_left_alone
        });
        violations
    }

    fn apply(&mut self, commit: &'a Commit) -> Vec<Violation> {
        let mut violations = Vec::new();
        for written in &commit.written {
            match written {
                Written::Ticket(key, Some(ticket)) => {
                    let lost = self.tickets.insert(key, ticket).filter(|before| {
                        before.enqueued != ticket.enqueued && before.seen_at + TICKET_LIFETIME > ticket.seen_at
                    });
                    violations.extend(lost.map(|before| {
                        Violation::new("I11", format!("{key:?} lost its rank: {before:?}, then {ticket:?}"))
                    }));
                }
                Written::Ticket(key, None) => {
                    let before = self.tickets.remove(key);
                    violations.extend(granted_without_ticket(commit, key, before));
                }
                Written::Claim(key, Some(_)) => drop(self.holders.insert(key)),
                Written::Claim(key, None) => drop(self.holders.remove(key)),
                Written::Sandbox(id, Some(item)) if item.is("available") => {
                    self.free.insert(id, (&item.name, commit.listed_at));
                }
                Written::Sandbox(id, _) => drop(self.free.remove(id)),
            }
        }
        self.update_due(commit.at);
        violations
    }

    fn update_due(&mut self, now: Timestamp) {
        let is_open = |ticket: &TicketItem| Timestamp::from_seconds(ticket.open_until) > now;
        let mut waiting: Vec<_> = self
            .tickets
            .iter()
            .filter(|(key, ticket)| is_open(ticket) && !self.holders.contains(*key))
            .map(|(key, ticket)| (ticket.enqueued, *key, ticket.prefix.as_str()))
            .collect();
        waiting.sort_unstable();
        let mut free: Vec<&str> =
            self.free.values().filter(|(_, listed_at)| *listed_at <= now).map(|(name, _)| *name).collect();
        free.sort_unstable();
        let before = std::mem::take(&mut self.due);
        for (_, key, prefix) in waiting {
            if let Some(fitting) = free.iter().position(|name| name.starts_with(prefix)) {
                free.remove(fitting);
                self.due.insert(key, before.get(key).copied().unwrap_or(now));
            }
        }
    }
}

/// A grant creates the claim and removes the ticket at once.
fn granted_without_ticket(commit: &Commit, key: &ClaimKey, ticket: Option<&TicketItem>) -> Option<Violation> {
    let claim = commit.written.iter().find_map(|written| match written {
        Written::Claim(of, Some(claim)) if of == key => Some(claim),
        _ => None,
    })?;
    let is_live = ticket.is_some_and(|ticket| ticket.seen_at + TICKET_LIFETIME > claim.since);
    (!is_live).then(|| Violation::new("I11", format!("{key:?} was granted {claim:?} with {ticket:?}")))
}
