//! The core of the broker: sandboxes, how they are claimed, and the actors that keep the pool. It uses no HTTP, no AWS
//! and no environment variables; everything outside is reached through [`ports`].
//!
//! One allocation goes through these files in this order:
//!
//! 1. [`allocation`]: [`allocation::Allocator::allocate`] joins concurrent duplicates of a request, then tries one
//!    candidate after another.
//! 2. [`pool`]: the pool manager hands out a candidate, or lets the request wait while one may still come.
//!    A request that may wait and finds none goes through the [`queue`].
//! 3. [`sandbox`]: [`sandbox::transition()`] decides what the claim changes.
//! 4. [`ports`]: [`ports::SandboxStore::claim`] writes claim and sandbox in one conditional transaction.
//! 5. [`jobs::expiry_timers`]: a timer is set for the end of the holding.
//!
//! The background [`jobs`] do the rest: csp-sync adds sandboxes from the CSP, through the [`breaker`]; the expiry-reaper
//! ends holdings; cleanup deletes at the CSP; the stale-collector removes what vanished there. [`admin`] and [`stats`]
//! are what operators see. [`start`] wires everything together; [`broker`] is the result.

pub mod actor;
pub mod admin;
pub mod allocation;
pub mod breaker;
pub mod broker;
mod cluster;
pub mod error;
pub mod guarded_csp;
pub mod jobs;
pub mod liveness;
pub mod pool;
pub mod ports;
pub mod queue;
pub mod quota;
pub mod retry;
pub mod sandbox;
pub mod start;
pub mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod update;

/// The target of the spans that traces are made of. Log lines leave them out.
pub const SPANS: &str = "broker_spans";
