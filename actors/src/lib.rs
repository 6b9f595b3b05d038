//! The broker's mind.

pub mod allocation;
pub mod job;
pub mod ports;
pub mod sandbox;
pub mod system;
