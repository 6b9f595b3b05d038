//! The store adapter on the metering server: what DynamoDB answers that the engines do not, and what the broker reads and
//! writes. Tokio's clock is paused, so nothing here waits.

mod clocks;
mod outcomes;
mod reads_at_rest;
mod refusals;
mod requests;
mod table;
mod throttles;
mod unreadable;
