//! The pool of available sandboxes: [`manager`] is the actor, `cache` its bookkeeping, `rendezvous` the order in which a
//! replica offers candidates, `refresh` the loop that reads them from the store.

mod cache;
pub mod manager;
pub(crate) mod refresh;
mod refresh_requests;
mod rendezvous;

#[cfg(any(test, feature = "testing"))]
pub(crate) use self::cache::{Listed, Scope};
pub use self::manager::{Candidate, Pool, PoolSnapshot, TakeError};
