//! The columns of each table.

use serde_json::Value;

use super::table::{Cell, Column, View, duration, text};
use Cell::{Age, Computed, HeldFor, HeldUntil, Remaining, Text, Time};

const fn column(title: &'static str, cell: Cell) -> Column {
    Column { title, cell, is_wide: false }
}

const fn wide(title: &'static str, cell: Cell) -> Column {
    Column { title, cell, is_wide: true }
}

const fn list(list: &'static str, name: &'static str, columns: &'static [Column]) -> View {
    View { list, name, columns, is_fields: false }
}

const fn fields(name: &'static str) -> View {
    View { list: "", name, columns: FIELD_COLUMNS, is_fields: true }
}

const FIELD_COLUMNS: &[Column] = &[column("FIELD", Text("field")), column("VALUE", Text("value"))];

const SANDBOX_COLUMNS: &[Column] = &[
    column("ID", Text("sandbox_id")),
    column("NAME", Text("name")),
    column("STATUS", Text("status")),
    column("TRACK", Text("allocated_to_track")),
    wide("LAB", Text("track_name")),
    column("HELD", HeldFor("allocated_at")),
    column("ENDS IN", HeldUntil("expires_at")),
    wide("ALLOCATED", Time("allocated_at")),
    wide("EXPIRES", Time("expires_at")),
    wide("KEY", Text("idempotency_key")),
    wide("RETRIES", Text("deletion_retry_count")),
    column("ERROR", Text("last_error")),
    wide("UPDATED", Time("updated_at")),
    wide("EXTERNAL ID", Text("external_id")),
];

const ACTOR_COLUMNS: &[Column] = &[
    column("ACTOR", Text("name")),
    column("STATUS", Text("status")),
    wide("DESIRED", Text("desired_state")),
    wide("LEADER", Text("leader")),
    column("LAST RUN", Age("last_run.started_at")),
    column("RESULT", Computed(result)),
    column("NEXT", Remaining("next_run")),
    column("PAUSED BECAUSE", Computed(reason)),
    wide("BY", Text("control.by")),
];

const AUDIT_COLUMNS: &[Column] = &[
    column("AGE", Age("at")),
    wide("AT", Time("at")),
    column("BY", Text("by")),
    column("ACTION", Text("action")),
    column("TARGET", Text("target")),
    column("OUTCOME", Text("outcome")),
    column("REASON", Text("reason")),
    wide("PARAMETERS", Text("parameters")),
    wide("REPLICA", Text("replica")),
    wide("REQUEST", Text("request_id")),
];

const QUEUE_COLUMNS: &[Column] = &[
    column("POSITION", Text("position")),
    column("TRACK", Text("track_id")),
    wide("KEY", Text("idempotency_key")),
    column("PREFIX", Text("name_prefix")),
    wide("LAB", Text("track_name")),
    column("WAITS", Age("enqueued_at")),
    column("SEEN", Age("seen_at")),
    wide("EXPIRES", Time("expires_at")),
];

const LAB_COLUMNS: &[Column] = &[
    column("LAB", Text("lab")),
    column("HELD", Text("held")),
    column("STANDBY", Text("standby")),
    column("WAITING", Text("waiting")),
    column("MEDIAN TIME", Computed(median)),
];

const EVENT_COLUMNS: &[Column] = &[
    column("TIME", Time("at")),
    column("ACTION", Text("action")),
    column("OUTCOME", Text("outcome")),
    column("ACTOR", Text("actor")),
    column("TRACK", Text("track_id")),
    column("SANDBOX", Text("sandbox_id")),
    column("BY", Text("by")),
    column("DETAIL", Text("detail")),
];

const CHANGE_COLUMNS: &[Column] =
    &[column("AGE", Age("at")), column("AT", Time("at")), column("STATUS", Text("to")), column("BY", Text("by"))];

pub(super) const STATS: View = fields("total");
pub(super) const PREFLIGHT: View = fields("would");
pub(super) const FIELDS: View = fields("status");
pub(super) const SANDBOX_FIELDS: View = fields("sandbox_id");
pub(super) const ACTOR_FIELDS: View = fields("name");
pub(super) const SANDBOXES: View = list("sandboxes", "sandbox_id", SANDBOX_COLUMNS);
pub(super) const SANDBOX: View = list("", "sandbox_id", SANDBOX_COLUMNS);
pub(super) const HISTORY: View = list("history", "to", CHANGE_COLUMNS);
pub(super) const ACTORS: View = list("actors", "name", ACTOR_COLUMNS);
pub(super) const ACTOR: View = list("", "name", ACTOR_COLUMNS);
pub(super) const AUDIT: View = list("entries", "request_id", AUDIT_COLUMNS);
pub(super) const QUEUE: View = list("tickets", "track_id", QUEUE_COLUMNS);
pub(super) const LABS: View = list("labs", "lab", LAB_COLUMNS);
pub(super) const EVENTS: View = list("events", "action", EVENT_COLUMNS);

/// The outcome of an actor's last run: its error, or the counts of its report that are not zero.
fn result(actor: &Value) -> String {
    let last_run = &actor["last_run"];
    if let Value::String(error) = &last_run["error"] {
        return error.clone();
    }
    let counts = last_run["report"].as_object().into_iter().flatten();
    let counts: Vec<_> = counts
        .filter(|(_, value)| value.as_u64().is_some_and(|count| count > 0))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    match (&last_run["report"], counts.is_empty()) {
        (Value::Null, _) => "-".to_owned(),
        (_, true) => "nothing to do".to_owned(),
        _ => counts.join(", "),
    }
}

/// How long the lab's students have worked.
fn median(lab: &Value) -> String {
    lab["median_seconds"].as_u64().map_or_else(|| "-".to_owned(), duration)
}

/// Why an actor is paused.
fn reason(actor: &Value) -> String {
    if actor["desired_state"] == "paused" { text(&actor["control"]["reason"]) } else { "-".to_owned() }
}
