//! The background jobs and their driver, under a paused clock.

mod cleanup;
mod driver;
mod expiry;
mod fixtures;
mod leases;
mod one_life;
mod sync;
