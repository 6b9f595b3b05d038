//! What to do about items that cannot be read. A listing leaves them out: one of them must not hide the others. Where most
//! are of that kind, the table is not one of this version, and the broker is not ready.

use std::time::Duration;

use broker_actors::sandbox::Sandbox;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::item::{Item, read_sandbox};

/// The time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// After this time a count weighs half, so that a table that was repaired is soon judged by what is in it now.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Counts the items of listings that can and cannot be read.
#[derive(Debug, Default)]
pub(super) struct Readability(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Of listings of a whole status. What became available a moment ago is too little to judge by.
    readable: usize,
    unreadable: usize,
    halved_at: Option<Instant>,
    /// Unreadable items since the last log line.
    unlogged: usize,
    logged_at: Option<Instant>,
}

impl Readability {
    /// The sandboxes of these items. `is_whole` tells whether they are a part of the listing of a whole status.
    pub(super) fn read(&self, items: &[Item], is_whole: bool) -> Vec<Sandbox> {
        let mut sandboxes = Vec::with_capacity(items.len());
        let mut last_error = None;
        for item in items {
            match read_sandbox(item) {
                Ok(sandbox) => sandboxes.push(sandbox),
                Err(error) => last_error = Some(error),
            }
        }
        let unreadable = items.len() - sandboxes.len();
        let mut counts = self.0.lock();
        if is_whole && !items.is_empty() {
            counts.add(sandboxes.len(), unreadable, Instant::now());
        }
        if let Some(error) = last_error {
            metrics::counter!("broker_unreadable_items_total").increment(unreadable as u64);
            if let Some(items) = counts.take_unlogged(unreadable, Instant::now()) {
                let message = "items were left out of listings; `sandbox-broker table check` names them";
                tracing::error!(event = "unreadable_items", items, last = %error, "{message}");
            }
        }
        sandboxes
    }

    /// Why the broker cannot work with this table.
    pub(super) fn problem(&self) -> Option<String> {
        let Counts { readable, unreadable, .. } = *self.0.lock();
        let listed = readable + unreadable;
        (unreadable > readable).then(|| format!("{unreadable} of the last {listed} listed items cannot be read"))
    }
}

impl Counts {
    fn add(&mut self, readable: usize, unreadable: usize, now: Instant) {
        if self.halved_at.is_none_or(|at| now.duration_since(at) >= HALF_LIFE) {
            self.halved_at = Some(now);
            self.readable /= 2;
            self.unreadable /= 2;
        }
        self.readable = self.readable.saturating_add(readable);
        self.unreadable = self.unreadable.saturating_add(unreadable);
    }

    /// Counts unreadable items. Returns how many to log, if it is time for a line.
    fn take_unlogged(&mut self, unreadable: usize, now: Instant) -> Option<usize> {
        self.unlogged = self.unlogged.saturating_add(unreadable);
        if self.logged_at.is_some_and(|at| now.duration_since(at) < LOG_INTERVAL) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unreadable_items_are_logged_once_a_minute() {
        let mut counts = Counts::default();
        assert_eq!(counts.take_unlogged(2, Instant::now()), Some(2));
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(15)).await;
            assert_eq!(counts.take_unlogged(5, Instant::now()), None);
        }
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(counts.take_unlogged(1, Instant::now()), Some(16));
    }

    #[tokio::test(start_paused = true)]
    async fn a_repaired_table_is_judged_by_what_is_in_it_now() {
        let readability = Readability::default();
        readability.0.lock().add(10, 90, Instant::now());
        assert!(readability.problem().is_some());
        tokio::time::advance(HALF_LIFE).await;
        readability.0.lock().add(100, 0, Instant::now());
        assert_eq!(readability.problem(), None);
    }
}
