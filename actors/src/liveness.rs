//! Which parts must stay alive. A panic inside an actor ends that actor and leaves the process running. The monitor
//! notices; the broker then fails readiness and ends the process, so that its supervisor starts a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Watches the required parts of one broker.
#[derive(Clone, Debug, Default)]
pub struct LivenessMonitor {
    failed: watch::Sender<Option<&'static str>>,
    is_stopping: Arc<AtomicBool>,
}

impl LivenessMonitor {
    /// A guard for the part `name` to hold. Dropping it before the broker stops reports the part as failed.
    pub fn guard(&self, name: &'static str) -> LivenessGuard {
        LivenessGuard { name, monitor: self.clone() }
    }

    /// From now on, parts may end without being reported.
    pub fn expect_end(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// The part that failed, if any.
    pub fn failed(&self) -> Option<&'static str> {
        *self.failed.borrow()
    }

    /// Waits for the first part to fail and returns its name.
    pub async fn first_failure(&self) -> &'static str {
        let mut failed = self.failed.subscribe();
        let name = failed.wait_for(Option::is_some).await.map(|name| *name);
        match name {
            Ok(Some(name)) => name,
            // The sender lives in `self`, so this is unreachable; waiting is the harmless answer.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Held by a required part for as long as it works.
#[derive(Debug)]
pub struct LivenessGuard {
    name: &'static str,
    monitor: LivenessMonitor,
}

impl Drop for LivenessGuard {
    fn drop(&mut self) {
        if self.monitor.is_stopping.load(Ordering::Acquire) {
            return;
        }
        tracing::error!(event = "part_failed", part = self.name, "a required part of the broker died");
        self.monitor.failed.send_replace(Some(self.name));
    }
}
