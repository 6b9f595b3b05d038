//! The counts of the last hours.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::values::{EXAMPLE_NOW, Timestamp};
use crate::stats_history;

/// The counts of the last hours, over all replicas
#[derive(Serialize, ToSchema)]
pub(crate) struct StatsHistory {
    /// The time from one point to the next. A time without a point is a gap
    step_seconds: u64,
    points: Vec<Point>,
}

/// The counts of one step
#[derive(Serialize, ToSchema)]
pub(crate) struct Point {
    /// When the step started
    at: Timestamp,
    /// The last number of sandboxes in each state, and their `total`; empty if the sandboxes were not counted
    counts: BTreeMap<String, u64>,
    /// Allocations that were answered with a sandbox
    allocations: u64,
    /// Answers to tracks with a status of 5xx
    errors: u64,
}

impl From<stats_history::History> for StatsHistory {
    fn from(history: stats_history::History) -> Self {
        let point = |minute: stats_history::Minute| {
            let stats_history::Minute { at, counts, allocations, errors } = minute;
            Point { at: at.into(), counts, allocations, errors }
        };
        Self { step_seconds: history.step.as_secs(), points: history.points.into_iter().map(point).collect() }
    }
}

impl StatsHistory {
    pub(crate) fn example() -> Self {
        let counts = [("total", 400), ("available", 260), ("allocated", 140)];
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let point = Point { at: EXAMPLE_NOW.into(), counts, allocations: 12, errors: 0 };
        Self { step_seconds: 60, points: vec![point] }
    }
}
