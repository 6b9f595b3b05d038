//! The broker's shell: adapters and wiring around [`broker_actors`].

pub mod app;
pub mod audit;
pub mod config;
pub mod csp;
pub mod ctl;
mod day;
pub mod dynamo;
pub mod healthcheck;
pub mod http;
pub mod metrics;
pub mod reference;
pub mod stats_history;
pub mod table_command;
pub mod telemetry;
pub mod tls;
pub mod token_command;
mod token_reload;
