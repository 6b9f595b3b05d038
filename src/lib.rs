//! The broker's shell: adapters and wiring around [`broker_actors`].

pub mod app;
pub mod config;
pub mod csp;
pub mod ctl;
pub mod dynamo;
pub mod healthcheck;
pub mod http;
pub mod metrics;
pub mod reference;
pub mod table_command;
pub mod telemetry;
pub mod tls;
pub mod token_command;
mod token_reload;
