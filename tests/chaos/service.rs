//! The faults of DynamoDB itself, as it documents them: throttles, conflicts, indexes that lag, its own errors, and
//! refusals.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use test_support::metering::{Durations, Fault, FaultRule, Lag, Limits, MeteringEngine};
use tokio::time::{Instant, sleep};

/// The share of requests that meet an error of the service while it has some.
const ERROR_RATE: f64 = 0.3;

pub(crate) struct Service {
    engine: MeteringEngine,
    random: fastrand::Rng,
    /// The number of injected faults of each kind.
    pub(crate) injected: BTreeMap<&'static str, u64>,
}

enum Disturbance {
    Limits(fn(&mut Limits)),
    /// Transactions keep their keys marked for long, so that others meet conflicts.
    SlowTransactions,
    LaggingIndexes,
    Errors(FaultRule),
}

impl Service {
    pub(crate) fn new(engine: MeteringEngine, seed: u64) -> Self {
        Self { engine, random: fastrand::Rng::with_seed(seed), injected: BTreeMap::new() }
    }

    /// Injects one fault after another until `end`, each kind equally often. No fault is left afterwards.
    pub(crate) async fn inject_faults(mut self, end: Instant) -> Self {
        let mut faults = Vec::new();
        while Instant::now() < end {
            if faults.is_empty() {
                faults = all_faults(&mut self.random);
                self.random.shuffle(&mut faults);
            }
            self.pause(100..700).await;
            if let Some((name, disturbance)) = faults.pop() {
                *self.injected.entry(name).or_default() += 1;
                self.disturb(disturbance);
                self.pause(300..1500).await;
                self.heal();
            }
        }
        self
    }

    fn disturb(&self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Limits(limit) => self.engine.set_limits(limit),
            Disturbance::SlowTransactions => {
                let transaction = Duration::from_millis(30)..=Duration::from_millis(150);
                self.engine.set_durations(Durations { transaction, ..Durations::default() });
            }
            Disturbance::LaggingIndexes => {
                let rare = Duration::from_secs(1)..=Duration::from_secs(5);
                self.engine.set_lag(Lag { usual: Duration::from_millis(300), rare_share: 0.3, rare });
            }
            Disturbance::Errors(rule) => self.engine.add_fault(rule),
        }
    }

    fn heal(&self) {
        self.engine.set_limits(|limits| *limits = Limits::default());
        self.engine.set_durations(Durations::default());
        self.engine.set_lag(Lag::default());
        self.engine.clear_faults();
    }

    async fn pause(&mut self, milliseconds: Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(milliseconds))).await;
    }
}

/// One fault of each kind; conflicts and lag twice, because what they disturb is rare.
fn all_faults(random: &mut fastrand::Rng) -> Vec<(&'static str, Disturbance)> {
    let errors = |rule: FaultRule| Disturbance::Errors(rule.share(ERROR_RATE));
    let mut one_of = |mut faults: Vec<(&'static str, Disturbance)>| faults.swap_remove(random.usize(..faults.len()));
    let throttles = one_of(vec![
        ("throttled partitions", Disturbance::Limits(|limits| limits.partition_write = 15.0)),
        ("nearly no writes", Disturbance::Limits(|limits| limits.partition_write = 3.0)),
        ("throttled table", Disturbance::Limits(|limits| limits.quota_write = 40.0)),
    ]);
    let errors_without_effect = one_of(vec![
        ("500", errors(FaultRule::before(Fault::internal_server_error()))),
        ("503", errors(FaultRule::before(Fault::service_unavailable()))),
        ("page of a 502", errors(FaultRule::before(Fault::html(502)))),
    ]);
    let errors_with_effect = one_of(vec![
        ("500 with effect", errors(FaultRule::after(Fault::internal_server_error()))),
        ("503 with effect", errors(FaultRule::after(Fault::service_unavailable()))),
        ("page of a 504 with effect", errors(FaultRule::after(Fault::html(504)))),
        ("408 with effect", errors(FaultRule::after(Fault::request_timeout()))),
    ]);
    let refusal = one_of(vec![
        ("access denied", Disturbance::Errors(FaultRule::before(Fault::access_denied()))),
        ("expired token", Disturbance::Errors(FaultRule::before(Fault::expired_token()))),
        ("key disabled", Disturbance::Errors(FaultRule::before(Fault::kms("KMSDisabledException")))),
        ("no table", Disturbance::Errors(FaultRule::before(Fault::resource_not_found()))),
    ]);
    vec![
        throttles,
        ("throttled reads", Disturbance::Limits(|limits| limits.partition_read = 5.0)),
        ("slow transactions", Disturbance::SlowTransactions),
        ("slow transactions", Disturbance::SlowTransactions),
        ("lagging indexes", Disturbance::LaggingIndexes),
        ("lagging indexes", Disturbance::LaggingIndexes),
        errors_without_effect,
        errors_with_effect,
        refusal,
    ]
}
