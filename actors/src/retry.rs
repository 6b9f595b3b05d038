//! Waits between attempts: exponential, jittered, bounded. The only module that uses the `backoff` crate
//! (docs/decisions/0002-backoff.md).

use std::sync::Arc;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use parking_lot::Mutex;

/// Bounds of the waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait, before jitter.
    pub base: Duration,
    /// The longest wait, before jitter.
    pub max: Duration,
}

/// The largest share of a wait that jitter adds or subtracts, so that callers that collided once do not collide again.
const JITTER: f64 = 0.5;

/// The randomness in one broker's waits. A seed reproduces the same waits, so that a simulation can be replayed.
#[derive(Clone, Debug)]
pub struct Jitter(Arc<Mutex<fastrand::Rng>>);

impl Jitter {
    /// The randomness that follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// An independent generator for one series of waits.
    fn fork(&self) -> fastrand::Rng {
        self.0.lock().fork()
    }
}

impl RetryPolicy {
    /// An endless series of waits, each about twice as long as the one before it.
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

    /// The wait after `attempts` failures, for callers that store only the count.
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
    /// The wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.doubling.next_backoff().unwrap_or(self.doubling.max_interval);
        wait.mul_f64(1.0 + JITTER * (2.0 * self.random.f64() - 1.0))
    }
}
