//! Implementations of the ports for deterministic tests: a model of the store with injected faults, a CSP in memory, a clock
//! that follows tokio's; and the contract of every store.

mod connection;
pub mod contract;
mod fake_csp;
mod faults;
mod harness;
mod lone_pool;
mod model_coordination;
mod model_store;
mod model_tickets;
mod observer;
mod paused_clock;
mod tables;
mod trace;

pub use self::connection::Connection;
pub use self::fake_csp::{DeletionFault, FakeCsp};
pub use self::faults::{Fault, FaultPlan};
pub use self::harness::TestBroker;
pub use self::lone_pool::LonePool;
pub use self::model_store::ModelStore;
pub use self::observer::Observer;
pub use self::paused_clock::PausedClock;
pub use self::tables::{Flaw, Tables};
pub use self::trace::Trace;
