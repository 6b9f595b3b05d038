//! The journal: the last events, for consoles that connect or reconnect.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::http::api::body::Timestamp;

/// The number of events that are kept.
const LENGTH: usize = 200;

/// Something that happened
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    pub(super) at: Timestamp,
    /// A request such as `allocate`, `renew` or `force-release`; or `run`, `pause` or `resume` of an actor
    pub(super) action: String,
    /// `ok`, `error` or, where there is more to say, another word such as `replayed`
    pub(super) outcome: String,
    pub(super) actor: Option<String>,
    /// The name of the caller's token
    pub(super) token: Option<String>,
    pub(super) track_id: Option<String>,
    pub(super) sandbox_id: Option<String>,
    /// The operator, or the replica that ran a job
    pub(super) by: Option<String>,
    /// A reason, an error, or the code of an error
    pub(super) detail: Option<String>,
    /// The report of a run
    #[schema(value_type = Option<Object>)]
    pub(super) report: Option<Value>,
}

impl Event {
    /// An event without optional fields.
    pub(super) fn new(at: Timestamp, action: &str, outcome: &str) -> Self {
        Self {
            at,
            action: action.to_owned(),
            outcome: outcome.to_owned(),
            actor: None,
            token: None,
            track_id: None,
            sandbox_id: None,
            by: None,
            detail: None,
            report: None,
        }
    }
}

#[derive(Default)]
pub(super) struct Journal {
    /// The number of the next event.
    next: u64,
    last: VecDeque<Event>,
}

impl Journal {
    /// The number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.last.len() == LENGTH {
            self.last.pop_front();
        }
        self.last.push_back(event);
        self.next += 1;
    }

    /// The kept events from this number on.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &Event> {
        let missing = usize::try_from(self.next.saturating_sub(number)).unwrap_or(usize::MAX);
        self.last.iter().skip(self.last.len().saturating_sub(missing))
    }
}
