use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::time::Instant;

use crate::ports::Clock;
use crate::sandbox::{Timestamp, UnixMillis};

/// A time of day that passes as tokio's clock does, so that a test that pauses the one drives the other.
#[derive(Debug)]
pub struct PausedClock {
    began: Instant,
    skew_seconds: AtomicI64,
    panics_next: AtomicBool,
}

impl PausedClock {
    /// The time of day at the beginning; any would do.
    pub const BEGIN: Timestamp = Timestamp(1_800_000_000);
    /// The same in milliseconds.
    pub const BEGIN_MILLIS: UnixMillis = UnixMillis(Self::BEGIN.0 * 1000);

    /// Starts now.
    #[allow(clippy::new_without_default, reason = "it reads the clock, which a default should not")]
    pub fn new() -> Self {
        Self { began: Instant::now(), skew_seconds: AtomicI64::new(0), panics_next: AtomicBool::new(false) }
    }

    /// Whoever asks next for the time panics.
    pub fn panic_next(&self) {
        self.panics_next.store(true, Ordering::Relaxed);
    }

    /// From now on goes wrong by this much.
    pub fn set_skew(&self, seconds: i64) {
        self.skew_seconds.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for PausedClock {
    fn now_millis(&self) -> UnixMillis {
        assert!(!self.panics_next.swap(false, Ordering::Relaxed), "the clock panics as the test asked");
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).expect("a test is short");
        let skew = self.skew_seconds.load(Ordering::Relaxed).saturating_mul(1000);
        UnixMillis((Self::BEGIN_MILLIS.0 + elapsed).saturating_add_signed(skew))
    }
}
