//! How long a peer has not taken its answers, and when that is too long.

use std::time::Duration;

use tokio::time::Instant;

/// How long a client may take nothing of its answers.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes per second at which a client must take its answers: what it takes pays back the time in which it took nothing.
/// Otherwise a byte now and then would keep an answer in memory for ever.
const LEAST_RATE: u32 = 1024;

/// The times in which the peer took nothing.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Since when it takes nothing.
    since: Option<Instant>,
    /// The time in which it took nothing before, as far as it is not paid back.
    owed: Duration,
}

impl Stall {
    /// Whether the peer takes nothing now.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// The peer takes nothing.
    pub(super) fn start(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The peer has taken this. Returns whether it took nothing before.
    pub(super) fn end(&mut self, bytes: usize) -> bool {
        let since = self.since.take();
        self.owed += since.map(|since| since.elapsed()).unwrap_or_default();
        self.owed = self.owed.saturating_sub(Duration::from_secs(bytes as u64) / LEAST_RATE);
        since.is_some()
    }

    /// When it is too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + TIMEOUT.saturating_sub(self.owed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// How long a peer lasts that takes so many bytes every four seconds, up to an hour.
    async fn lasts(bytes: usize) -> Duration {
        let (started, mut stall) = (Instant::now(), Stall::default());
        while started.elapsed() < Duration::from_secs(3600) {
            stall.start();
            advance(Duration::from_secs(4)).await;
            if stall.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            assert!(stall.end(bytes) && !stall.is_on());
        }
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_little_is_cut_off_although_it_never_stops() {
        assert_eq!(lasts(0).await, Duration::from_secs(12), "the first look after ten seconds");
        assert_eq!(lasts(1).await, Duration::from_secs(12));
        assert!((13..60).contains(&lasts(2048).await.as_secs()));
        assert_eq!(lasts(4096).await, Duration::from_secs(3600), "at the least rate it lasts");
    }
}
