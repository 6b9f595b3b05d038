use std::fmt;

/// A violation of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The number of the invariant in docs/ARCHITECTURE.md.
    pub(crate) invariant: &'static str,
    description: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, description: impl Into<String>) -> Self {
        Self { invariant, description: description.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.description)
    }
}
