//! What the integration tests, benches and examples of the broker share: starting processes, calling the API, attacking
//! a connection. Cargo builds it once for all of them, so no test binary has helpers that it does not use.
#![allow(missing_docs, reason = "the names say it; only the core has a public API")]

mod api_client;
pub mod attacks;
mod broker;
mod csp_sim;
mod dynamo_server;
mod dynamo_store;
mod eventually;
mod http_client;
pub mod metering;
mod process;
mod test_app;

pub use self::api_client::{Answer, ApiClient, assert_error, read_answer, send};
pub use self::broker::Broker;
pub use self::csp_sim::CspSim;
pub use self::dynamo_server::DynamoServer;
pub use self::dynamo_store::{dynamo_store, dynamo_store_named};
pub use self::eventually::eventually;
pub use self::http_client::http_client;
pub use self::process::{
    ADMIN_TOKEN, Process, TRACK_TOKEN, executable, listening_address, output_of, program, program_path,
};
pub use self::test_app::{TestApp, parse_settings, test_settings};
