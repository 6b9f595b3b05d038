//! How many connections this process takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http::error::ErrorForm;

/// The most connections, if the process may open at least twice as many files. An idle one takes 13 KiB and the worst
/// known one 85 KiB, so this bounds the memory that strangers can make the process use.
const MAX_CONNECTIONS: usize = 4096;

/// Clients get this fraction of the files that the process may open. The rest is for the store and the CSP.
const CLIENTS_FRACTION: usize = 2;

/// The number of files assumed where the system does not report a limit: the smallest limit in use.
const ASSUMED_FILES: usize = 1024;

/// All connections of this process.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    limit: usize,
    error_form: ErrorForm,
}

/// One connection in the count, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    connections: Connections,
}

impl Connections {
    pub(super) fn new(error_form: ErrorForm) -> Self {
        Self { open: Arc::default(), limit: MAX_CONNECTIONS.min(open_files() / CLIENTS_FRACTION), error_form }
    }

    pub(super) fn error_form(&self) -> ErrorForm {
        self.error_form
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Counts one more connection; `None` if that would exceed the limit.
    pub(super) fn take_slot(self) -> Option<Slot> {
        self.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("broker_connections").increment(1.0);
        let slot = Slot { connections: self };
        (slot.open() <= slot.connections.limit).then_some(slot)
    }
}

impl Slot {
    pub(super) fn error_form(&self) -> ErrorForm {
        self.connections.error_form
    }

    /// Whether few slots are left, so that idle connections should end early.
    pub(super) fn are_scarce(&self) -> bool {
        self.open() > self.connections.limit / 4 * 3
    }

    /// The number of open connections, including this one.
    fn open(&self) -> usize {
        self.connections.open.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("broker_connections").decrement(1.0);
    }
}

/// The number of files that this process may open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.map_or(ASSUMED_FILES, |soft| soft.parse().unwrap_or(usize::MAX))
}
