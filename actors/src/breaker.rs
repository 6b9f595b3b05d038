//! The circuit breaker in front of the CSP: a pure state machine, and the client that asks it before each call.
//!
//! Closed, it lets calls through; `threshold` consecutive failures open it. Open, it refuses calls until `timeout` has
//! passed. Half-open, it lets one probe through, whose success closes it and whose failure opens it again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::ports::{CspClient, CspDeletion, CspError, CspListing};

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
    /// Grows with each change of state, so that a call that started before the change says nothing about the new state.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { is_probing: bool },
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
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, generation: 0 }
    }

    /// Lets a call through.
    ///
    /// # Errors
    ///
    /// The time to wait, if the breaker is open or a probe is in flight.
    pub fn admit(&mut self, now: Instant) -> Result<Permit, Duration> {
        if let State::Open { until } = self.state
            && until <= now
        {
            self.enter(State::HalfOpen { is_probing: false });
        }
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { until } => return Err(*until - now),
            State::HalfOpen { is_probing: true } => return Err(self.settings.timeout),
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
            (State::Closed { .. }, Outcome::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Outcome::Failure) if failures + 1 < self.settings.threshold => {
                self.state = State::Closed { failures: failures + 1 };
            }
            (State::Closed { .. } | State::HalfOpen { .. }, Outcome::Failure) => self.enter(open),
            (State::HalfOpen { .. }, Outcome::Success) => self.enter(State::Closed { failures: 0 }),
            // No permit is issued while open.
            (State::Open { .. }, _) => {}
        }
    }

    /// The state at `now`.
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let threshold = self.settings.threshold;
        let (state, consecutive_failures, retry_in) = match self.state {
            State::Closed { failures } => (BreakerState::Closed, failures, None),
            State::Open { until } => (BreakerState::Open, threshold, Some(until.saturating_duration_since(now))),
            State::HalfOpen { .. } => (BreakerState::HalfOpen, threshold, None),
        };
        BreakerSnapshot { state, consecutive_failures, retry_in_seconds: retry_in.map(|wait| wait.as_secs()) }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

/// A CSP client behind the breaker.
pub struct GuardedCsp {
    csp: Arc<dyn CspClient>,
    breaker: Mutex<Breaker>,
}

impl GuardedCsp {
    /// Puts a closed breaker in front of `csp`.
    pub fn new(csp: Arc<dyn CspClient>, settings: BreakerSettings) -> Self {
        set_gauge(BreakerState::Closed);
        Self { csp, breaker: Mutex::new(Breaker::new(settings)) }
    }

    /// The breaker, as operators see it.
    pub fn snapshot(&self) -> BreakerSnapshot {
        self.with_breaker(|breaker, now| breaker.snapshot(now))
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, CspError>>,
        on_bad_answer: Outcome,
    ) -> Result<T, CspError> {
        let admitted = self.with_breaker(Breaker::admit);
        let permit = admitted.map_err(|retry_in| CspError::BreakerOpen { retry_in })?;
        let mut in_flight = CallInFlight { csp: self, permit: Some(permit) };
        let result = call.await;
        in_flight.end(match &result {
            // A wrong token is our fault; the CSP is up.
            Ok(_) | Err(CspError::Unauthorized { .. }) => Outcome::Success,
            Err(CspError::BadAnswer(_)) => on_bad_answer,
            Err(_) => Outcome::Failure,
        });
        result
    }

    fn with_breaker<R>(&self, act: impl FnOnce(&mut Breaker, Instant) -> R) -> R {
        let mut breaker = self.breaker.lock();
        let now = Instant::now();
        let before = breaker.snapshot(now).state;
        let result = act(&mut breaker, now);
        let after = breaker.snapshot(now).state;
        if before != after {
            let (before, after_name) = (before.as_str(), after.as_str());
            tracing::warn!(
                event = "breaker_changed",
                before,
                after = after_name,
                "the circuit breaker changed its state"
            );
            set_gauge(after);
        }
        result
    }
}

fn set_gauge(state: BreakerState) {
    let value = match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open => 2.0,
    };
    metrics::gauge!("broker_circuit_breaker_state").set(value);
}

/// A call in flight. If it is dropped it counts as failed: a probe that no one waits for must not keep the breaker
/// half-open for ever.
struct CallInFlight<'a> {
    csp: &'a GuardedCsp,
    permit: Option<Permit>,
}

impl CallInFlight<'_> {
    fn end(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            self.csp.with_breaker(|breaker, now| breaker.record(permit, outcome, now));
        }
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Failure);
    }
}

#[async_trait]
impl CspClient for GuardedCsp {
    async fn list(&self) -> Result<CspListing, CspError> {
        self.call(self.csp.list(), Outcome::Failure).await
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        // An unexpected answer about one account says nothing about the others.
        self.call(self.csp.delete(external_id), Outcome::Success).await
    }
}
