//! The figures of the labs.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use broker_actors::ports::{LabStats, StoredLabs};
use broker_actors::queue::QueueView;
use serde::Serialize;
use utoipa::ToSchema;

use super::values::{EXAMPLE_NOW, Timestamp};

/// The labs that hold the most sandboxes, and those that wait for one
#[derive(Serialize, ToSchema)]
pub(crate) struct LabList {
    /// When the holdings were counted; null before the first count. The queue is as it is now
    counted_at: Option<Timestamp>,
    /// The 50 labs with the most sandboxes, the largest first, and those of which only students who wait are known
    labs: Vec<Lab>,
}

/// The figures of one lab
#[derive(Serialize, ToSchema)]
pub(crate) struct Lab {
    /// The lab's slug
    lab: String,
    /// Sandboxes that its students hold
    held: u64,
    /// Those of them that wait for their learner
    standby: u64,
    /// Its students who wait for a sandbox
    waiting: u64,
    /// The median time, in seconds, since those that are not on standby started; null if there are none
    median_seconds: Option<u64>,
}

impl Lab {
    fn new(stats: LabStats, waiting: u64) -> Self {
        let LabStats { lab, held, standby, median_seconds } = stats;
        Self { lab, held, standby, waiting, median_seconds }
    }
}

impl LabList {
    pub(crate) fn new(stored: StoredLabs, queue: &QueueView) -> Self {
        let mut waiting: BTreeMap<&str, u64> = BTreeMap::new();
        for lab in queue.open.iter().filter_map(|ticket| ticket.track_name.as_deref()) {
            *waiting.entry(lab).or_default() += 1;
        }
        let of_lab = |stats: LabStats| {
            let waiting = waiting.remove(&*stats.lab).unwrap_or_default();
            Lab::new(stats, waiting)
        };
        let mut labs: Vec<Lab> = stored.labs.into_iter().map(of_lab).collect();
        labs.extend(waiting.into_iter().map(|(lab, waiting)| {
            Lab::new(LabStats { lab: lab.to_owned(), held: 0, standby: 0, median_seconds: None }, waiting)
        }));
        labs.sort_by_key(|lab| Reverse((lab.held, lab.waiting)));
        Self { counted_at: stored.counted_at.map(Timestamp::from), labs }
    }

    pub(crate) fn example() -> Self {
        let lab = LabStats { lab: "first-steps".to_owned(), held: 40, standby: 12, median_seconds: Some(4500) };
        Self { counted_at: Some(EXAMPLE_NOW.into()), labs: vec![Lab::new(lab, 3)] }
    }
}
