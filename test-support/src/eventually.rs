use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The longest wait for a condition. On an idle machine every condition holds much earlier.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Calls `poll` until it returns a value.
///
/// # Panics
///
/// Panics with `condition` when the timeout expires.
pub async fn eventually<T>(condition: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {condition}");
        sleep(Duration::from_millis(20)).await;
    }
}
