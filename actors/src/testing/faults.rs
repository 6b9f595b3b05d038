use std::time::Duration;

/// What can go wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused for being too much; not carried out.
    Throttle,
    /// Refused because another transaction is at it; not carried out. Other requests take it as a throttle.
    Conflict,
    /// Never arrives.
    LostRequest,
    /// Arrives late, long after its sender gave up.
    LateRequest(Duration),
    /// Is carried out, but the answer never comes back.
    LostResponse,
    /// Takes this long on its way.
    Delay(Duration),
}

/// Which requests go wrong, each with a probability, and how long all of them take, by a seeded generator.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    random: fastrand::Rng,
    probability: f64,
    longest_way: Duration,
}

impl FaultPlan {
    /// Every request goes wrong with this probability, in a way drawn from all.
    pub fn random(seed: u64, probability: f64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), probability, longest_way: Duration::ZERO }
    }

    /// Every request takes up to this long on its way to the store, and its answer on the way back.
    #[must_use]
    pub fn with_longest_way(self, longest_way: Duration) -> Self {
        Self { longest_way, ..self }
    }

    pub(super) fn draw_way(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(0..=self.longest_way.as_millis() as u64))
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
