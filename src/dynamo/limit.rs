//! How many requests are in flight to the store. The limit halves when the store throttles and grows by one a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The most requests in flight.
const MAX: usize = 128;

/// The fewest that throttling leaves.
const MIN: usize = 4;

/// Throttles within this time of the last halving belong to the same moment.
const SAME_MOMENT: Duration = Duration::from_millis(100);

/// The time in which the limit grows by one.
const GROWTH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct RequestLimit {
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Permits that are in use and must not come back.
    excess: usize,
    halved_at: Option<Instant>,
    grown_at: Instant,
}

/// The right to send one request.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    limit: &'a RequestLimit,
    permit: Option<SemaphorePermit<'a>>,
}

impl RequestLimit {
    pub(super) fn new() -> Self {
        let state = State { limit: MAX, excess: 0, halved_at: None, grown_at: Instant::now() };
        Self { permits: Semaphore::new(MAX), state: Mutex::new(state) }
    }

    pub(super) async fn acquire(&self) -> Permit<'_> {
        self.grow();
        // Fails only for a closed semaphore, and this one is never closed.
        Permit { limit: self, permit: self.permits.acquire().await.ok() }
    }

    /// The store throttled a request.
    pub(super) fn halve(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.halved_at.is_some_and(|at| now.duration_since(at) < SAME_MOMENT) {
            return;
        }
        let limit = (state.limit / 2).max(MIN);
        let removed = state.limit - limit;
        state.excess += removed - self.permits.forget_permits(removed);
        (state.limit, state.halved_at, state.grown_at) = (limit, Some(now), now);
        metrics::gauge!("broker_dynamodb_requests_limit").set(limit as f64);
    }

    fn grow(&self) {
        let mut state = self.state.lock();
        if state.limit == MAX {
            return;
        }
        let steps = state.grown_at.elapsed().as_secs() / GROWTH.as_secs();
        let added = usize::try_from(steps).unwrap_or(MAX).min(MAX - state.limit);
        if added == 0 {
            return;
        }
        state.limit += added;
        state.grown_at = Instant::now();
        let kept = added.min(state.excess);
        state.excess -= kept;
        self.permits.add_permits(added - kept);
        metrics::gauge!("broker_dynamodb_requests_limit").set(state.limit as f64);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state.lock();
        if state.excess > 0
            && let Some(permit) = self.permit.take()
        {
            state.excess -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(limit: &RequestLimit) -> usize {
        limit.permits.available_permits()
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_the_limit_once_a_moment() {
        let limit = RequestLimit::new();
        limit.halve();
        limit.halve();
        assert_eq!(available(&limit), MAX / 2);
        tokio::time::advance(SAME_MOMENT).await;
        limit.halve();
        assert_eq!(available(&limit), MAX / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_by_one_a_second_up_to_the_most() {
        let limit = RequestLimit::new();
        limit.halve();
        tokio::time::advance(GROWTH * 3).await;
        drop(limit.acquire().await);
        assert_eq!(available(&limit), MAX / 2 + 3);
        tokio::time::advance(GROWTH * 1000).await;
        drop(limit.acquire().await);
        assert_eq!(available(&limit), MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn permits_in_use_do_not_come_back_beyond_the_limit() {
        let limit = RequestLimit::new();
        let mut in_use = Vec::new();
        for _ in 0..MAX {
            in_use.push(limit.acquire().await);
        }
        limit.halve();
        drop(in_use);
        assert_eq!(available(&limit), MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn some_requests_always_go_out() {
        let limit = RequestLimit::new();
        for _ in 0..20 {
            limit.halve();
            tokio::time::advance(SAME_MOMENT).await;
        }
        assert_eq!(available(&limit), MIN);
    }
}
