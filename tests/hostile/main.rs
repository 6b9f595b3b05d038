//! Hostile input: whatever comes over the wire, from tracks, strangers, the CSP or the table, nothing panics, memory stays
//! bounded, and good clients go on being served. How fast, `cargo bench --bench hostile` tells.
//!
//! The properties are checked on random cases; a failure prints the smallest one that fails.
//! `PROPTEST_CASES=2000 cargo test --test hostile requests` checks more of them, `PROPTEST_RNG_SEED=<seed>` the same again.

#![allow(unreachable_pub, reason = "the helpers are one crate with the tests")]

mod attacks;
mod connections;
mod csp_bodies;
mod guessing;
#[path = "../api/helpers.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod helpers;
#[path = "../api/program.rs"]
#[allow(dead_code, unused_imports, reason = "other tests use more of it")]
mod program;
mod requests;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;
mod table_items;

use proptest::prelude::ProptestConfig;

/// Cases of each property, if the environment does not say otherwise; together they take seconds.
const CASES: u32 = 64;

/// How properties are checked. What failed once becomes a test of its own, not a file of seeds.
fn properties() -> ProptestConfig {
    let given = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { CASES };
    ProptestConfig { cases, failure_persistence: None, ..given }
}
