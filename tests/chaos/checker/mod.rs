//! Checks a run: evidence in, violations of I1 to I5 and I8 to I11 out. It is pure and independent of the broker's code: it has its own
//! states, its own transitions and its own relation between sandboxes and claims.

mod emptiness;
mod ending;
mod fairness;
mod leases;
mod lives;
mod secrets;
mod table;
#[cfg(test)]
mod tests;
mod violation;

use self::violation::Violation;
use super::history::{Busiest, Call, Completion, Evidence};

/// The most requests to DynamoDB of all replicas that may name one key in one second.
const MAX_REQUESTS_A_SECOND: u64 = 100;

/// All violations in the evidence of a run that has settled.
pub(crate) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = violations_so_far(evidence);
    violations.extend(ending::check(evidence));
    violations
}

/// All violations in the evidence of a run in which sandboxes are still held.
pub(crate) fn violations_so_far(evidence: &Evidence) -> Vec<Violation> {
    let checks = [
        leases::check,
        table::check,
        emptiness::check,
        secrets::check,
        fairness::check,
        lives::check,
        unexpected_answers,
        loops,
    ];
    checks.iter().flat_map(|check| check(evidence)).collect()
}

/// I8: no request is repeated without end.
fn loops(evidence: &Evidence) -> Vec<Violation> {
    let Busiest { key, requests } = &evidence.busiest;
    let is_loop = *requests > MAX_REQUESTS_A_SECOND;
    is_loop.then(|| Violation::new("I8", format!("{requests} requests in a second: {key}"))).into_iter().collect()
}

/// The API: under any fault, clients get an answer of the API or none.
fn unexpected_answers(evidence: &Evidence) -> Vec<Violation> {
    let violation_of = |call: &Call| match &call.completion {
        Completion::Unexpected(answer) => Some(Violation::new("API", format!("{answer} to {call:?}"))),
        _ => None,
    };
    evidence.history.iter().filter_map(violation_of).collect()
}
