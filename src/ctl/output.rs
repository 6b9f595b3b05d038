//! Where and in which form results are printed.

use std::io::{IsTerminal as _, Write as _};

use broker_actors::ports::Clock as _;
use clap::ValueEnum;
use console::Term;
use serde_json::Value;

use super::error::CtlError;
use super::escape::escape;
use super::table::{Column, Table, View};
use crate::app::SystemClock;

/// A form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people, with ages
    Table,
    /// All columns, with times
    Wide,
    /// The API's JSON
    Json,
    /// Ids or names alone, one on a line
    Name,
    /// All columns, comma-separated
    Csv,
}

/// The form of the output of one command.
pub(super) struct Output {
    format: Format,
    headers: bool,
    /// The width and the style of a terminal; `None` for a file or a pipe, which get whole cells without colours.
    width: Option<usize>,
}

impl Output {
    pub(super) fn new(format: Format, headers: bool) -> Self {
        let width = std::io::stdout().is_terminal().then(|| Term::stdout().size().1.into());
        Self { format, headers, width }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints an answer of the API.
    pub(super) fn print(&self, answer: &Value, view: &View) -> Result<(), CtlError> {
        let table = Table { view, now: SystemClock.now_millis().seconds().0, width: self.width };
        let columns =
            |wide: bool| view.columns.iter().filter(move |column| wide || !column.is_wide).collect::<Vec<&Column>>();
        let rows = view.rows(answer);
        let text = match self.format {
            Format::Json => pretty(answer),
            Format::Name => view.names(answer).iter().map(|name| escape(name)).collect::<Vec<_>>().join("\n"),
            Format::Csv => {
                // Times stand in columns of their own.
                let columns: Vec<_> = columns(true).into_iter().filter(|column| !column.cell.is_of_holding()).collect();
                table.csv(&columns, &rows, self.headers)
            }
            Format::Table => table.aligned(&columns(false), &rows, self.headers),
            Format::Wide => table.aligned(&columns(true), &rows, self.headers),
        };
        if text.is_empty() { Ok(()) } else { print_line(&text) }
    }

    /// Clears a terminal's screen for the next repetition.
    pub(super) fn start_screen(&self) -> Result<(), CtlError> {
        // Clear the screen and go to its top left corner.
        if self.width.is_some() && !self.is_json() { write_out("\u{1b}[2J\u{1b}[H") } else { Ok(()) }
    }
}

pub(super) fn print_line(line: &str) -> Result<(), CtlError> {
    write_out(&format!("{line}\n"))
}

fn write_out(text: &str) -> Result<(), CtlError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| CtlError::OutputClosed)
}

pub(super) fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
