//! Waiting times between attempts: exponential, jittered, bounded. The only place that knows the `backoff` crate,
//! which its author no longer maintains (see deny.toml).

use std::sync::{Arc, Mutex, PoisonError};
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

/// The chance in one broker's waits. One seed gives the same waits again, so that a simulation replays exactly.
#[derive(Clone, Debug)]
pub struct Jitter(Arc<Mutex<fastrand::Rng>>);

impl Jitter {
    /// The chance that follows from this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A generator of its own for one series of waits.
    fn fork(&self) -> fastrand::Rng {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}

impl RetryPolicy {
    /// An endless sequence of waits, each about twice as long as the one before it.
    pub fn waits(self, jitter: &Jitter) -> Waits {
        let doubling = ExponentialBackoff {
            current_interval: self.base,
            initial_interval: self.base,
            // The crate's own jitter cannot be seeded.
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: self.max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Waits { doubling, random: jitter.fork() }
    }

    /// The wait after `attempts` failures, for those who keep only the count.
    pub fn wait_after(self, attempts: u32, jitter: &Jitter) -> Duration {
        let mut waits = self.waits(jitter);
        // Past 32 doublings every wait is the longest one.
        for _ in 1..attempts.min(32) {
            waits.next_wait();
        }
        waits.next_wait()
    }
}

/// The waits of one series of attempts.
#[derive(Debug)]
pub struct Waits {
    doubling: ExponentialBackoff,
    random: fastrand::Rng,
}

impl Waits {
    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.doubling.next_backoff().unwrap_or(self.doubling.max_interval);
        wait.mul_f64(1.0 + JITTER * (2.0 * self.random.f64() - 1.0))
    }
}
