//! DynamoDB: the adapter of [`broker_actors::ports::SandboxStore`], on the service itself, on a server that speaks its
//! protocol (`DDB_ENDPOINT_URL`), or on an engine inside the process ([`embedded`]).

pub mod audit;
mod call;
mod changes;
pub mod client;
mod coordination;
mod cursor;
pub mod embedded;
mod errors;
pub mod item;
mod labs;
mod limit;
mod readability;
mod request_metrics;
pub mod stats_history;
mod store;
pub mod table;
mod tickets;
pub mod update;

pub use self::client::DynamoClient;
pub use self::store::DynamoStore;
pub use self::table::TableNames;
