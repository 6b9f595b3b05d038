//! What the server counted since its start or the last reset.

use std::collections::BTreeMap;

use serde::Serialize;

/// A copy of all counters.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// By operation, for example `GetItem`.
    pub operations: BTreeMap<String, OperationCounters>,
    /// By table (`pool`) and index (`pool/StatusIndex`).
    pub resources: BTreeMap<String, ResourceCounters>,
}

/// One operation's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperationCounters {
    /// All requests.
    pub requests: u64,
    /// Requests that were carried out, also if a fault replaced their answer.
    pub succeeded: u64,
    /// Requests with at least one throttled item.
    pub throttled: u64,
    /// Requests for a key that a transaction had marked.
    pub conflicts: u64,
    /// Requests that a fault answered.
    pub faults: u64,
    /// Read units consumed.
    pub read_units: f64,
    /// Write units consumed, by the table and by its indexes.
    pub write_units: f64,
}

/// The units and throttles of one table or index.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ResourceCounters {
    /// Write units by partition.
    pub write_units: Vec<f64>,
    /// Read units by partition.
    pub read_units: Vec<f64>,
    /// Writes refused by partition: the partition was used up or, for an index, its queue was too long.
    pub write_throttles: Vec<u64>,
    /// Reads refused by partition.
    pub read_throttles: Vec<u64>,
    /// Writes refused because the whole table or index was used up.
    pub total_write_throttles: u64,
    /// Reads refused because the whole table or index was used up.
    pub total_read_throttles: u64,
}

impl Counters {
    /// The requests of one operation; zeros if there were none.
    pub fn operation(&self, operation: &str) -> OperationCounters {
        self.operations.get(operation).cloned().unwrap_or_default()
    }

    /// The units of one table or index; zeros if there is none of that name.
    pub fn resource(&self, name: &str) -> ResourceCounters {
        self.resources.get(name).cloned().unwrap_or_default()
    }

    /// All read units.
    pub fn read_units(&self) -> f64 {
        self.operations.values().map(|operation| operation.read_units).sum()
    }

    /// All write units.
    pub fn write_units(&self) -> f64 {
        self.operations.values().map(|operation| operation.write_units).sum()
    }

    /// Requests with at least one throttled item.
    pub fn throttled(&self) -> u64 {
        self.operations.values().map(|operation| operation.throttled).sum()
    }

    /// Requests for a key that a transaction had marked.
    pub fn conflicts(&self) -> u64 {
        self.operations.values().map(|operation| operation.conflicts).sum()
    }
}

impl ResourceCounters {
    /// Write units of all partitions.
    pub fn total_write_units(&self) -> f64 {
        self.write_units.iter().sum()
    }

    /// Read units of all partitions.
    pub fn total_read_units(&self) -> f64 {
        self.read_units.iter().sum()
    }

    /// Write units of the fullest partition.
    pub fn fullest_write_units(&self) -> f64 {
        self.write_units.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn grow(&mut self, partitions: usize) {
        let partitions = partitions.max(self.write_units.len());
        self.write_units.resize(partitions, 0.0);
        self.read_units.resize(partitions, 0.0);
        self.write_throttles.resize(partitions, 0);
        self.read_throttles.resize(partitions, 0);
    }
}
