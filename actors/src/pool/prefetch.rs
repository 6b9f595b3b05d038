//! Candidates that lie ready, so that most takers need not wait for the actor's turn.
//!
//! Only the actor lays them out and recalls them; whoever takes one takes it for good. To the cache they are in flight
//! from the moment they lie here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::fits;
use crate::sandbox::Sandbox;

/// So many lie ready. Of claims that begin at the same moment, those beyond this wait for the actor.
const PREFETCHED: usize = 32;

#[derive(Clone, Debug, Default)]
pub(super) struct Prefetched(Arc<Mutex<VecDeque<Arc<Sandbox>>>>);

impl Prefetched {
    /// Hands out the first that fits.
    pub(super) fn take(&self, prefix: Option<&str>) -> Option<Arc<Sandbox>> {
        let mut ready = self.ready();
        let index = ready.iter().position(|sandbox| fits(sandbox, prefix))?;
        ready.remove(index)
    }

    pub(super) fn count(&self) -> usize {
        self.ready().len()
    }

    /// Lays out as many as are missing, while there are any.
    pub(super) fn fill(&self, next: impl FnMut() -> Option<Arc<Sandbox>>) {
        let missing = PREFETCHED - self.count();
        // Takers must not wait while they are looked for.
        let found: Vec<_> = std::iter::from_fn(next).take(missing).collect();
        self.ready().extend(found);
    }

    /// Takes all back that nobody has taken.
    pub(super) fn recall(&self) -> VecDeque<Arc<Sandbox>> {
        std::mem::take(&mut *self.ready())
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Arc<Sandbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
