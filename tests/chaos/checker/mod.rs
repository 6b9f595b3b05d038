//! Judges a run: evidence in, violations of I1 to I5 out. Pure, and it trusts nothing of the broker's own code: the
//! states, their order and what a claim must look like are written down here once more.

mod emptiness;
mod ending;
mod leases;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::{Call, Completion, Evidence};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant, by its number in the architecture's table.
    pub invariant: &'static str,
    pub what: String,
}

impl Violation {
    fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.what)
    }
}

/// All violations in the evidence.
pub fn violations(evidence: &Evidence) -> Vec<Violation> {
    let checks = [leases::check, table::check, emptiness::check, ending::check, unexpected_answers];
    checks.iter().flat_map(|check| check(evidence)).collect()
}

/// Whatever fails behind the broker, the client gets an answer that it can act on.
fn unexpected_answers(evidence: &Evidence) -> Vec<Violation> {
    let unheard = |call: &Call| match &call.completion {
        Completion::Unexpected(answer) => Some(Violation::new("API", format!("{answer} to {call:?}"))),
        _ => None,
    };
    evidence.history.iter().filter_map(unheard).collect()
}
