//! The units alone, without a server: how full the fullest partition gets under a load of the broker's.
//!
//! Keys fall on partitions like balls into bins. What decides is the fullest bin in most placements, not the mean.

use super::placement::partition_of;
use super::settings::WarmThroughput;

const WRITE_UNIT: usize = 1024;

/// The writes of the table and of its status index that one event costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The sync adds a sandbox.
    Discover,
    /// A sandbox is claimed.
    Allocate,
    /// A holding is renewed.
    Renew,
    /// A holding ends by its owner or by expiry.
    Release,
    /// A deleted sandbox becomes a tombstone.
    Tombstone,
}

/// An event for each step of a sandbox's life without a renewal.
pub const WHOLE_LIFE: [Event; 4] = [Event::Discover, Event::Allocate, Event::Release, Event::Tombstone];

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ItemSizes {
    /// A sandbox that was never allocated.
    pub available: usize,
    /// A sandbox from its allocation on.
    pub allocated: usize,
    /// The claim of a holding.
    pub claim: usize,
}

impl Default for ItemSizes {
    fn default() -> Self {
        Self { available: 270, allocated: 460, claim: 300 }
    }
}

/// The partition key of the status index.
#[derive(Clone, Copy, Debug)]
pub enum StatusKey {
    /// `{status}`.
    Bare,
    /// `{status}#{shard}` with this number of shards.
    Sharded(usize),
}

/// What happens in each second.
#[derive(Clone, Debug)]
pub struct Load {
    /// Lives or single events per second.
    pub rate: f64,
    /// The events of each.
    pub events: Vec<Event>,
    /// The form of the status index.
    pub status_key: StatusKey,
    /// The sizes of the items.
    pub sizes: ItemSizes,
}

/// Write units per second of the fullest partition, and of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fullest {
    /// The table's fullest partition.
    pub table: f64,
    /// The status index's fullest partition.
    pub status_index: f64,
    /// All partitions of the table.
    pub table_total: f64,
    /// All partitions of the status index.
    pub status_index_total: f64,
}

/// Units that an event writes to the status index under the key of a status.
type IndexUnits = Vec<(&'static str, f64)>;

impl Load {
    /// The 95th percentile of the fullest partition over the placements of this number of seeds.
    ///
    /// A status key's units arrive evenly. A sandbox and a claim are written once, so the table's units are those that
    /// fall on a partition in one drawn second.
    pub fn fullest_of_most(&self, table: WarmThroughput, index: WarmThroughput, seeds: u64) -> Fullest {
        let limits = super::settings::Limits::default();
        let placements: Vec<Fullest> =
            (0..seeds).map(|seed| self.fullest(seed, table.partitions(&limits), index.partitions(&limits))).collect();
        let percentile = |of: fn(&Fullest) -> f64| {
            let mut sorted: Vec<f64> = placements.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            let rank = (sorted.len() as f64 * 0.95).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Fullest {
            table: percentile(|fullest| fullest.table),
            status_index: percentile(|fullest| fullest.status_index),
            table_total: percentile(|fullest| fullest.table_total),
            status_index_total: percentile(|fullest| fullest.status_index_total),
        }
    }

    fn fullest(&self, seed: u64, table_partitions: usize, index_partitions: usize) -> Fullest {
        let mut index = vec![0.0; index_partitions];
        let mut table = vec![0.0; table_partitions];
        let mut random = fastrand::Rng::with_seed(seed);
        for event in &self.events {
            for (status, units) in self.index_units(*event) {
                for (key, share) in self.status_key.keys(status) {
                    index[partition_of(seed, "StatusIndex", &key, index_partitions)] += self.rate * units * share;
                }
            }
            for units in self.item_units(*event) {
                for _ in 0..self.rate.round() as u64 {
                    table[random.usize(..table_partitions)] += units;
                }
            }
        }
        let most = |units: &[f64]| units.iter().copied().fold(0.0, f64::max);
        Fullest {
            table: most(&table),
            status_index: most(&index),
            table_total: table.iter().sum(),
            status_index_total: index.iter().sum(),
        }
    }

    /// The units of each item that an event writes to the table.
    fn item_units(&self, event: Event) -> Vec<f64> {
        let ItemSizes { available, allocated, claim } = self.sizes;
        match event {
            Event::Discover => vec![units(available)],
            Event::Allocate | Event::Renew | Event::Release => vec![2.0 * units(allocated), 2.0 * units(claim)],
            Event::Tombstone => vec![units(allocated)],
        }
    }

    fn index_units(&self, event: Event) -> IndexUnits {
        let available = units(self.sizes.available);
        let allocated = units(self.sizes.allocated);
        match event {
            Event::Discover => vec![("available", available)],
            Event::Allocate => vec![("available", available), ("allocated", allocated)],
            Event::Renew => vec![("allocated", allocated)],
            Event::Release => vec![("allocated", allocated), ("pending_deletion", allocated)],
            Event::Tombstone => vec![("pending_deletion", allocated), ("deleted", allocated)],
        }
    }
}

impl StatusKey {
    /// The keys of a status, with each one's share of its units.
    fn keys(self, status: &str) -> Vec<(String, f64)> {
        match self {
            Self::Bare => vec![(status.to_owned(), 1.0)],
            Self::Sharded(shards) => {
                (0..shards).map(|shard| (format!("{status}#{shard:02x}"), 1.0 / shards as f64)).collect()
            }
        }
    }
}

fn units(bytes: usize) -> f64 {
    bytes.div_ceil(WRITE_UNIT).max(1) as f64
}
