use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The events of a run, one per line, with the virtual time of each. Two runs of one seed are compared by it, and it
/// explains a failure. It records nothing unless it is enabled.
#[derive(Clone, Debug)]
pub struct Trace {
    started: Instant,
    lines: Option<Arc<Mutex<String>>>,
}

impl Trace {
    /// A trace that starts now.
    pub fn new(is_enabled: bool) -> Self {
        Self { started: Instant::now(), lines: is_enabled.then(Arc::default) }
    }

    /// Adds a line.
    pub fn record(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let line = format!("{:>8} ms {}\n", self.started.elapsed().as_millis(), line());
            lines.lock().push_str(&line);
        }
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.lines.as_ref().map_or(String::new(), |lines| lines.lock().clone())
    }
}
