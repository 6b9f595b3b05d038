//! Waiting times between attempts: exponential, jittered, bounded. The only place that knows the `backoff` crate,
//! which its author no longer maintains (see deny.toml).

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Bounds of the waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait, before jitter.
    pub base: Duration,
    /// No wait is longer, before jitter.
    pub max: Duration,
}

/// Half of a wait is added or taken away at random, so that those who collided once do not collide again.
const JITTER: f64 = 0.5;

impl RetryPolicy {
    /// An endless sequence of waits, each about twice as long as the one before it.
    pub fn waits(self) -> Waits {
        Waits(ExponentialBackoff {
            current_interval: self.base,
            initial_interval: self.base,
            randomization_factor: JITTER,
            multiplier: 2.0,
            max_interval: self.max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The wait after `attempts` failures, for those who keep only the count.
    pub fn wait_after(self, attempts: u32) -> Duration {
        let mut waits = self.waits();
        // Past 32 doublings every wait is the longest one.
        for _ in 1..attempts.min(32) {
            waits.next_wait();
        }
        waits.next_wait()
    }
}

/// The waits of one series of attempts.
#[derive(Debug)]
pub struct Waits(ExponentialBackoff);

impl Waits {
    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }
}
