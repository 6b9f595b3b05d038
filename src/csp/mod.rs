//! The cloud provider: the client of its two calls, and a simulator that answers them.

mod client;
pub mod simulator;

pub use self::client::{CspConfigError, HttpCsp};
