//! Runs of jobs and commands of operators, on any replica, as events. They are derived from the statuses of the actors.

use std::collections::BTreeMap;

use broker_actors::actor::{ActorName, ActorStatus, Control, DesiredState};
use broker_actors::sandbox::Timestamp;

use super::journal::Event;

/// What the statuses have already shown.
#[derive(Default)]
pub(super) struct ActorEvents {
    /// Start and duration of the last run of each job.
    runs: BTreeMap<ActorName, (Timestamp, u64)>,
    /// The last command for each actor.
    controls: BTreeMap<ActorName, Control>,
}

impl ActorEvents {
    /// The runs and commands that these statuses show for the first time, the oldest first.
    pub(super) fn new_in(&mut self, actors: &[ActorStatus]) -> Vec<Event> {
        let mut events = Vec::new();
        for actor in actors {
            events.extend(self.new_run(actor));
            events.extend(self.new_command(actor));
        }
        events.sort_by_key(|event| event.at);
        events
    }

    fn new_run(&mut self, actor: &ActorStatus) -> Option<Event> {
        let run = actor.last_run.as_ref()?;
        let key = (run.started_at, run.duration_ms);
        if self.runs.insert(actor.name, key) == Some(key) {
            return None;
        }
        let outcome = if run.error.is_none() { "completed" } else { "error" };
        Some(Event {
            actor: Some(actor.name.to_string()),
            by: Some(run.replica.to_string()),
            detail: run.error.clone(),
            report: run.report.clone(),
            ..Event::new(run.started_at.into(), "run", outcome)
        })
    }

    fn new_command(&mut self, actor: &ActorStatus) -> Option<Event> {
        let control = actor.control.as_ref()?;
        if self.controls.insert(actor.name, control.clone()).as_ref() == Some(control) {
            return None;
        }
        let action = match control.desired_state {
            DesiredState::Paused => "pause",
            DesiredState::Running => "resume",
        };
        Some(Event {
            actor: Some(actor.name.to_string()),
            by: Some(control.requested_by.clone()),
            detail: Some(control.reason.clone()).filter(|reason| !reason.is_empty()),
            ..Event::new(control.updated_at.into(), action, "ok")
        })
    }
}
