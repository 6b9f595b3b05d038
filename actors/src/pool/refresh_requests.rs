//! The refreshes of the pool that are wanted: the pool manager and its callers add, the refresh loop takes.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cache::Scope;

/// The refreshes that are wanted. Requests made before one starts share it.
#[derive(Debug, Default)]
pub(super) struct RefreshRequests {
    wanted: Mutex<Wanted>,
    notify: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// The largest scope that is wanted.
    pub(super) scope: Option<Scope>,
    /// Whether a request waits for it.
    pub(super) is_urgent: bool,
}

impl RefreshRequests {
    pub(super) fn add(&self, scope: Scope, is_urgent: bool) {
        let mut wanted = self.wanted.lock();
        wanted.scope = wanted.scope.max(Some(scope));
        wanted.is_urgent |= is_urgent;
        drop(wanted);
        self.notify.notify_one();
    }

    pub(super) fn peek(&self) -> Wanted {
        *self.wanted.lock()
    }

    pub(super) fn take(&self) -> Option<Scope> {
        std::mem::take(&mut *self.wanted.lock()).scope
    }

    /// Waits for the next request.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }
}
