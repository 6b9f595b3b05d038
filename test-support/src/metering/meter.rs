//! Admission: the partitions and totals of tables and indexes, and what is left of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Bucket;
use super::counters::Counters;
use super::placement::Placement;
use super::settings::{Limits, WarmThroughput};

/// All tables and indexes that can be charged, by the name that the counters use.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    seed: u64,
    placement: Placement,
    resources: BTreeMap<String, Throughput>,
}

/// Units to be taken from one partition.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Charge {
    pub(super) resource: String,
    pub(super) partition: usize,
    pub(super) units: f64,
    pub(super) kind: ChargeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChargeKind {
    Read,
    TableWrite,
    /// Waits in the partition's queue, and refuses the table's write if that is too long.
    IndexWrite,
}

/// Why a charge was refused, as AWS names it in `ThrottlingReasons`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Throttled {
    pub(super) reason: &'static str,
    pub(super) resource: String,
}

#[derive(Debug)]
struct Throughput {
    warm: WarmThroughput,
    write: Vec<Bucket>,
    read: Vec<Bucket>,
    total_write: Bucket,
    total_read: Bucket,
}

#[derive(Clone, Copy)]
enum Limit {
    Partition,
    Total,
}

/// Units per second.
struct Rates {
    partition: f64,
    total: f64,
}

impl Meter {
    pub(super) fn new(limits: Limits, seed: u64, placement: Placement) -> Self {
        Self { limits, counters: Counters::default(), seed, placement, resources: BTreeMap::new() }
    }

    /// Adds a table or an index with full buckets.
    pub(super) fn add(&mut self, resource: &str, warm: WarmThroughput, now: Instant) {
        let throughput = Throughput::new(warm, &self.limits, now);
        self.counters.resources.entry(resource.to_owned()).or_default().grow(throughput.write.len());
        self.resources.insert(resource.to_owned(), throughput);
    }

    pub(super) fn remove(&mut self, resource: &str) {
        self.resources.remove(resource);
    }

    /// What the table or index is prepared for.
    pub(super) fn warm(&self, resource: &str) -> WarmThroughput {
        self.resources.get(resource).map(|throughput| throughput.warm).unwrap_or_default()
    }

    /// The partition of a key. `resource` is the table's or index's name in the counters.
    pub(super) fn partition(&self, resource: &str, key: &str) -> usize {
        let name = resource.rsplit('/').next().unwrap_or(resource);
        self.placement.partition(self.seed, name, key, self.partitions(resource))
    }

    pub(super) fn partitions(&self, resource: &str) -> usize {
        self.resources.get(resource).map_or(1, |throughput| throughput.write.len())
    }

    /// Takes all charges or none. Returns for each the time until its partition has worked it off, which is only more
    /// than zero in an index's queue.
    pub(super) fn take(&mut self, charges: &[Charge], now: Instant) -> Result<Vec<Duration>, Throttled> {
        for charge in charges {
            if let Some(limit) = self.limit_reached(charge, now) {
                return Err(self.throttled(charge, limit));
            }
        }
        Ok(charges.iter().map(|charge| self.take_one(charge)).collect())
    }

    pub(super) fn give_back(&mut self, charges: &[Charge]) {
        for charge in charges {
            let Some(throughput) = self.resources.get_mut(&charge.resource) else { continue };
            let rates = throughput.rates(&self.limits, charge.kind);
            let (partition, total) = throughput.buckets(charge);
            partition.give_back(charge.units, rates.partition);
            total.give_back(charge.units, rates.total);
        }
    }

    /// Counts charges as consumed by an operation.
    pub(super) fn count(&mut self, operation: &str, charges: &[Charge]) {
        for charge in charges {
            let by_operation = self.counters.operations.entry(operation.to_owned()).or_default();
            let by_resource = self.counters.resources.entry(charge.resource.clone()).or_default();
            by_resource.grow(charge.partition + 1);
            match charge.kind {
                ChargeKind::Read => {
                    by_operation.read_units += charge.units;
                    by_resource.read_units[charge.partition] += charge.units;
                }
                ChargeKind::TableWrite | ChargeKind::IndexWrite => {
                    by_operation.write_units += charge.units;
                    by_resource.write_units[charge.partition] += charge.units;
                }
            }
        }
    }

    /// Counts an answer that left throttled items unprocessed.
    pub(super) fn note_throttled(&mut self, operation: &str) {
        self.counters.operations.entry(operation.to_owned()).or_default().throttled += 1;
    }

