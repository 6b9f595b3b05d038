//! The circuit breaker before the CSP: a pure state machine, and the client that asks it before each call.
//!
//! Closed lets calls through; `threshold` failures in a row open it. Open refuses calls until `timeout` is over.
//! Half-open lets one probe through: its success closes the breaker, its failure opens it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::time::Instant;

use crate::ports::{CspClient, CspDeletion, CspError, CspListing};

/// The breaker's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// So many failures in a row open it.
    pub threshold: u32,
    /// So long it stays open before it lets a probe through.
    pub timeout: Duration,
}

/// The state machine. It has no clock: its callers tell it the time.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// Grows with each change of state, so that a call that was let through before says nothing about the state now.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probe_is_out: bool },
}

/// The right to make one call; goes back to [`Breaker::record`] with what became of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(u64);

/// What a call says about the CSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answers.
    Success,
    /// It does not work.
    Failure,
}

/// The breaker as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BreakerSnapshot {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Failures in a row, while closed.
    pub consecutive_failures: u32,
    /// Until a probe is let through, while open.
    pub retry_in_seconds: Option<u64>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, generation: 0 }
    }

    /// Lets a call through, or tells how long to wait.
    pub fn admit(&mut self, now: Instant) -> Result<Permit, Duration> {
        if let State::Open { until } = self.state
            && until <= now
        {
            self.enter(State::HalfOpen { probe_is_out: false });
        }
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { until } => return Err(*until - now),
            State::HalfOpen { probe_is_out: true } => return Err(self.settings.timeout),
            State::HalfOpen { probe_is_out } => *probe_is_out = true,
        }
        Ok(Permit(self.generation))
    }

    /// Takes note of what became of a call.
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
            // No permit is given out while open.
            (State::Open { .. }, _) => {}
        }
    }

    /// The state at this time.
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let (state, consecutive_failures, retry_in) = match self.state {
            State::Closed { failures } => ("closed", failures, None),
            State::Open { until } => ("open", self.settings.threshold, Some(until.saturating_duration_since(now))),
            State::HalfOpen { .. } => ("half_open", self.settings.threshold, None),
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
    /// Puts a closed breaker before `csp`.
    pub fn new(csp: Arc<dyn CspClient>, settings: BreakerSettings) -> Self {
        publish("closed");
        Self { csp, breaker: Mutex::new(Breaker::new(settings)) }
    }

    /// The breaker as operators see it.
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
        let mut call_out = CallOut { guard: self, permit: Some(permit) };
        let result = call.await;
        let outcome = match &result {
            // A wrong token is our fault; the CSP is up.
            Ok(_) | Err(CspError::Unauthorized { .. }) => Outcome::Success,
            Err(CspError::BadAnswer(_)) => on_bad_answer,
            Err(_) => Outcome::Failure,
        };
        call_out.ended(outcome);
        result
    }

    fn with_breaker<R>(&self, act: impl FnOnce(&mut Breaker, Instant) -> R) -> R {
        // The state is a plain value that is replaced whole, so it is good even after a panic elsewhere.
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let before = breaker.snapshot(now).state;
        let result = act(&mut breaker, now);
        let after = breaker.snapshot(now).state;
        if before != after {
            tracing::warn!(before, after, "the circuit breaker changed its state");
            publish(after);
        }
        result
    }
}

fn publish(state: &'static str) {
    let value = match state {
        "closed" => 0.0,
        "half_open" => 1.0,
        _ => 2.0,
    };
    metrics::gauge!("broker_circuit_breaker_state").set(value);
}

/// A call under way. If it is dropped, it counts as failed: a probe that nobody waits for must not keep the breaker
/// half-open for ever.
struct CallOut<'a> {
    guard: &'a GuardedCsp,
    permit: Option<Permit>,
}

impl CallOut<'_> {
    fn ended(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            self.guard.with_breaker(|breaker, now| breaker.record(permit, outcome, now));
        }
    }
}

impl Drop for CallOut<'_> {
    fn drop(&mut self) {
        self.ended(Outcome::Failure);
    }
}

#[async_trait]
impl CspClient for GuardedCsp {
    async fn list(&self) -> Result<CspListing, CspError> {
        self.call(self.csp.list(), Outcome::Failure).await
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        // An odd answer about one account says nothing about the others.
        self.call(self.csp.delete(external_id), Outcome::Success).await
    }
}
