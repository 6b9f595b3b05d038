//! How far long work on a table is.

/// Receives the progress of long work.
pub trait Progress: Send + Sync {
    /// A step starts. `total` is its size in items, if it is known.
    fn start(&self, step: &str, total: Option<u64>);

    /// This many more items of the step are done.
    fn advance(&self, items: u64);
}

/// For work that no one watches.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn start(&self, _: &str, _: Option<u64>) {}

    fn advance(&self, _: u64) {}
}
