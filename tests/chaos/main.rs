//! Several brokers with different clocks on one DynamoDB server, with faults in the network, in DynamoDB, in the CSP and in
//! the broker processes at once. Clients record their calls, a journal in DynamoDB records every commit, and a checker
//! finds violations of the invariants.
//!
//! `BROKER_CHAOS_SEED` repeats the faults and requests of a run, `BROKER_CHAOS_SECONDS` sets its length. Timing is that of
//! the machine, so a repeated run is similar but not identical.

#![allow(clippy::print_stdout, reason = "the seed and the figures are part of the test's output")]

mod checker;
mod client;
mod csp;
mod endpoint;
mod history;
mod journal;
mod load;
mod nemesis;
mod proxy;
mod replica;
mod requests;
mod run;
mod service;

use std::time::Duration;

use tokio::sync::Mutex;

/// Tests here need both cores, so they take turns.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The length of the fault phase, unless `BROKER_CHAOS_SECONDS` is set.
const SECONDS: u64 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_invariants_hold_under_all_faults() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let seed = number_from("BROKER_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number_from("BROKER_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("BROKER_CHAOS_SEED={seed} BROKER_CHAOS_SECONDS={seconds}");
    // It holds the brokers' logs and is deleted only if the test passes.
    let directory = tempfile::tempdir().unwrap().keep();
    let (evidence, figures) = run::run(seed, Duration::from_secs(seconds), &directory).await;
    println!("{figures}");
    let violations = checker::violations(&evidence);
    if !violations.is_empty() {
        std::fs::write(directory.join("evidence.txt"), format!("{evidence:#?}")).unwrap();
        let list: Vec<_> = violations.iter().map(ToString::to_string).collect();
        panic!("BROKER_CHAOS_SEED={seed}; logs and evidence are in {}:\n{}", directory.display(), list.join("\n"));
    }
    assert_eq!(figures.crashes(), 0, "a broker ended without a fault");
    assert!(figures.completions("allocate: ok") > 0 && figures.completions("release: ok") > 0, "no call succeeded");
    std::fs::remove_dir_all(directory).unwrap();
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
