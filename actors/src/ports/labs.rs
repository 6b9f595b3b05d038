//! The figures of the labs: how many sandboxes each of them holds, and for how long.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sandbox::{Sandbox, Timestamp};

/// The most labs with figures of their own.
const MAX_LABS: usize = 50;

/// What the figures of a lab are made of: one holding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldingSummary {
    /// The lab's slug.
    pub lab: Option<String>,
    /// When its time started; when it was allocated, for a standby.
    pub since: Timestamp,
    /// Whether it waits for its learner.
    pub standby: bool,
}

impl HoldingSummary {
    /// What is known of an allocated sandbox.
    pub fn of(sandbox: &Sandbox) -> Self {
        Self {
            lab: sandbox.track_name.clone(),
            since: sandbox.lab.activated_at.unwrap_or(sandbox.allocated_at),
            standby: sandbox.lab.standby,
        }
    }
}

/// The figures of one lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabStats {
    /// The lab's slug.
    pub lab: String,
    /// Sandboxes that its students hold.
    pub held: u64,
    /// Those of them that wait for their learner.
    pub standby: u64,
    /// The median age, in seconds, of the others; `None` if there are no others.
    pub median_seconds: Option<u64>,
}

/// The last figures in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredLabs {
    /// When they were counted; `None` before the first count.
    pub counted_at: Option<Timestamp>,
    /// The labs with the most sandboxes, the largest first.
    pub labs: Vec<LabStats>,
}

/// The figures of the labs that hold the most.
pub(super) fn labs_of(holdings: Vec<HoldingSummary>, now: Timestamp) -> Vec<LabStats> {
    let mut by_lab: BTreeMap<String, (u64, Vec<Duration>)> = BTreeMap::new();
    for HoldingSummary { lab, since, standby } in holdings {
        let Some(lab) = lab else { continue };
        let (on_standby, ages) = by_lab.entry(lab).or_default();
        if standby {
            *on_standby += 1;
        } else {
            ages.push(now.since(since));
        }
    }
    let figures = by_lab.into_iter().map(|(lab, (standby, mut ages))| {
        ages.sort_unstable();
        let median_seconds = ages.get(ages.len() / 2).map(Duration::as_secs);
        LabStats { lab, held: standby + ages.len() as u64, standby, median_seconds }
    });
    let mut labs: Vec<_> = figures.collect();
    labs.sort_by_key(|lab| Reverse(lab.held));
    labs.truncate(MAX_LABS);
    labs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(lab: &str, since: u64, standby: bool) -> HoldingSummary {
        HoldingSummary { lab: Some(lab.to_owned()), since: Timestamp(since), standby }
    }

    #[test]
    fn standby_counts_as_held_and_has_no_age() {
        let holdings = vec![
            holding("dns", 900, false),
            holding("zero-trust", 100, true),
            holding("dns", 400, false),
            HoldingSummary { lab: None, since: Timestamp(1), standby: false },
            holding("dns", 10, true),
            holding("dns", 990, false),
        ];
        let dns = LabStats { lab: "dns".to_owned(), held: 4, standby: 1, median_seconds: Some(100) };
        let zero_trust = LabStats { lab: "zero-trust".to_owned(), held: 1, standby: 1, median_seconds: None };
        assert_eq!(labs_of(holdings, Timestamp(1000)), [dns, zero_trust]);
    }

    #[test]
    fn only_the_largest_labs_have_figures() {
        let holdings = (0..60).flat_map(|lab| (0..=lab).map(move |_| holding(&format!("lab-{lab:02}"), 0, false)));
        let labs = labs_of(holdings.collect(), Timestamp(0));
        assert_eq!((labs.len(), labs[0].held, labs[49].held), (MAX_LABS, 60, 11));
    }
}
