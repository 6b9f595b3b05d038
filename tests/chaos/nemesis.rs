//! The nemesis on the network between a replica and DynamoDB. It draws faults from a seeded generator, so that a seed gives
//! the same faults in the same order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is delayed; its sender still waits.
    Delay(Duration),
    /// The request is delayed beyond its sender's timeout.
    LateRequest(Duration),
    /// The request takes effect at once; the response is delayed beyond the sender's timeout.
    LateResponse(Duration),
    /// The request is lost and the connection is reset.
    LostRequest,
    /// The request is lost and the connection stays open without an answer.
    Hang,
    /// The request takes effect; the connection is reset before the response.
    LostResponse,
    /// The request takes effect; the connection is reset within the response.
    PartialResponse,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::LateRequest(_) => "late request",
            Self::LateResponse(_) => "late response",
            Self::LostRequest => "lost request",
            Self::Hang => "hang",
            Self::LostResponse => "lost response",
            Self::PartialResponse => "partial response",
        }
    }

    /// Draws a fault. Faults that take seconds are rare, so that enough else happens in a run.
    fn draw(random: &mut fastrand::Rng) -> Self {
        let short = Duration::from_millis(random.u64(1..250));
        // Longer than the timeout of 1 second for an attempt.
        let long = Duration::from_millis(random.u64(1100..6000));
        match random.u8(0..14) {
            0..=4 => Self::Delay(short),
            5 => Self::LateRequest(long),
            6 => Self::LateResponse(long),
            7..=8 => Self::LostRequest,
            9 => Self::Hang,
            10..=12 => Self::LostResponse,
            _ => Self::PartialResponse,
        }
    }
}

/// The nemesis of one replica.
pub(crate) struct Nemesis(Mutex<State>);

struct State {
    random: fastrand::Rng,
    /// The share of requests with a fault.
    fault_rate: f64,
    /// Whether all requests are lost.
    is_partitioned: bool,
    injected: BTreeMap<&'static str, u64>,
}

impl Nemesis {
    /// A nemesis without faults.
    pub(crate) fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self(Mutex::new(State { random, fault_rate: 0.0, is_partitioned: false, injected: BTreeMap::new() }))
    }

    pub(crate) fn set_fault_rate(&self, fault_rate: f64) {
        self.state().fault_rate = fault_rate;
    }

    pub(crate) fn set_partitioned(&self, is_partitioned: bool) {
        self.state().is_partitioned = is_partitioned;
    }

    /// The fault of the next request.
    pub(crate) fn draw(&self) -> Option<Fault> {
        let mut state = self.state();
        if state.is_partitioned {
            *state.injected.entry("partition").or_default() += 1;
            return Some(Fault::LostRequest);
        }
        if state.random.f64() >= state.fault_rate {
            return None;
        }
        let fault = Fault::draw(&mut state.random);
        *state.injected.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    /// The number of requests with each fault.
    pub(crate) fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.state().injected.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
