//! The cloud service provider (CSP): a client for its two calls, and a simulator of them.

mod client;
mod listing;
pub mod niosxaas;
pub mod simulator;

pub use self::client::{CspConfigError, HttpCsp};
