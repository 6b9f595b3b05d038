use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::time::Instant;

use crate::ports::Clock;
use crate::sandbox::Timestamp;

/// A clock that follows tokio's, so that a test with paused time controls both.
#[derive(Debug)]
pub struct PausedClock {
    began: Instant,
    skew_seconds: AtomicI64,
    panics_next: AtomicBool,
}

impl PausedClock {
    /// The time of day at the start.
    pub const BEGIN: Timestamp = Timestamp(1_800_000_000);

    /// A clock that starts now.
    #[allow(clippy::new_without_default, reason = "it reads the clock, which a default should not")]
    pub fn new() -> Self {
        Self { began: Instant::now(), skew_seconds: AtomicI64::new(0), panics_next: AtomicBool::new(false) }
    }

    /// The next reading panics.
    pub fn panic_next(&self) {
        self.panics_next.store(true, Ordering::Relaxed);
    }

    /// Sets by how much the clock is ahead; negative if it is behind.
    pub fn set_skew(&self, seconds: i64) {
        self.skew_seconds.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        assert!(!self.panics_next.swap(false, Ordering::Relaxed), "the clock panics as the test asked");
        let right = Self::BEGIN.0 + self.began.elapsed().as_secs();
        Timestamp(right.saturating_add_signed(self.skew_seconds.load(Ordering::Relaxed)))
    }
}
