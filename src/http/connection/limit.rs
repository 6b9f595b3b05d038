//! How many connections this process takes, in all and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Limits;
use crate::http::error::ErrorForm;

/// The most connections, if the process may open at least twice as many files. An idle one takes 13 KiB and the worst
/// known one 85 KiB, so this bounds the memory that strangers can make the process use.
const MAX_CONNECTIONS: usize = 4096;

/// Clients get this fraction of the files that the process may open. The rest is for the store and the CSP.
const CLIENTS_FRACTION: usize = 2;

/// The number of files assumed where the system does not report a limit: the smallest limit in use.
const ASSUMED_FILES: usize = 1024;

/// The connections beyond the limit that are taken for probes: a replica that is full must not look dead.
const PROBES: usize = 16;

/// The largest part of all connections that one address may have while slots are scarce.
const ADDRESS_FRACTION: usize = 4;

/// All connections of this process.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    limit: usize,
    error_form: ErrorForm,
    /// The connections of each address; `None` if addresses say nothing about clients.
    by_address: Option<Arc<Mutex<HashMap<IpAddr, usize>>>>,
}

/// One connection in the count, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    connections: Connections,
    address: Option<IpAddr>,
    is_for_probes: bool,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        let limit = MAX_CONNECTIONS.min(open_files() / CLIENTS_FRACTION);
        let by_address = limits.is_shared_by_address.then(Arc::default);
        Self { open: Arc::default(), limit, error_form: limits.error_form, by_address }
    }

    pub(super) fn error_form(&self) -> ErrorForm {
        self.error_form
    }

    /// The most connections that are served, with those for probes.
    pub(super) fn limit(&self) -> usize {
        self.limit + PROBES
    }

    /// Counts one more connection; `None` if that would exceed a limit.
    pub(super) fn take_slot(self, peer: Option<IpAddr>) -> Option<Slot> {
        self.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("broker_connections").increment(1.0);
        let address = peer.filter(|_| self.by_address.is_some());
        let of_address = address.map(|address| self.count(address)).unwrap_or_default();
        let mut slot = Slot { connections: self, address, is_for_probes: false };
        let limit = slot.connections.limit;
        if slot.open() > limit + PROBES || slot.are_scarce() && of_address > limit / ADDRESS_FRACTION {
            return None;
        }
        slot.is_for_probes = slot.open() > limit;
        Some(slot)
    }

    /// Counts one more connection of this address and returns how many it has.
    fn count(&self, address: IpAddr) -> usize {
        let Some(by_address) = &self.by_address else { return 0 };
        let mut by_address = by_address.lock();
        let count = by_address.entry(address).or_default();
        *count += 1;
        *count
    }

    fn discount(&self, address: IpAddr) {
        let Some(by_address) = &self.by_address else { return };
        if let Entry::Occupied(mut count) = by_address.lock().entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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

    /// Whether it serves only probes, because the limit is reached.
    pub(super) fn is_for_probes(&self) -> bool {
        self.is_for_probes
    }

    /// The number of open connections, including this one.
    fn open(&self) -> usize {
        self.connections.open.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            self.connections.discount(address);
        }
        metrics::gauge!("broker_connections").decrement(1.0);
    }
}

/// The number of files that this process may open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.map_or(ASSUMED_FILES, |soft| soft.parse().unwrap_or(usize::MAX))
}
