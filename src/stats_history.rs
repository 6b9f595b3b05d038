//! The stats of the last week, minute by minute and over all replicas, for charts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_actors::broker::Broker;
use broker_actors::error::Chain;
use broker_actors::ports::{Clock, StoreError, StoredStats};
use broker_actors::sandbox::Timestamp;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::day::{DAY, day_of};
use crate::dynamo::DynamoStore;
pub use crate::dynamo::stats_history::Minute;

const MINUTE: u64 = 60;

/// How long a minute is kept.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// A count that is older than this says nothing about the present minute.
const OLDEST_COUNT: Duration = Duration::from_secs(180);

/// The most points that a chart gets.
const MAX_POINTS: u64 = 180;

/// What this replica did since its last part was stored.
#[derive(Debug, Default)]
pub struct ReplicaCounters {
    allocations: AtomicU64,
    errors: AtomicU64,
}

impl ReplicaCounters {
    /// Counts an allocation that was answered with a sandbox.
    pub fn count_allocation(&self) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer to a track with a status of 5xx.
    pub fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// The stats history of a table.
pub struct StatsHistory {
    store: Arc<DynamoStore>,
    clock: Arc<dyn Clock>,
    /// This replica's part of the present minute.
    pub counters: ReplicaCounters,
}

/// The points of a chart.
#[derive(Debug)]
pub struct History {
    /// The time from one point to the next. A time without a point is a gap.
    pub step: Duration,
    /// The points, in their order. Counts are the last ones of the point's time, the rest are sums.
    pub points: Vec<Minute>,
}

impl StatsHistory {
    /// The stats history of this table.
    pub fn new(store: Arc<DynamoStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, counters: ReplicaCounters::default() }
    }

    /// Adds this replica's part once a minute. Never returns.
    pub async fn run(&self, broker: &Broker) {
        let counts = broker.watch_stats();
        let mut ticks = interval(Duration::from_secs(MINUTE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let stored = *counts.borrow();
            self.add_part(stored).await;
        }
    }

    async fn add_part(&self, stored: StoredStats) {
        let now = self.clock.now();
        let is_fresh = stored.counted_at.is_some_and(|at| now.since(at) <= OLDEST_COUNT);
        let part = Minute {
            at: Timestamp(now.0 - now.0 % MINUTE),
            counts: if is_fresh { counts_of(&stored) } else { BTreeMap::new() },
            allocations: self.counters.allocations.swap(0, Ordering::Relaxed),
            errors: self.counters.errors.swap(0, Ordering::Relaxed),
        };
        if let Err(error) = self.store.add_minute(&day_of(now), &part, now.plus(RETENTION)).await {
            // The next part has what this one did. If the store did write it, an allocation is counted twice.
            self.counters.allocations.fetch_add(part.allocations, Ordering::Relaxed);
            self.counters.errors.fetch_add(part.errors, Ordering::Relaxed);
            tracing::warn!(event = "stats_history_failed", error = %Chain(&error), "a minute of the stats history is missing");
        }
    }

    /// The points of the last hours: 1 to 168.
    ///
    /// # Errors
    ///
    /// As every read of the store.
    pub async fn last_hours(&self, hours: u64) -> Result<History, StoreError> {
        let now = self.clock.now();
        let from = now.minus(Duration::from_secs(hours * 3600));
        let mut minutes = Vec::new();
        let mut day = from;
        while day_of(day) <= day_of(now) {
            minutes.extend(self.store.minutes(&day_of(day), from).await?);
            day = day.plus(DAY);
        }
        let step = (hours * 3600).div_ceil(MAX_POINTS).next_multiple_of(MINUTE);
        Ok(History { step: Duration::from_secs(step), points: merged(minutes, step) })
    }
}

/// The counts of a stored count, by name.
fn counts_of(stored: &StoredStats) -> BTreeMap<String, u64> {
    let counts = serde_json::to_value(stored.stats).unwrap_or_default();
    let counts = counts.as_object().into_iter().flatten();
    counts.filter_map(|(name, value): (_, &Value)| Some((name.clone(), value.as_u64()?))).collect()
}

/// One point for each step that has minutes.
fn merged(minutes: Vec<Minute>, step: u64) -> Vec<Minute> {
    let mut points: Vec<Minute> = Vec::new();
    for minute in minutes {
        let at = Timestamp(minute.at.0 - minute.at.0 % step);
        match points.last_mut().filter(|point| point.at == at) {
            None => points.push(Minute { at, ..minute }),
            Some(point) => {
                point.allocations += minute.allocations;
                point.errors += minute.errors;
                if !minute.counts.is_empty() {
                    point.counts = minute.counts;
                }
            }
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(at: u64, available: Option<u64>, allocations: u64) -> Minute {
        let counts = available.map(|count| ("available".to_owned(), count)).into_iter().collect();
        Minute { at: Timestamp(at), counts, allocations, errors: 0 }
    }

    #[test]
    fn minutes_of_a_step_become_one_point_and_gaps_stay_gaps() {
        let minutes =
            vec![minute(600, Some(9), 1), minute(660, Some(7), 2), minute(720, None, 3), minute(1800, Some(5), 4)];
        let points = merged(minutes, 600);
        assert_eq!(points, [minute(600, Some(7), 6), minute(1800, Some(5), 4)]);
    }
}