    /// Sets all counters to zero.
    pub(super) fn reset_counters(&mut self) {
        self.counters = Counters::default();
        for (name, throughput) in &self.resources {
            self.counters.resources.entry(name.clone()).or_default().grow(throughput.write.len());
        }
    }

    fn limit_reached(&mut self, charge: &Charge, now: Instant) -> Option<Limit> {
        let queue_limit = self.limits.index_queue / self.limits.scale;
        let throughput = self.resources.get_mut(&charge.resource)?;
        let rates = throughput.rates(&self.limits, charge.kind);
        let (partition, total) = throughput.buckets(charge);
        let admits = |bucket: &mut Bucket, rate: f64| match charge.kind {
            ChargeKind::Read | ChargeKind::TableWrite => bucket.holds(charge.units, rate, now),
            ChargeKind::IndexWrite => bucket.queue(rate, now) <= queue_limit,
        };
        if !admits(partition, rates.partition) {
            return Some(Limit::Partition);
        }
        (!admits(total, rates.total)).then_some(Limit::Total)
    }

    fn take_one(&mut self, charge: &Charge) -> Duration {
        let Some(throughput) = self.resources.get_mut(&charge.resource) else { return Duration::ZERO };
        let rates = throughput.rates(&self.limits, charge.kind);
        let (partition, total) = throughput.buckets(charge);
        let partition_wait = partition.take(charge.units, rates.partition);
        partition_wait.max(total.take(charge.units, rates.total))
    }

    fn throttled(&mut self, charge: &Charge, limit: Limit) -> Throttled {
        let counters = self.counters.resources.entry(charge.resource.clone()).or_default();
        counters.grow(charge.partition + 1);
        match (charge.kind, limit) {
            (ChargeKind::Read, Limit::Partition) => counters.read_throttles[charge.partition] += 1,
            (ChargeKind::Read, Limit::Total) => counters.total_read_throttles += 1,
            (_, Limit::Partition) => counters.write_throttles[charge.partition] += 1,
            (_, Limit::Total) => counters.total_write_throttles += 1,
        }
        let is_index = charge.resource.contains('/');
        let reason = match (is_index, charge.kind, limit) {
            (false, ChargeKind::Read, Limit::Partition) => "TableReadKeyRangeThroughputExceeded",
            (false, ChargeKind::Read, Limit::Total) => "TableReadAccountLimitExceeded",
            (false, _, Limit::Partition) => "TableWriteKeyRangeThroughputExceeded",
            (false, _, Limit::Total) => "TableWriteAccountLimitExceeded",
            (true, ChargeKind::Read, Limit::Partition) => "IndexReadKeyRangeThroughputExceeded",
            (true, ChargeKind::Read, Limit::Total) => "IndexReadAccountLimitExceeded",
            (true, _, Limit::Partition) => "IndexWriteKeyRangeThroughputExceeded",
            (true, _, Limit::Total) => "IndexWriteAccountLimitExceeded",
        };
        Throttled { reason, resource: charge.resource.clone() }
    }
}

impl Throughput {
    fn new(warm: WarmThroughput, limits: &Limits, now: Instant) -> Self {
        let partitions = warm.partitions(limits);
        Self {
            warm,
            write: vec![Bucket::full(limits.partition_write / limits.scale, now); partitions],
            read: vec![Bucket::full(limits.partition_read / limits.scale, now); partitions],
            total_write: Bucket::full(warm.write.min(limits.quota_write) / limits.scale, now),
            total_read: Bucket::full(warm.read.min(limits.quota_read) / limits.scale, now),
        }
    }

    fn rates(&self, limits: &Limits, kind: ChargeKind) -> Rates {
        let (partition, total) = match kind {
            ChargeKind::Read => (limits.partition_read, self.warm.read.min(limits.quota_read)),
            ChargeKind::TableWrite | ChargeKind::IndexWrite => {
                (limits.partition_write, self.warm.write.min(limits.quota_write))
            }
        };
        Rates { partition: partition / limits.scale, total: total / limits.scale }
    }

    fn buckets(&mut self, charge: &Charge) -> (&mut Bucket, &mut Bucket) {
        match charge.kind {
            ChargeKind::Read => (&mut self.read[charge.partition], &mut self.total_read),
            ChargeKind::TableWrite | ChargeKind::IndexWrite => {
                (&mut self.write[charge.partition], &mut self.total_write)
            }
        }
    }
}
