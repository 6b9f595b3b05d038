//! Who must live. A panic inside an actor kills the actor and leaves the process running; the broker notices, fails
//! readiness and ends the process, so that whatever runs it starts a whole one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Watches over all vital parts of one broker.
#[derive(Clone, Debug)]
pub struct Supervisor {
    dead: watch::Sender<Option<&'static str>>,
    stopping: Arc<AtomicBool>,
}

impl Supervisor {
    /// Watches over nothing yet.
    pub fn new() -> Self {
        Self { dead: watch::Sender::new(None), stopping: Arc::new(AtomicBool::new(false)) }
    }

    /// A sign of life to be kept by the part `name`; dropping it before the broker stops means that the part died.
    pub fn vital(&self, name: &'static str) -> Vital {
        Vital { name, supervisor: self.clone() }
    }

    /// From now on parts may end.
    pub fn expect_end(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// The part that died, if one did.
    pub fn dead(&self) -> Option<&'static str> {
        *self.dead.borrow()
    }

    /// Returns the name of the first part that dies.
    pub async fn death(&self) -> &'static str {
        let mut dead = self.dead.subscribe();
        loop {
            if let Some(name) = *dead.borrow_and_update() {
                return name;
            }
            if dead.changed().await.is_err() {
                // The sender lives in `self`, so this is out of reach; waiting is the harmless answer.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

/// The sign of life of one part.
#[derive(Debug)]
pub struct Vital {
    name: &'static str,
    supervisor: Supervisor,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if self.supervisor.stopping.load(Ordering::Acquire) {
            return;
        }
        tracing::error!(part = self.name, "a vital part of the broker died");
        self.supervisor.dead.send_replace(Some(self.name));
    }
}
