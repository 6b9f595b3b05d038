use std::sync::Arc;

use tokio::sync::watch;

/// The connection of a replica to store and CSP. Cutting it simulates a crash: requests that were sent still take effect,
/// but the replica gets no response and sends nothing more, so all that it remembers is lost.
#[derive(Clone, Debug)]
pub struct Connection {
    name: Arc<str>,
    is_cut: watch::Sender<bool>,
}

impl Connection {
    /// A working connection of the replica with this name.
    pub fn of(name: &str) -> Self {
        Self { name: name.into(), is_cut: watch::Sender::new(false) }
    }

    /// Cuts the connection for good.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Whether the connection is cut.
    pub fn is_cut(&self) -> bool {
        *self.is_cut.borrow()
    }

    /// Waits until the connection is cut.
    pub async fn closed(&self) {
        // This cannot fail: `self` owns a sender.
        let _ = self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await;
    }

    /// Returns at once, or never if the connection is cut.
    pub(super) async fn pass(&self) {
        if self.is_cut() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self::of("")
    }
}
