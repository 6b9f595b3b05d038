//! The pace of deletions: the gap between the starts of any two, which grows while the CSP fails.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The gap after the first failure, if it was shorter.
const FIRST_GAP: Duration = Duration::from_secs(1);

/// The longest gap that failures cause.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// The time without a failure after which the gap is halved.
const CALM: Duration = Duration::from_secs(60);

/// The gap as a pure state machine. It has no clock: callers pass the time.
#[derive(Debug)]
pub struct Gap {
    /// The gap while the CSP works.
    base: Duration,
    current: Duration,
    last_start: Option<Instant>,
    /// The last failure, or the last time that the gap was halved.
    calm_since: Option<Instant>,
}

impl Gap {
    /// A gap of `base`.
    pub fn new(base: Duration) -> Self {
        Self { base, current: base, last_start: None, calm_since: None }
    }

    /// The gap at `now`.
    pub fn at(&mut self, now: Instant) -> Duration {
        while let Some(since) = self.calm_since
            && self.current > self.base
            && since + CALM <= now
        {
            self.current /= 2;
            self.calm_since = Some(since + CALM);
            if self.current < FIRST_GAP.max(self.base) {
                self.current = self.base;
            }
        }
        self.current
    }

    /// The earliest start of the next deletion.
    pub fn next_start(&mut self, now: Instant) -> Instant {
        let gap = self.at(now);
        self.last_start.map_or(now, |last| (last + gap).max(now))
    }

    /// A deletion starts.
    pub fn start(&mut self, now: Instant) {
        self.last_start = Some(now);
    }

    /// A deletion failed because the CSP does not work.
    pub fn fail(&mut self, now: Instant) {
        let doubled = self.at(now) * 2;
        self.current = doubled.max(FIRST_GAP).min(LONGEST_GAP.max(self.base));
        self.calm_since = Some(now);
    }
}

/// The one queue of deletions.
#[derive(Debug)]
pub(crate) struct Pace {
    gap: Mutex<Gap>,
    /// Held by the deletion that is the next to start. The others wait for it in their order.
    turn: tokio::sync::Mutex<()>,
}

impl Pace {
    pub(crate) fn new(base: Duration) -> Self {
        Self { gap: Mutex::new(Gap::new(base)), turn: tokio::sync::Mutex::new(()) }
    }

    /// Waits until a deletion may start.
    pub(crate) async fn wait(&self) {
        let _turn = self.turn.lock().await;
        loop {
            let now = Instant::now();
            let next_start = self.gap.lock().next_start(now);
            if next_start <= now {
                return self.gap.lock().start(now);
            }
            // The gap may have grown meanwhile.
            sleep_until(next_start).await;
        }
    }

    /// A deletion failed because the CSP does not work.
    pub(crate) fn fail(&self) {
        self.gap.lock().fail(Instant::now());
    }
}
