//! How many allocations this replica makes, and how long they take.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

/// The longest latency; longer ones count as this one. The budget of an allocation is far below it.
const MAX_LATENCY_MICROS: u64 = 60_000_000;

/// Percentiles cover the last minute, in this number of parts. The oldest part is dropped at a time.
const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);

/// The allocations of this replica
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Throughput {
    /// Allocations per second since the last snapshot
    allocations_per_second: f64,
    /// The median latency over the last minute, in milliseconds; null without allocations
    p50_ms: Option<f64>,
    /// The 95th percentile of the latency, in milliseconds
    p95_ms: Option<f64>,
    /// The 99th percentile of the latency, in milliseconds
    p99_ms: Option<f64>,
}

/// Measures the allocations of this replica.
pub(super) struct ThroughputMeter {
    /// Allocations since the last reading.
    count: u64,
    read_at: Instant,
    /// Latencies of the last minute; new ones go into the first part.
    parts: VecDeque<Histogram<u64>>,
    part_started: Instant,
}

impl ThroughputMeter {
    pub(super) fn new() -> Self {
        let part = Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, 2).expect("the bounds are in order");
        let now = Instant::now();
        Self { count: 0, read_at: now, parts: VecDeque::from(vec![part; PARTS]), part_started: now }
    }

    /// Counts an allocation and its latency.
    pub(super) fn record(&mut self, took: Duration) {
        self.count += 1;
        self.parts[0].saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// The figures at `now`. The rate is the one since the last reading.
    pub(super) fn read(&mut self, now: Instant) -> Throughput {
        let mut minute = self.parts[0].clone();
        for part in self.parts.iter().skip(1) {
            minute.add(part).expect("all parts have the same bounds");
        }
        let percentile = |percent| (!minute.is_empty()).then(|| minute.value_at_percentile(percent) as f64 / 1000.0);
        let throughput = Throughput {
            allocations_per_second: self.count as f64 / (now - self.read_at).as_secs_f64().max(0.001),
            p50_ms: percentile(50.0),
            p95_ms: percentile(95.0),
            p99_ms: percentile(99.0),
        };
        (self.count, self.read_at) = (0, now);
        if now - self.part_started >= PART {
            self.parts.rotate_right(1);
            self.parts[0].reset();
            self.part_started = now;
        }
        throughput
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_since_the_last_reading_and_the_percentiles_are_of_the_last_minute() {
        let mut meter = ThroughputMeter::new();
        let start = meter.read_at;
        let at = |seconds| start + Duration::from_secs(seconds);
        let (first, second, later) = (at(2), at(4), [11, 22, 33, 44, 55, 66, 77].map(at));
        for millis in 1..=100 {
            meter.record(Duration::from_millis(millis));
        }
        let now = meter.read(first);
        assert_eq!(now.allocations_per_second, 50.0);
        let (median, slow) = (now.p50_ms.unwrap(), now.p99_ms.unwrap());
        assert!((49.0..=51.0).contains(&median) && (98.0..=100.0).contains(&slow), "{now:?}");

        let now = meter.read(second);
        assert_eq!((now.allocations_per_second, now.p50_ms), (0.0, Some(median)));
        let known = later.map(|now| meter.read(now).p50_ms.is_some());
        assert_eq!(known, [true, true, true, true, true, true, false], "after a minute they are dropped");
    }
}
