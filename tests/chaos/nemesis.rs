//! What goes wrong between a broker and DynamoDB, and how often: by a seeded generator, so that a seed brings the same
//! faults in the same order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Takes this long on its way; its sender still waits.
    Delay(Duration),
    /// Arrives this late, when its sender has given it up.
    LateRequest(Duration),
    /// Is carried out at once, but the answer comes this late, when nobody waits for it any more.
    LateResponse(Duration),
    /// Never arrives, and the connection is cut.
    LostRequest,
    /// Never arrives, and the connection stays silent.
    Silence,
    /// Is carried out; the connection is cut instead of the answer.
    LostResponse,
    /// Is carried out; the connection is cut in the middle of the answer.
    HalfResponse,
    /// Is answered with 500, and not carried out.
    ErrorBefore,
    /// Is answered with 500, and carried out all the same.
    ErrorAfter,
    /// Is refused as being too much.
    Throttle,
    /// Is refused because another transaction is at it.
    Conflict,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::LateRequest(_) => "late request",
            Self::LateResponse(_) => "late response",
            Self::LostRequest => "lost request",
            Self::Silence => "silence",
            Self::LostResponse => "lost response",
            Self::HalfResponse => "half a response",
            Self::ErrorBefore => "500, not done",
            Self::ErrorAfter => "500, but done",
            Self::Throttle => "throttle",
            Self::Conflict => "conflict",
        }
    }

    /// Faults that cost seconds come seldom, or nothing else would happen.
    fn draw(random: &mut fastrand::Rng) -> Self {
        let short = Duration::from_millis(random.u64(1..250));
        // Beyond the 3 seconds that the SDK gives an attempt.
        let long = Duration::from_millis(random.u64(3100..6000));
        match random.u8(0..20) {
            0..=4 => Self::Delay(short),
            5 => Self::LateRequest(long),
            6 => Self::LateResponse(long),
            7..=8 => Self::LostRequest,
            9 => Self::Silence,
            10..=12 => Self::LostResponse,
            13 => Self::HalfResponse,
            14 => Self::ErrorBefore,
            15 => Self::ErrorAfter,
            16..=17 => Self::Throttle,
            _ => Self::Conflict,
        }
    }
}

/// The nemesis on the way of one replica to DynamoDB.
pub struct Nemesis(Mutex<State>);

struct State {
    random: fastrand::Rng,
    /// So large a share of the requests meets a fault.
    share: f64,
    /// No request gets through at all.
    cut_off: bool,
    met: BTreeMap<&'static str, u64>,
}

impl Nemesis {
    pub fn calm(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self(Mutex::new(State { random, share: 0.0, cut_off: false, met: BTreeMap::new() }))
    }

    pub fn set_share(&self, share: f64) {
        self.state().share = share;
    }

    pub fn set_cut_off(&self, cut_off: bool) {
        self.state().cut_off = cut_off;
    }

    /// What the next request meets.
    pub fn draw(&self) -> Option<Fault> {
        let mut state = self.state();
        if state.cut_off {
            *state.met.entry("cut off").or_default() += 1;
            return Some(Fault::LostRequest);
        }
        if state.random.f64() >= state.share {
            return None;
        }
        let fault = Fault::draw(&mut state.random);
        *state.met.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    /// How many requests met each fault.
    pub fn met(&self) -> BTreeMap<&'static str, u64> {
        self.state().met.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
