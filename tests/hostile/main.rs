//! Hostile input from tracks, strangers, the CSP and the table: nothing panics, memory stays bounded, and good clients are
//! served. `cargo bench --bench hostile` measures their latency.
//!
//! Properties are checked on random cases; a failure prints the smallest failing case.
//! `PROPTEST_CASES=2000 cargo test --test hostile requests` checks more cases, `PROPTEST_RNG_SEED=<seed>` repeats them.

mod connections;
mod csp_bodies;
mod disk;
mod guessing;
mod listings;
mod requests;
mod surface;
mod table_items;

use proptest::prelude::ProptestConfig;

/// Cases of each property, unless the environment sets another number. They take seconds.
const CASES: u32 = 64;

/// The configuration of the properties. A case that fails becomes a test, not a line in a file of seeds.
fn properties() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { CASES };
    ProptestConfig { cases, failure_persistence: None, ..default }
}
