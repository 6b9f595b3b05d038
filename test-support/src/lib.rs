//! What several test binaries and benches share. Only development builds depend on this crate.

pub mod metering;
