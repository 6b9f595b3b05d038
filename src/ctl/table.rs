//! Tables of the API's answers, for people and for spreadsheets.

use console::{Style, measure_text_width, truncate_str};
use serde_json::{Value, json};

use super::escape::escape;

/// The least width that a shortened cell keeps.
const MIN_WIDTH: usize = 8;

const GAP: &str = "  ";

/// How an answer becomes rows and columns.
pub(super) struct View {
    /// The field that holds the rows; empty if the answer is the only row.
    pub(super) list: &'static str,
    /// The field that names a row.
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    /// Whether each field of the row becomes a line.
    pub(super) is_fields: bool,
}

pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) cell: Cell,
    /// Whether only the wide forms have it.
    pub(super) is_wide: bool,
}

/// What a column shows.
#[derive(Clone, Copy)]
pub(super) enum Cell {
    /// A field, as it is. A path has dots.
    Text(&'static str),
    /// The time since a moment.
    Age(&'static str),
    /// The time to a moment, or since it with a minus.
    Remaining(&'static str),
    /// The time since a moment, of a sandbox that is held.
    HeldFor(&'static str),
    /// The time to a moment, of a sandbox that is held.
    HeldUntil(&'static str),
    /// A moment.
    Time(&'static str),
    /// Something computed.
    Computed(fn(&Value) -> String),
}

impl Cell {
    /// Whether it tells how long a sandbox is held.
    pub(super) fn is_of_holding(self) -> bool {
        matches!(self, Self::HeldFor(_) | Self::HeldUntil(_))
    }
}

impl View {
    /// The rows of an answer.
    pub(super) fn rows(&self, answer: &Value) -> Vec<Value> {
        if self.is_fields {
            return answer
                .as_object()
                .into_iter()
                .flatten()
                .flat_map(|(name, value)| field_rows(name, value))
                .collect();
        }
        if self.list.is_empty() {
            return vec![answer.clone()];
        }
        answer[self.list].as_array().cloned().unwrap_or_default()
    }

    /// The names of the rows.
    pub(super) fn names(&self, answer: &Value) -> Vec<String> {
        if self.is_fields {
            return vec![text(&answer[self.name])];
        }
        self.rows(answer).iter().map(|row| text(&row[self.name])).collect()
    }
}

pub(super) struct Table<'a> {
    pub(super) view: &'a View,
    /// Unix time, for ages.
    pub(super) now: u64,
    pub(super) width: Option<usize>,
}

impl Table<'_> {
    /// Aligned columns. On a terminal they fit its width.
    pub(super) fn aligned(&self, columns: &[&Column], rows: &[Value], headers: bool) -> String {
        let headers = headers && !self.view.is_fields;
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| columns.iter().map(|column| escape(&self.cell(column.cell, row))).collect())
            .collect();
        let mut widths: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let title = if headers { column.title.len() } else { 0 };
                cells.iter().map(|row| measure_text_width(&row[index])).max().unwrap_or_default().max(title)
            })
            .collect();
        if let Some(width) = self.width {
            shrink(&mut widths, width);
        }
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if headers {
            let titles = columns.iter().map(|column| column.title.to_owned()).collect::<Vec<_>>();
            lines.push(self.style("").bold().apply_to(line(&titles, &widths)).to_string());
        }
        for (row, cells) in rows.iter().zip(&cells) {
            let status = row["status"].as_str().or_else(|| row["outcome"].as_str()).unwrap_or_default();
            lines.push(self.style(status).apply_to(line(cells, &widths)).to_string());
        }
        lines.join("\n")
    }

    /// Comma-separated values, with times instead of ages.
    pub(super) fn csv(&self, columns: &[&Column], rows: &[Value], headers: bool) -> String {
        let titles = columns.iter().map(|column| column.title.to_lowercase().replace(' ', "_"));
        let mut lines: Vec<String> = Vec::with_capacity(rows.len() + 1);
        if headers {
            lines.push(titles.collect::<Vec<_>>().join(","));
        }
        for row in rows {
            let cells = columns.iter().map(|column| {
                let cell = match column.cell {
                    Cell::Age(path) | Cell::Remaining(path) | Cell::Time(path) => time(at(row, path)),
                    cell => self.cell(cell, row),
                };
                csv_cell(if cell == "-" { "" } else { &cell })
            });
            lines.push(cells.collect::<Vec<_>>().join(","));
        }
        lines.join("\n")
    }

    fn cell(&self, cell: Cell, row: &Value) -> String {
        let seconds = |path| at(row, path).as_u64().filter(|seconds| *seconds > 0);
        match cell {
            Cell::HeldFor(_) | Cell::HeldUntil(_) if row["status"] != "allocated" => dash(),
            Cell::HeldFor(path) => self.cell(Cell::Age(path), row),
            Cell::HeldUntil(path) => self.cell(Cell::Remaining(path), row),
            Cell::Text(path) => text(at(row, path)),
            Cell::Time(path) => time(at(row, path)),
            Cell::Age(path) => seconds(path).map_or_else(dash, |at| duration(self.now.saturating_sub(at))),
            Cell::Remaining(path) => seconds(path).map_or_else(dash, |at| {
                if at >= self.now { duration(at - self.now) } else { format!("-{}", duration(self.now - at)) }
            }),
            Cell::Computed(compute) => compute(row),
        }
    }

    /// The style of a row with this status or outcome; plain where no terminal shows it.
    fn style(&self, status: &str) -> Style {
        let style = Style::new().force_styling(self.width.is_some() && console::colors_enabled());
        match status {
            "deletion_failed" | "failed" | "error" => style.red(),
            "stale" | "paused" => style.yellow(),
            "pending_deletion" => style.dim(),
            _ => style,
        }
    }
}

/// Shortens the widest columns until the line fits.
fn shrink(widths: &mut [usize], width: usize) {
    loop {
        let line = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        let Some(widest) = widths.iter_mut().max() else { return };
        if line <= width || *widest <= MIN_WIDTH {
            return;
        }
        *widest -= 1;
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| {
        let cell = truncate_str(cell, *width, "…");
        let padding = width.saturating_sub(measure_text_width(&cell));
        format!("{cell}{}", " ".repeat(padding))
    });
    cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
}

/// A cell of a CSV file. A text that a spreadsheet would take for a formula gets an apostrophe.
fn csv_cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn at<'a>(row: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(row, |value, name| &value[name])
}

