use std::collections::BTreeMap;

use tokio::time::Instant;

use super::tables::Tables;
use crate::sandbox::{Sandbox, SandboxId, Status};

/// Observations of the tables after each write, by which a test judges the answers to its requests.
#[derive(Debug)]
pub struct Observer {
    violation: Option<String>,
    /// For each name prefix: whether no sandbox is available now, and when that was last the case.
    emptiness: BTreeMap<Option<String>, (bool, Option<Instant>)>,
    /// Each sandbox after the last write.
    last_seen: BTreeMap<SandboxId, Seen>,
    /// The holdings that ended, in order.
    ended_holdings: Vec<(SandboxId, Instant)>,
    /// The accounts that have served a student, each with its sandbox then.
    served: BTreeMap<String, SandboxId>,
}

#[derive(Debug)]
struct Seen {
    status: Status,
    epoch: u64,
    changed_at: Instant,
}

impl Observer {
    pub(super) fn new(prefixes: &[Option<&str>]) -> Self {
        let emptiness = prefixes.iter().map(|prefix| (prefix.map(str::to_owned), (false, None))).collect();
        Self {
            violation: None,
            emptiness,
            last_seen: BTreeMap::new(),
            ended_holdings: Vec::new(),
            served: BTreeMap::new(),
        }
    }

    /// The first violation of an invariant.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// When no sandbox with this prefix was last available. A sandbox counts if the table and the index have it.
    pub fn last_empty(&self, prefix: Option<&str>) -> Option<Instant> {
        let (is_empty, last) = self.emptiness[&prefix.map(str::to_owned)];
        if is_empty { Some(Instant::now()) } else { last }
    }

    /// When the holding of this sandbox ended.
    pub fn holding_ended_at(&self, sandbox_id: &SandboxId) -> Option<Instant> {
        self.ended_holdings.iter().find(|(ended, _)| ended == sandbox_id).map(|(_, at)| *at)
    }

    /// When this sandbox changed last, as far as it was seen.
    pub fn changed_at(&self, sandbox_id: &SandboxId) -> Option<Instant> {
        self.last_seen.get(sandbox_id).map(|seen| seen.changed_at)
    }

    /// The holdings that ended, without the first `count`.
    pub fn ended_holdings_after(&self, count: usize) -> &[(SandboxId, Instant)] {
        &self.ended_holdings[count..]
    }

    /// I9, by the account: it serves once.
    fn serve(&mut self, sandbox: &Sandbox) {
        let before = self.served.insert(sandbox.external_id.clone(), sandbox.sandbox_id.clone());
        if let (Some(before), None) = (before, &self.violation) {
            self.violation = Some(format!("I9: its account has served before, as {before}: {sandbox:?}"));
        }
    }

    pub(super) fn update(&mut self, tables: &Tables, lagging_index: Option<&Tables>) {
        let now = Instant::now();
        self.violation = self.violation.take().or_else(|| tables.violation());
        // A sandbox that is created again under its id, after its tombstone expired, has another life.
        if self.last_seen.len() > tables.sandboxes.len() {
            self.last_seen.retain(|sandbox_id, _| tables.get(sandbox_id).is_some());
        }
        for sandbox in tables.sandboxes() {
            let (status, epoch) = (sandbox.status, sandbox.epoch.0);
            let Some(seen) = self.last_seen.get_mut(&sandbox.sandbox_id) else {
                self.last_seen.insert(sandbox.sandbox_id.clone(), Seen { status, epoch, changed_at: now });
                continue;
            };
            if seen.status == Status::Allocated && status != Status::Allocated {
                self.ended_holdings.push((sandbox.sandbox_id.clone(), now));
            }
            let is_unchanged = (status, epoch) == (seen.status, seen.epoch);
            let is_legal = epoch == seen.epoch + 1 && is_transition(seen.status, status);
            if self.violation.is_none() && !is_unchanged && !is_legal {
                self.violation = Some(format!("I5: from {seen:?} to {sandbox:?}"));
            }
            let is_served = status == Status::Allocated && seen.status != status;
            if !is_unchanged {
                *seen = Seen { status, epoch, changed_at: now };
            }
            if is_served {
                self.serve(sandbox);
            }
        }
        let is_indexed = |sandbox_id: &SandboxId| {
            let indexed = lagging_index.unwrap_or(tables).get(sandbox_id);
            indexed.is_some_and(|sandbox| sandbox.status == Status::Available)
        };
        for (prefix, (is_empty, last)) in &mut self.emptiness {
            let mut available = tables.sandboxes().filter(|sandbox| {
                sandbox.status == Status::Available
                    && prefix.as_ref().is_none_or(|prefix| sandbox.name.starts_with(prefix))
                    && is_indexed(&sandbox.sandbox_id)
            });
            let was_empty = std::mem::replace(is_empty, available.next().is_none());
            if was_empty || *is_empty {
                *last = Some(now);
            }
        }
    }
}

/// Whether the state diagram of the architecture has this transition, or a change within this state.
fn is_transition(from: Status, to: Status) -> bool {
    use Status::{Allocated, Available, Deleted, DeletionFailed, PendingDeletion, Quarantined, Stale};
    let targets: &[Status] = match from {
        Available => &[Available, Allocated, Stale, Quarantined],
        Allocated => &[Allocated, PendingDeletion],
        PendingDeletion => &[PendingDeletion, DeletionFailed, Deleted, Quarantined],
        Stale => &[Available, Deleted],
        DeletionFailed => &[DeletionFailed, PendingDeletion, Deleted, Quarantined],
        Quarantined => &[PendingDeletion, Available],
        Deleted => &[Deleted, PendingDeletion],
    };
    targets.contains(&to)
}
