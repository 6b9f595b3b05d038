//! The circuit breaker in front of the CSP: a pure state machine. [`GuardedCsp`](crate::guarded_csp::GuardedCsp) asks it
//! before each call.
//!
//! Closed, it lets calls through; `threshold` consecutive failures open it, or failures of half of the last
//! 20 calls within one minute. Open, it refuses calls until `timeout` has passed. Half-open, it lets one
//! probe through, whose success closes it and whose failure opens it again. Whatever its state, it refuses all calls while
//! the CSP asks for silence.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// The number of calls by which the rate of failures is judged.
const WINDOW: usize = 20;

/// The time within which these calls must have ended. Failures that are further apart are no rate.
const WINDOW_LENGTH: Duration = Duration::from_secs(60);

/// The parameters of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// The number of consecutive failures that opens it.
    pub threshold: u32,
    /// How long it stays open before it lets a probe through.
    pub timeout: Duration,
}

/// The state machine. It has no clock: callers pass the time.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// The last calls while closed: when they ended, and whether they failed.
    recent: VecDeque<(Instant, Outcome)>,
    /// The time until which the CSP asked for no calls.
    silent_until: Option<Instant>,
    /// Grows with each change of state, so that a call that started before the change says nothing about the new state.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { is_probing: bool },
}

/// Why a call is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The breaker is open, or a probe is in flight, for this long.
    Open(Duration),
    /// The CSP asked for no calls, for this long.
    Silenced(Duration),
}

/// The right to make one call. It goes back to [`Breaker::record`] with the outcome.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(u64);

/// What a call says about the CSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The CSP answers.
    Success,
    /// The CSP does not work.
    Failure,
}

/// The state of the breaker, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls are refused.
    Open,
    /// One probe goes through.
    HalfOpen,
}

impl BreakerState {
    /// The name in the API and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerSnapshot {
    /// The state.
    pub state: BreakerState,
    /// Consecutive failures, while closed.
    pub consecutive_failures: u32,
    /// The time until a probe goes through, while open.
    pub retry_in_seconds: Option<u64>,
    /// The time for which the CSP asked for no calls.
    pub silent_for_seconds: Option<u64>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        let state = State::Closed { failures: 0 };
        Self { settings, state, recent: VecDeque::new(), silent_until: None, generation: 0 }
    }

    /// Lets a call through.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn admit(&mut self, now: Instant) -> Result<Permit, Refusal> {
        if let Some(until) = self.silent_until.filter(|until| *until > now) {
            return Err(Refusal::Silenced(until - now));
        }
        if let State::Open { until } = self.state
            && until <= now
        {
            self.enter(State::HalfOpen { is_probing: false });
        }
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { until } => return Err(Refusal::Open(*until - now)),
            State::HalfOpen { is_probing: true } => return Err(Refusal::Open(self.settings.timeout)),
            State::HalfOpen { is_probing } => *is_probing = true,
        }
        Ok(Permit(self.generation))
    }

    /// Records the outcome of a call.
    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Instant) {
        if permit.0 != self.generation {
            return;
        }
        let open = State::Open { until: now + self.settings.timeout };
        match (self.state, outcome) {
            (State::Closed { failures }, outcome) => {
                let failures = if outcome == Outcome::Failure { failures + 1 } else { 0 };
                self.state = State::Closed { failures };
                self.recent.push_back((now, outcome));
                if self.recent.len() > WINDOW {
                    self.recent.pop_front();
                }
                if failures >= self.settings.threshold || self.fails_too_often(now) {
                    self.enter(open);
                }
            }
            (State::HalfOpen { .. }, Outcome::Failure) => self.enter(open),
            (State::HalfOpen { .. }, Outcome::Success) => self.enter(State::Closed { failures: 0 }),
            // No permit is issued while open.
            (State::Open { .. }, _) => {}
        }
    }

    /// Refuses all calls until `until`.
    pub fn silence(&mut self, until: Instant) {
        self.silent_until = self.silent_until.max(Some(until));
    }

    /// When a call is let through again, if none is now. A probe in flight does not count.
    pub fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let open_until = match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        };
        open_until.max(self.silent_until).filter(|until| *until > now)
    }

    fn fails_too_often(&self, now: Instant) -> bool {
        let failures = self.recent.iter().filter(|(_, outcome)| *outcome == Outcome::Failure).count();
        let is_full = self.recent.len() == WINDOW;
        is_full && self.recent[0].0 + WINDOW_LENGTH >= now && failures * 2 >= WINDOW
    }

    /// The state at `now`.
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let threshold = self.settings.threshold;
        let (state, consecutive_failures, retry_in) = match self.state {
            State::Closed { failures } => (BreakerState::Closed, failures, None),
            State::Open { until } => (BreakerState::Open, threshold, Some(until.saturating_duration_since(now))),
            State::HalfOpen { .. } => (BreakerState::HalfOpen, threshold, None),
        };
        let silent_for = self.silent_until.filter(|until| *until > now).map(|until| until - now);
        BreakerSnapshot {
            state,
            consecutive_failures,
            retry_in_seconds: retry_in.map(|wait| wait.as_secs()),
            silent_for_seconds: silent_for.map(|wait| wait.as_secs()),
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.recent.clear();
        self.generation += 1;
    }
}