fn dash() -> String {
    "-".to_owned()
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => dash(),
        Value::String(text) if text.is_empty() => dash(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The rows of a field: one, or one for each object of a list.
fn field_rows(name: &str, value: &Value) -> Vec<Value> {
    let row = |name: &str, text: String| json!({ "field": name, "value": text });
    match value.as_array() {
        Some(objects) if objects.iter().all(Value::is_object) => {
            let text = |object: &Value| {
                let fields = object.as_object().into_iter().flatten();
                fields.map(|(name, value)| field_text(name, value)).collect::<Vec<_>>().join(" ")
            };
            objects
                .iter()
                .enumerate()
                .map(|(index, object)| row(if index == 0 { name } else { "" }, text(object)))
                .collect()
        }
        _ => vec![row(name, field_text(name, value))],
    }
}

/// One field of an answer.
fn field_text(name: &str, value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => value.to_string(),
        _ if name == "at"
            || name.ends_with("_at")
            || name.ends_with("_since")
            || ["ttl", "next_run", "last_synced"].contains(&name) =>
        {
            time(value)
        }
        _ => text(value),
    }
}

/// A moment as RFC 3339 in UTC.
pub(super) fn time(value: &Value) -> String {
    let seconds = value.as_i64().filter(|seconds| *seconds > 0);
    let timestamp = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(dash, |timestamp| timestamp.to_string())
}

/// A duration in its two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..600 => format!("{minutes}m{}s", seconds % 60),
        600..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let texts = [0, 59, 61, 3599, 3660, 86_399, 90_000].map(duration);
        assert_eq!(texts, ["0s", "59s", "1m1s", "59m", "1h1m", "23h59m", "1d1h"]);
    }

    #[test]
    fn lines_fit_the_terminal() {
        let mut widths = [10, 40, 60];
        shrink(&mut widths, 80);
        assert_eq!(widths.iter().sum::<usize>() + 2 * GAP.len(), 80);
        assert_eq!(widths[0], 10, "a short column stays whole");
    }

    #[test]
    fn cells_of_csv_are_quoted_and_no_formulas() {
        assert_eq!(csv_cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_cell("=1+1"), "'=1+1");
    }
}
