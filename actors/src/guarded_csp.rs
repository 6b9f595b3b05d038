//! The CSP's client behind the circuit breaker, and the probe that finds out when the CSP works again.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::breaker::{Breaker, BreakerSettings, BreakerSnapshot, BreakerState, Outcome, Permit, Refusal};
use crate::ports::{CspClient, CspDeletion, CspError, CspListing};

/// A CSP client behind the breaker.
pub struct GuardedCsp {
    csp: Arc<dyn CspClient>,
    breaker: Mutex<Breaker>,
    /// Wakes the probe when the breaker opens.
    opened: Notify,
}

impl GuardedCsp {
    /// Puts a closed breaker in front of `csp`.
    pub fn new(csp: Arc<dyn CspClient>, settings: BreakerSettings) -> Self {
        set_gauge(BreakerState::Closed);
        Self { csp, breaker: Mutex::new(Breaker::new(settings)), opened: Notify::new() }
    }

    /// The breaker, as operators see it.
    pub fn snapshot(&self) -> BreakerSnapshot {
        self.with_breaker(|breaker, now| breaker.snapshot(now))
    }

    /// Calls the CSP whenever the breaker lets a probe through, so that its state is true without any job's run. A listing
    /// is the one call that changes nothing.
    pub(crate) async fn probe_while_open(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.wait_for_probe() => {}
            }
            let probe = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                probe = self.list() => probe,
            };
            tracing::info!(event = "breaker_probe", is_answered = probe.is_ok(), "probed the CSP");
        }
    }

    /// Waits until the breaker is open and a probe is due.
    async fn wait_for_probe(&self) {
        loop {
            let now = Instant::now();
            let (state, blocked_until) = {
                let breaker = self.breaker.lock();
                (breaker.snapshot(now).state, breaker.blocked_until(now))
            };
            match (state, blocked_until) {
                (BreakerState::Closed, _) => self.opened.notified().await,
                (_, Some(until)) => sleep_until(until).await,
                (BreakerState::Open, None) => return,
                // Another call is the probe.
                (BreakerState::HalfOpen, None) => self.opened.notified().await,
            }
        }
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, CspError>>,
        on_bad_answer: Outcome,
    ) -> Result<T, CspError> {
        let admitted = self.with_breaker(Breaker::admit);
        let permit = admitted.map_err(|refusal| match refusal {
            Refusal::Open(retry_in) => CspError::BreakerOpen { retry_in },
            Refusal::Silenced(retry_in) => CspError::Silenced { retry_in },
        })?;
        let mut in_flight = CallInFlight { csp: self, permit: Some(permit) };
        let result = call.await;
        in_flight.end(match &result {
            // A wrong token is our fault, and a refusal concerns one account; the CSP is up.
            Ok(_) | Err(CspError::Unauthorized { .. } | CspError::Refused { .. }) => Outcome::Success,
            Err(CspError::BadAnswer(_) | CspError::ForeignNotFound(_)) => on_bad_answer,
            Err(_) => Outcome::Failure,
        });
        if let Err(CspError::Throttled { retry_after: Some(wait) }) = &result {
            self.breaker.lock().silence(Instant::now() + *wait);
        }
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
        if after == BreakerState::Open {
            self.opened.notify_one();
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
