//! What has come into the pool lately, and therefore what those who wait may expect.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time over which supply is measured.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The most looks that are kept.
const MAX_LOOKS: usize = 1024;

/// The supply counter of the table over time, as this replica saw it.
#[derive(Debug)]
pub struct Supply {
    /// Since when this replica looks. What came before is unknown, so that it counts as a supply.
    started: Instant,
    last_change: Option<Instant>,
    last: Option<u64>,
    /// When sandboxes came, and how many.
    arrivals: VecDeque<(Instant, u64)>,
}

impl Supply {
    pub(crate) fn new(now: Instant) -> Self {
        Self { started: now, last_change: None, last: None, arrivals: VecDeque::new() }
    }

    /// Takes over the counter. Returns whether sandboxes came since the last look.
    pub(crate) fn look(&mut self, counter: u64, now: Instant) -> bool {
        let before = self.last.replace(counter);
        let came = before.map_or(0, |before| counter.saturating_sub(before));
        if came > 0 {
            self.last_change = Some(now);
            self.arrivals.push_back((now, came));
        }
        while self.arrivals.len() > MAX_LOOKS
            || self.arrivals.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.arrivals.pop_front();
        }
        came > 0
    }

    /// When the supply of the last 15 minutes reaches this position; `None` rather than a guess.
    pub(crate) fn eta(&self, position: usize, now: Instant) -> Option<Duration> {
        let came: u64 = self.arrivals.iter().map(|(_, came)| came).sum();
        let measured = now.duration_since(self.started).min(WINDOW);
        (came > 0).then(|| measured.mul_f64(position as f64 / came as f64))
    }

    /// Whether nothing has come for this long.
    pub(crate) fn is_dry(&self, limit: Duration, now: Instant) -> bool {
        now.duration_since(self.last_change.unwrap_or(self.started)) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eta_follows_the_supply_of_the_last_quarter_of_an_hour() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut supply = Supply::new(start);
        assert!(!supply.look(100, at(0)), "the first look is no arrival");
        assert_eq!(supply.eta(1, at(60)), None);
        assert!(supply.look(110, at(100)));
        assert_eq!(supply.eta(5, at(100)), Some(Duration::from_secs(50)));
        assert_eq!(supply.eta(10, at(900)), Some(Duration::from_secs(900)));
        assert!(!supply.look(110, at(1100)));
        assert_eq!(supply.eta(1, at(1100)), None, "it is too long ago");
    }

    #[test]
    fn a_pool_is_dry_when_nothing_came_for_the_limit() {
        let start = Instant::now();
        let (mut supply, limit) = (Supply::new(start), Duration::from_secs(900));
        assert!(!supply.is_dry(limit, start + Duration::from_secs(899)), "what came before the start is unknown");
        supply.look(0, start);
        supply.look(1, start + Duration::from_secs(600));
        assert!(!supply.is_dry(limit, start + Duration::from_secs(1499)));
        assert!(supply.is_dry(limit, start + Duration::from_secs(1500)));
    }
}
