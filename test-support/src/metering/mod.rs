//! A metering server: DynamoDB with the partitions, throttles, conflicts and lag that AWS documents.
//!
//! It holds a dynoxide database, so that it sees each item before and after a write, and answers as a real table would
//! under load. Its rules and their sources are those of the DynamoDB developer guide; where the guide is silent, the
//! doc comment of the code in question says what is assumed.

mod bucket;
pub mod capacity;
mod commit;
mod counters;
mod database;
mod engine;
mod error;
mod expression;
mod faults;
mod meter;
mod placement;
mod read;
mod replica;
mod schema;
mod server;
mod settings;
mod state;
mod table;
mod table_operations;
mod token;
mod transaction;
mod units;
mod write;

pub use commit::Committed;
pub use counters::{Counters, OperationCounters, ResourceCounters};
pub use engine::{MeteringEngine, Reply};
pub use faults::{Fault, FaultRule, Occurrence};
pub use placement::{KeyGroup, Placement, partition_of};
pub use server::MeteringServer;
pub use settings::{Durations, Lag, Limits, MeteringSettings, WarmThroughput};
