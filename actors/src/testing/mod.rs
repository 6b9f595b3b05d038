//! Stand-ins for the outside, for deterministic tests: a model of the store with faults to inject, a CSP in memory, a
//! clock that follows tokio's, and the contract that every store has to keep.

mod connection;
pub mod contract;
mod fake_csp;
mod faults;
mod harness;
mod lone_pool;
mod model_store;
mod paused_clock;
mod tables;
mod watch;

pub use self::connection::{Connection, Trace};
pub use self::fake_csp::FakeCsp;
pub use self::faults::{Fault, FaultPlan};
pub use self::harness::TestBroker;
pub use self::lone_pool::LonePool;
pub use self::model_store::ModelStore;
pub use self::paused_clock::PausedClock;
pub use self::tables::{Flaw, Tables};
pub use self::watch::Watch;
