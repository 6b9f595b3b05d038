//! How many new claims a caller may make: a token bucket for each named credential.
//!
//! Whether a request is a new claim or a replay is known only when the claim is answered. So a claim takes from the
//! bucket before it is sent, and what turns out not to be a new claim gives it back.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// New claims allowed per minute. All of them may come at once.
#[derive(Debug)]
pub struct Quota {
    per_minute: NonZeroU32,
    bucket: Mutex<Bucket>,
}

/// All new claims of this minute are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} new sandboxes a minute")]
pub struct QuotaExceeded {
    /// New claims allowed per minute.
    pub limit: u32,
    /// The time until the next one is allowed.
    pub retry_in: Duration,
}

#[derive(Debug)]
struct Bucket {
    /// The claims that are left, with the fraction that has come back since.
    left: f64,
    updated_at: Instant,
}

impl Quota {
    /// A full bucket.
    pub fn per_minute(per_minute: NonZeroU32) -> Self {
        let bucket = Bucket { left: per_minute.get().into(), updated_at: Instant::now() };
        Self { per_minute, bucket: Mutex::new(bucket) }
    }

    /// New claims allowed per minute.
    pub fn limit(&self) -> u32 {
        self.per_minute.get()
    }

    /// Takes one claim from the bucket.
    pub(crate) fn take(self: &Arc<Self>) -> Result<QuotaPermit, QuotaExceeded> {
        let limit = f64::from(self.limit());
        let mut bucket = self.bucket.lock();
        let now = Instant::now();
        let came_back = (now - bucket.updated_at).as_secs_f64() * limit / MINUTE.as_secs_f64();
        *bucket = Bucket { left: (bucket.left + came_back).min(limit), updated_at: now };
        if bucket.left < 1.0 {
            let retry_in = MINUTE.mul_f64((1.0 - bucket.left) / limit);
            return Err(QuotaExceeded { limit: self.limit(), retry_in });
        }
        bucket.left -= 1.0;
        Ok(QuotaPermit(Some(Arc::clone(self))))
    }
}

/// One claim taken from a bucket. It goes back unless it is spent.
#[derive(Debug)]
pub(crate) struct QuotaPermit(Option<Arc<Quota>>);

impl QuotaPermit {
    /// Keeps the claim out of the bucket.
    pub(crate) fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        if let Some(quota) = &self.0 {
            quota.bucket.lock().left += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_spent_comes_back_over_a_minute_and_what_is_not_comes_back_at_once() {
        let quota = Arc::new(Quota::per_minute(NonZeroU32::new(6).unwrap()));
        for _ in 0..20 {
            drop(quota.take().expect("nothing was spent"));
        }
        for _ in 0..6 {
            quota.take().expect("six are left").spend();
        }
        assert_eq!(quota.take().unwrap_err().retry_in, Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(11)).await;
        quota.take().expect("one has come back").spend();
        assert!(quota.take().unwrap_err().retry_in < Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let permits: Vec<_> = std::iter::from_fn(|| quota.take().ok()).collect();
        assert_eq!(permits.len(), 6, "never more than the limit");
    }
}
