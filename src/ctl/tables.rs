//! Tables of the API's answers, for people. Times are RFC 3339 in UTC.

use comfy_table::{Table, presets};
use serde_json::Value;

const STATUSES: [&str; 8] =
    ["available", "warming", "allocated", "pending_deletion", "stale", "deletion_failed", "quarantined", "total"];

pub(super) fn stats(stats: &Value) -> String {
    let mut table = new(&["STATUS", "SANDBOXES"]);
    for status in STATUSES {
        table.add_row([status.to_owned(), text(&stats[status])]);
    }
    table.trim_fmt()
}

pub(super) fn sandboxes(answer: &Value) -> String {
    let mut table = new(&["ID", "NAME", "STATUS", "TRACK", "LAB", "ALLOCATED", "EXPIRES", "LAST ERROR"]);
    for sandbox in rows(&answer["sandboxes"]) {
        add_sandbox(&mut table, sandbox);
    }
    table.trim_fmt()
}

pub(super) fn sandbox(sandbox: &Value) -> String {
    let mut table = new(&["ID", "NAME", "STATUS", "TRACK", "LAB", "ALLOCATED", "EXPIRES", "LAST ERROR"]);
    add_sandbox(&mut table, sandbox);
    table.trim_fmt()
}

fn add_sandbox(table: &mut Table, sandbox: &Value) {
    let plain = ["sandbox_id", "name", "status", "allocated_to_track", "track_name"].map(|name| text(&sandbox[name]));
    let times = ["allocated_at", "expires_at"].map(|name| time(&sandbox[name]));
    table.add_row(plain.into_iter().chain(times).chain([text(&sandbox["last_error"])]));
}

pub(super) fn queue(answer: &Value) -> String {
    let mut table = new(&["POSITION", "TRACK", "KEY", "PREFIX", "SINCE", "SEEN"]);
    for ticket in rows(&answer["tickets"]) {
        let plain = ["position", "track_id", "idempotency_key", "name_prefix"].map(|name| text(&ticket[name]));
        table.add_row(plain.into_iter().chain(["enqueued_at", "seen_at"].map(|name| time(&ticket[name]))));
    }
    let summary = ["waiting", "absent", "eta_seconds"].map(|name| format!("{name} {}", text(&answer[name]))).join(", ");
    format!("{}\n{summary}", table.trim_fmt())
}

pub(super) fn actors(answer: &Value) -> String {
    let mut table = actor_table();
    for actor in rows(&answer["actors"]) {
        add_actor(&mut table, actor);
    }
    table.trim_fmt()
}

pub(super) fn actor(actor: &Value) -> String {
    let mut table = actor_table();
    add_actor(&mut table, actor);
    table.trim_fmt()
}

fn actor_table() -> Table {
    new(&["ACTOR", "STATUS", "DESIRED", "LEADER", "LAST RUN", "RESULT", "NEXT RUN", "REASON"])
}

fn add_actor(table: &mut Table, actor: &Value) {
    let last_run = &actor["last_run"];
    let result = match (&last_run["error"], &last_run["report"]) {
        (Value::String(error), _) => escaped(error),
        (_, report) => summary(report),
    };
    table.add_row([
        text(&actor["name"]),
        text(&actor["status"]),
        text(&actor["desired_state"]),
        text(&actor["leader"]),
        time(&last_run["started_at"]),
        result,
        time(&actor["next_run"]),
        text(&actor["control"]["reason"]),
    ]);
}

/// Any answer, with one line for each field.
pub(super) fn fields(answer: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in answer.as_object().into_iter().flatten() {
        let value = match value {
            Value::Object(_) | Value::Array(_) => value.to_string(),
            _ if name.ends_with("_at") || name.ends_with("_since") || name == "next_run" => time(value),
            _ => text(value),
        };
        table.add_row([name.clone(), value]);
    }
    table.trim_fmt()
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

fn rows(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => escaped(text),
        other => other.to_string(),
    }
}

/// The text with its control characters escaped: texts from outside must not control the terminal.
pub(super) fn escaped(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// The counts of a report that are not zero.
fn summary(report: &Value) -> String {
    let counts = report.as_object().into_iter().flatten();
    let counts: Vec<_> = counts
        .filter(|(_, value)| value.as_u64().is_some_and(|count| count > 0))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    match (report, counts.is_empty()) {
        (Value::Null, _) => "-".to_owned(),
        (_, true) => "nothing to do".to_owned(),
        _ => counts.join(", "),
    }
}

fn time(value: &Value) -> String {
    let seconds = value.as_i64().filter(|seconds| *seconds > 0);
    let timestamp = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| "-".to_owned(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_text_of_an_answer_controls_the_terminal() {
        let hostile = "a\u{1b}]0;title\u{7}\r\nb\u{9b}31m";
        let sandbox = json!({ "sandbox_id": "1", "name": hostile, "last_error": hostile, "status": "stale" });
        let actor = json!({ "name": "cleanup", "last_run": { "error": hostile }, "control": { "reason": hostile } });
        for shown in [super::sandbox(&sandbox), super::actor(&actor), fields(&sandbox)] {
            let shown = shown.replace('\n', "");
            assert!(!shown.contains(char::is_control) && shown.contains("\\u{1b}]0;title"), "{shown:?}");
        }
    }
}
