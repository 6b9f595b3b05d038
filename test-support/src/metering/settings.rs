//! What a metering server is started with.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::placement::Placement;

/// The settings of a [`MeteringServer`](super::MeteringServer). The default is a new account's cold on-demand table.
#[derive(Clone, Debug, Default)]
pub struct MeteringSettings {
    /// Decides the placement of keys, the lags and the faults.
    pub seed: u64,
    /// How much there is to consume.
    pub limits: Limits,
    /// The throughput of tables and indexes whose creation names no warm throughput.
    pub warm: WarmThroughput,
    /// Exceptions from the hash that places partition keys.
    pub placement: Placement,
    /// How far an index lies behind its table.
    pub lag: Lag,
    /// How long things take.
    pub durations: Durations,
}

/// DynamoDB's limits. All but the number of partitions are divided by `scale`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Write units per second of one partition.
    pub partition_write: f64,
    /// Read units per second of one partition.
    pub partition_read: f64,
    /// Write units per second of one table, and of each of its indexes, whatever it is warmed to.
    pub quota_write: f64,
    /// Read units per second of one table, and of each of its indexes, whatever it is warmed to.
    pub quota_read: f64,
    /// Units that may wait for one index partition before writes of the table are refused. AWS documents no figure.
    pub index_queue: f64,
    /// The factor by which a test divides its load and the server its limits.
    pub scale: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            partition_write: 1_000.0,
            partition_read: 3_000.0,
            quota_write: 40_000.0,
            quota_read: 40_000.0,
            index_queue: 0.0,
            scale: 1.0,
        }
    }
}

impl Limits {
    /// Limits that no test reaches, for those that only read the counters.
    pub fn unlimited() -> Self {
        Self { scale: 1e-9, ..Self::default() }
    }
}

/// Units per second that a table or an index is prepared for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmThroughput {
    /// Write units per second.
    pub write: f64,
    /// Read units per second.
    pub read: f64,
}

impl Default for WarmThroughput {
    /// What a new on-demand table has.
    fn default() -> Self {
        Self { write: 4_000.0, read: 12_000.0 }
    }
}

impl WarmThroughput {
    /// The default, warmed to this number of write units per second.
    pub fn write(units: f64) -> Self {
        Self { write: units, ..Self::default() }
    }

    /// The number of partitions that carry it.
    pub fn partitions(self, limits: &Limits) -> usize {
        (self.write / limits.partition_write).max(self.read / limits.partition_read).ceil().max(1.0) as usize
    }
}

/// The delay between a write and its visibility in an index, drawn for each removed and each added entry by itself.
#[derive(Clone, Debug)]
pub struct Lag {
    /// The mean of the usual delay, which is drawn from half to one and a half of it.
    pub usual: Duration,
    /// The share of entries with the rare delay.
    pub rare_share: f64,
    /// The rare delay.
    pub rare: RangeInclusive<Duration>,
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            usual: Duration::from_millis(10),
            rare_share: 0.001,
            rare: Duration::from_secs(1)..=Duration::from_secs(5),
        }
    }
}

impl Lag {
    /// Indexes that show each write at once.
    pub fn none() -> Self {
        Self { usual: Duration::ZERO, rare_share: 0.0, rare: Duration::ZERO..=Duration::ZERO }
    }

    pub(super) fn draw(&self, random: &mut fastrand::Rng) -> Duration {
        if random.f64() < self.rare_share {
            return draw(random, &self.rare);
        }
        self.usual.mul_f64(0.5 + random.f64())
    }
}

/// How long the server takes for what AWS does not do at once.
#[derive(Clone, Debug)]
pub struct Durations {
    /// From the moment at which a transaction marks its keys to its commit.
    pub transaction: RangeInclusive<Duration>,
    /// A new table's time in `CREATING`, and an updated one's in `UPDATING`.
    pub table: Duration,
    /// The time in `CREATING` of an index that is added to a table.
    pub index: Duration,
    /// The time after a table's creation in which continuous backups are unavailable.
    pub backups: Duration,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            transaction: Duration::from_millis(4)..=Duration::from_millis(8),
            table: Duration::ZERO,
            index: Duration::ZERO,
            backups: Duration::ZERO,
        }
    }
}

/// A duration from the range, all equally likely.
pub(super) fn draw(random: &mut fastrand::Rng, range: &RangeInclusive<Duration>) -> Duration {
    *range.start() + (range.end().saturating_sub(*range.start())).mul_f64(random.f64())
}
