use std::time::Duration;

/// A fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is throttled and has no effect.
    Throttle,
    /// The transaction conflicts with another one and has no effect. Other requests are throttled.
    Conflict,
    /// The request is lost.
    LostRequest,
    /// The request takes effect after its sender has timed out.
    LateRequest(Duration),
    /// The request takes effect and the response is lost.
    LostResponse,
    /// The request is delayed.
    Delay(Duration),
}

/// A seeded generator of faults and latencies.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    random: fastrand::Rng,
    probability: f64,
    max_latency: Duration,
}

impl FaultPlan {
    /// Each request has a fault of a random kind with this probability.
    pub fn random(seed: u64, probability: f64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), probability, max_latency: Duration::ZERO }
    }

    /// Each request and each response takes up to this long.
    #[must_use]
    pub fn with_max_latency(self, max_latency: Duration) -> Self {
        Self { max_latency, ..self }
    }

    pub(super) fn draw_latency(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(0..=self.max_latency.as_millis() as u64))
    }

    pub(super) fn draw(&mut self) -> Option<Fault> {
        if self.random.f64() >= self.probability {
            return None;
        }
        let delay = Duration::from_millis(self.random.u64(1..50));
        Some(match self.random.u8(0..6) {
            0 => Fault::Throttle,
            1 => Fault::Conflict,
            2 => Fault::LostRequest,
            3 => Fault::LateRequest(delay * 20),
            4 => Fault::LostResponse,
            _ => Fault::Delay(delay),
        })
    }
}
