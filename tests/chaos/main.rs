//! Several brokers on one DynamoDB server, and everything that can fail failing at once: the way to DynamoDB, the CSP,
//! the brokers themselves, whose clocks differ. Clients write down what they are completion, a witness before DynamoDB
//! writes down what is committed, and a checker finds every promise of the architecture's table that was broken.
//!
//! `BROKER_CHAOS_SEED` replays the faults and the requests of a run, `BROKER_CHAOS_SECONDS` makes it longer. Times are
//! the machine's, so a replay is alike but not the same.

#![allow(unreachable_pub, reason = "the modules are one crate with the tests")]
#![allow(clippy::print_stdout, reason = "the seed and the figures are for whoever reads the test's output")]

mod checker;
mod client;
mod csp;
mod history;
mod journal;
mod nemesis;
mod proxy;
mod replica;
mod run;

use std::time::Duration;

/// How long things go wrong, if `BROKER_CHAOS_SECONDS` says nothing else.
const SECONDS: u64 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_promises_hold_whatever_fails() {
    let seed = number_from("BROKER_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number_from("BROKER_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("BROKER_CHAOS_SEED={seed} BROKER_CHAOS_SECONDS={seconds}");
    // Kept, with the brokers' logs, if anything goes wrong.
    let directory = tempfile::tempdir().unwrap().keep();
    let (evidence, figures) = run::run(seed, Duration::from_secs(seconds), &directory).await;
    println!("{figures}");
    let violations = checker::violations(&evidence);
    if !violations.is_empty() {
        std::fs::write(directory.join("evidence.txt"), format!("{evidence:#?}")).unwrap();
        let list: Vec<_> = violations.iter().map(ToString::to_string).collect();
        panic!("BROKER_CHAOS_SEED={seed}; logs and evidence are in {}:\n{}", directory.display(), list.join("\n"));
    }
    assert_eq!(figures.deaths(), 0, "a broker died by itself");
    assert!(figures.completion("allocate: ok") > 0 && figures.completion("release: ok") > 0, "nothing was proven");
    std::fs::remove_dir_all(directory).unwrap();
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
