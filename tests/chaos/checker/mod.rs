//! Checks a run: evidence in, violations of I1 to I5 out. It is pure and independent of the broker's code: it has its own
//! states, its own transitions and its own relation between sandboxes and claims.

mod emptiness;
mod ending;
mod leases;
mod table;
#[cfg(test)]
mod tests;
mod violation;

use self::violation::Violation;
use super::history::{Call, Completion, Evidence};

/// All violations in the evidence.
pub(crate) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let checks = [leases::check, table::check, emptiness::check, ending::check, unexpected_answers];
    checks.iter().flat_map(|check| check(evidence)).collect()
}

/// The API: under any fault, clients get an answer of the API or none.
fn unexpected_answers(evidence: &Evidence) -> Vec<Violation> {
    let violation_of = |call: &Call| match &call.completion {
        Completion::Unexpected(answer) => Some(Violation::new("API", format!("{answer} to {call:?}"))),
        _ => None,
    };
    evidence.history.iter().filter_map(violation_of).collect()
}
