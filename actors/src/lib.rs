//! The broker's mind: what a sandbox is, how it is claimed, and the actors that keep the pool. It knows no HTTP, no
//! AWS and no environment variable; the outside comes in through [`ports`].
//!
//! One allocation goes through these files in this order:
//!
//! 1. [`allocation`]: [`allocation::Allocator::allocate`] joins duplicates of a request that is being served, then
//!    tries one candidate after another.
//! 2. [`pool`]: the pool manager hands out a candidate, or lets the request wait while one may yet come.
//! 3. [`sandbox`]: [`sandbox::transition`] decides what the claim changes.
//! 4. [`ports`]: [`ports::SandboxStore::claim`] writes claim and sandbox in one conditional transaction.
//! 5. [`reaper`]: a timer is set for the end of the holding.
//!
//! Behind that work the background jobs ([`job`] drives them): [`sync`] brings sandboxes in from the CSP, through the
//! [`breaker`]; [`reaper`] ends what expired; [`cleanup`] deletes at the CSP; [`stale`] buries what vanished.
//! [`inventory`] is what operators see of it, and the census counts it for them. [`system`] starts and stops it all.

pub mod allocation;
pub mod breaker;
mod census;
pub mod cleanup;
mod concurrency;
mod controls;
pub mod inventory;
pub mod job;
pub mod pool;
pub mod ports;
pub mod reaper;
mod refresh;
pub mod retry;
pub mod sandbox;
pub mod stale;
pub mod supervision;
pub mod sync;
pub mod system;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// The target of the spans that traces are made of; log lines leave it out.
pub const SPANS: &str = "broker_spans";
