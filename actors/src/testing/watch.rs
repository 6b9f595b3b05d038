use std::collections::BTreeMap;

use tokio::time::Instant;

use super::tables::Tables;
use crate::sandbox::{SandboxId, Status};

/// What was seen of the tables after each write, for those who judge the answers by it.
#[derive(Debug)]
pub struct Watch {
    contradiction: Option<String>,
    /// Of each prefix, when there last was nothing for it; now, if there is nothing.
    nothing_for: BTreeMap<Option<String>, (bool, Option<Instant>)>,
    /// Each sandbox after the last write.
    seen: BTreeMap<SandboxId, Seen>,
    /// The holdings that ended, in order.
    ends: Vec<(SandboxId, Instant)>,
}

#[derive(Debug)]
struct Seen {
    status: Status,
    epoch: u64,
}

impl Watch {
    pub(super) fn new(prefixes: &[Option<&str>]) -> Self {
        let nothing_for = prefixes.iter().map(|prefix| (prefix.map(str::to_owned), (false, None))).collect();
        Self { contradiction: None, nothing_for, seen: BTreeMap::new(), ends: Vec::new() }
    }

    /// The first contradiction that was seen.
    pub fn contradiction(&self) -> Option<&str> {
        self.contradiction.as_deref()
    }

    /// When there last was no sandbox for this prefix. One counts as there if it is available, and the index shows it.
    pub fn last_nothing_for(&self, prefix: Option<&str>) -> Option<Instant> {
        let (is_now, last) = self.nothing_for[&prefix.map(str::to_owned)];
        if is_now { Some(Instant::now()) } else { last }
    }

    /// When the holding of this sandbox ended, if it did.
    pub fn holding_ended_at(&self, sandbox_id: &SandboxId) -> Option<Instant> {
        self.ends.iter().find(|(ended, _)| ended == sandbox_id).map(|(_, at)| *at)
    }

    /// The holdings that ended, without the first `count`.
    pub fn ends_since(&self, count: usize) -> &[(SandboxId, Instant)] {
        &self.ends[count..]
    }

    pub(super) fn look(&mut self, tables: &Tables, lagging_index: Option<&Tables>) {
        let now = Instant::now();
        self.contradiction = self.contradiction.take().or_else(|| tables.contradiction());
        for sandbox in tables.sandboxes() {
            let (status, epoch) = (sandbox.status, sandbox.epoch.0);
            let Some(seen) = self.seen.get_mut(&sandbox.sandbox_id) else {
                self.seen.insert(sandbox.sandbox_id.clone(), Seen { status, epoch });
                continue;
            };
            if seen.status == Status::Allocated && status != Status::Allocated {
                self.ends.push((sandbox.sandbox_id.clone(), now));
            }
            let is_unchanged = (status, epoch) == (seen.status, seen.epoch);
            let is_in_order = epoch == seen.epoch + 1 && leads_to(seen.status, status);
            if self.contradiction.is_none() && !is_unchanged && !is_in_order {
                self.contradiction = Some(format!("I5: from {seen:?} to {sandbox:?}"));
            }
            (seen.status, seen.epoch) = (status, epoch);
        }
        let is_there = |sandbox_id: &SandboxId| {
            let shown = lagging_index.unwrap_or(tables).get(sandbox_id);
            shown.is_some_and(|sandbox| sandbox.status == Status::Available)
        };
        for (prefix, (is_now, last)) in &mut self.nothing_for {
            let mut there = tables.sandboxes().filter(|sandbox| {
                sandbox.status == Status::Available
                    && prefix.as_ref().is_none_or(|prefix| sandbox.name.starts_with(prefix))
                    && is_there(&sandbox.sandbox_id)
            });
            let was_now = std::mem::replace(is_now, there.next().is_none());
            if was_now || *is_now {
                *last = Some(now);
            }
        }
    }
}

/// The arrows of the specification's section 2, and the changes within a state.
fn leads_to(from: Status, to: Status) -> bool {
    use Status::{Allocated, Available, Deleted, DeletionFailed, PendingDeletion, Stale};
    let to_all: &[Status] = match from {
        Available => &[Allocated, Stale],
        Allocated => &[Allocated, PendingDeletion],
        PendingDeletion => &[PendingDeletion, DeletionFailed, Deleted],
        Stale => &[Available, Deleted],
        DeletionFailed => &[PendingDeletion, Deleted],
        Deleted => &[],
    };
    to_all.contains(&to)
}
