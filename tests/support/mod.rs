//! What several test targets share.

pub mod processes;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take to do what a test waits for. Far longer than anything needs on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
