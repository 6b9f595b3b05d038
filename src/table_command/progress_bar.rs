//! Progress on standard error: a bar on a terminal, a line for each step elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::print_err;
use crate::dynamo::table::progress::Progress;

/// The time between two movements of a bar whose step reports nothing.
const TICK: Duration = Duration::from_millis(200);

/// The bar of the current step.
pub(super) struct Bar {
    /// `None` where standard error is no terminal.
    current: Option<Mutex<ProgressBar>>,
}

impl Bar {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { current: is_terminal.then(|| Mutex::new(ProgressBar::hidden())) }
    }

    /// Removes the bar from the terminal.
    pub(super) fn finish(&self) {
        if let Some(current) = &self.current {
            current.lock().finish_and_clear();
        }
    }
}

impl Drop for Bar {
    /// So that an error is not printed behind the bar.
    fn drop(&mut self) {
        self.finish();
    }
}

impl Progress for Bar {
    fn start(&self, step: &str, total: Option<u64>) {
        let Some(current) = &self.current else { return print_err(step) };
        self.finish();
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "{msg} [{bar:40}] {human_pos}/{human_len} {eta}"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {human_pos} {elapsed}"),
        };
        let bar = bar.with_message(step.to_owned());
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        bar.enable_steady_tick(TICK);
        *current.lock() = bar;
    }

    fn advance(&self, items: u64) {
        if let Some(current) = &self.current {
            current.lock().inc(items);
        }
    }
}
