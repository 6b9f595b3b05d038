//! A token bucket, one second deep.

use std::time::Duration;

use tokio::time::Instant;

/// Tolerates what adding and subtracting fractions leaves behind.
const ROUNDING: f64 = 1e-6;

/// Holds the units of at most one second. The rate is a parameter of each call, because it may change meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    tokens: f64,
    refilled: Instant,
}

impl Bucket {
    pub(super) fn full(rate: f64, now: Instant) -> Self {
        Self { tokens: rate, refilled: now }
    }

    /// Whether it holds the units. A request for more than one second's is granted by a full bucket.
    pub(super) fn holds(&mut self, units: f64, rate: f64, now: Instant) -> bool {
        self.refill(rate, now);
        self.tokens + ROUNDING >= units.min(rate)
    }

    /// Units taken beyond what it held: the queue in front of it.
    pub(super) fn queue(&mut self, rate: f64, now: Instant) -> f64 {
        self.refill(rate, now);
        if self.tokens < -ROUNDING { -self.tokens } else { 0.0 }
    }

    /// Takes units, also more than it holds. Returns the time until the last of them is there.
    pub(super) fn take(&mut self, units: f64, rate: f64) -> Duration {
        self.tokens -= units;
        Duration::from_secs_f64((-self.tokens / rate).max(0.0))
    }

    pub(super) fn give_back(&mut self, units: f64, rate: f64) {
        self.tokens = (self.tokens + units).min(rate);
    }

    fn refill(&mut self, rate: f64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.tokens = (self.tokens + elapsed * rate).min(rate);
    }
}
