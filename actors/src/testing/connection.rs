use std::sync::Arc;

use parking_lot::Mutex;

use tokio::sync::watch;
use tokio::time::Instant;

/// One replica's way to the outside. Cutting it is the replica's crash, as far as the outside can tell: what it has
/// sent arrives, but it hears no answer and sends nothing any more. All that a replica remembers dies with it, because
/// nothing of it can get out.
#[derive(Clone, Debug)]
pub struct Connection {
    name: Arc<str>,
    is_cut: watch::Sender<bool>,
}

impl Connection {
    /// The way of the replica with this name, whole.
    pub fn of(name: &str) -> Self {
        Self { name: name.into(), is_cut: watch::Sender::new(false) }
    }

    /// The replica dies.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Whether the replica is dead.
    pub fn is_cut(&self) -> bool {
        *self.is_cut.borrow()
    }

    /// Returns when the replica dies.
    pub async fn closed(&self) {
        // The sender lives in `self`, so this fails never.
        let _ = self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await;
    }

    /// Returns at once, or never if the replica is dead.
    pub(super) async fn pass(&self) {
        if self.is_cut() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self::of("")
    }
}

/// What happened, line by line, with the virtual time of each: by it two runs of one seed are compared, and a failed
/// one is understood. It costs nothing unless it is kept.
#[derive(Clone, Debug)]
pub struct Trace {
    began: Instant,
    lines: Option<Arc<Mutex<String>>>,
}

impl Trace {
    /// Keeps the lines or lets them go, from now on.
    pub fn new(is_kept: bool) -> Self {
        Self { began: Instant::now(), lines: is_kept.then(Arc::default) }
    }

    /// Adds a line.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let line = format!("{:>8} ms {}\n", self.began.elapsed().as_millis(), line());
            lines.lock().push_str(&line);
        }
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.lines.as_ref().map_or(String::new(), |lines| lines.lock().clone())
    }
}
