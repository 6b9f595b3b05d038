//! The rules, sped up: every waiting time and every range becomes seconds.

use std::collections::BTreeSet;

/// How long a condition must last.
const WAIT: &str = "1s";

/// How long a condition must last that may last a day.
const LONG_WAIT: &str = "20s";

/// The range that rates and predictions look back over.
const RANGE: &str = "20s";

/// How far an offset looks back.
const OFFSET: &str = "5s";

/// The names of all alerts.
pub(crate) fn alerts(rules: &str) -> BTreeSet<String> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// The rules with short waits and ranges.
pub(crate) fn sped_up(rules: &str) -> String {
    let lines = rules.lines().map(|line| {
        if let Some((indent, wait)) = line.split_once("for: ").filter(|(indent, _)| indent.trim().is_empty()) {
            return format!("{indent}for: {}", if wait == "1d" { LONG_WAIT } else { WAIT });
        }
        let line = with_ranges(line);
        match line.split_once("offset ") {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|character: char| character.is_ascii_alphanumeric());
                format!("{before}offset {OFFSET}{rest}")
            }
            None => line,
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    text.replace("groups:\n  - name: sandbox-broker", "groups:\n  - name: sandbox-broker\n    interval: 500ms")
}

/// The line with its ranges, such as `[5m]`, shortened. A matcher such as `[45]` is no range.
fn with_ranges(line: &str) -> String {
    let mut parts = line.split('[');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((range, rest)) if range.ends_with(['s', 'm', 'h', 'd']) => {
                text += &format!("[{RANGE}]{rest}");
            }
            _ => text += &format!("[{part}"),
        }
    }
    text
}
