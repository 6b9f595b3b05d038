//! The rules of the metering server, each by itself. The clock is paused but where a test says otherwise.

#![allow(clippy::print_stdout, reason = "the tables of the capacity are results")]

mod back_pressure;
mod capacity;
mod conflicts;
mod faults;
mod knee;
mod lag;
mod limits;
mod over_http;
mod reads;
mod self_check;
mod support;
mod tables;
mod throttles;
mod write_units;
