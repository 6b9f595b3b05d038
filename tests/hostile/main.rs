//! Hostile input: whatever comes over the wire, from tracks, strangers, the CSP or the table, nothing panics, memory stays
//! bounded, and good clients go on being served. How fast, `cargo bench --bench hostile` tells.

#![allow(unreachable_pub, reason = "the helpers are one crate with the tests")]

mod attacks;
mod connections;
#[path = "../api/helpers.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod helpers;
#[path = "../api/program.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod program;
