//! How sandboxes are allocated.

use std::time::Duration;

use clap::Args;

use super::values::{Problem, YEAR_HOURS, hours, milliseconds, minutes, number, seconds};

/// Allocation.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Allocation")]
pub struct AllocationSettings {
    /// Hours that a sandbox is held; with BROKER_STORE=dynamodb required
    // No default there: the Python broker's is 48, and a lab that is cut off after 4 hours loses its student's work.
    #[arg(
        long = "lab-duration-hours",
        env = "LAB_DURATION_HOURS",
        default_value = "4",
        default_value_if("kind", "dynamodb", None::<&str>),
        value_parser = hours(1.0 / 3600.0..=YEAR_HOURS),
    )]
    lab_duration: Option<Duration>,
    /// Hours for which renewals may extend a holding, from its start [default: 4 times LAB_DURATION_HOURS]
    #[arg(long = "max-holding-hours", env = "MAX_HOLDING_HOURS", value_parser = hours(1.0 / 3600.0..=YEAR_HOURS))]
    pub max_holding: Option<Duration>,
    /// Hours that a standby waits for its learner
    #[arg(
        long = "standby-max-hours",
        env = "STANDBY_MAX_HOURS",
        default_value = "96",
        value_parser = hours(1.0 / 3600.0..=YEAR_HOURS),
    )]
    pub standby_max: Duration,
    /// Seconds that an allocation waits for a sandbox if its request does not say; 0 to answer 409 at once
    #[arg(
        long = "allocate-wait-sec",
        env = "ALLOCATE_WAIT_SEC",
        default_value = "0",
        value_parser = seconds(0..=50),
    )]
    pub wait: Duration,
    /// The most students that wait for a sandbox, over all replicas
    #[arg(long, env, default_value = "10000", value_parser = number::<usize>(1..=100_000))]
    pub max_waiting: usize,
    /// Seconds without a new sandbox after which those who wait are told that none is coming
    #[arg(
        long = "no-supply-after-sec",
        env = "NO_SUPPLY_AFTER_SEC",
        default_value = "900",
        value_parser = seconds(1..=86_400),
    )]
    pub no_supply_after: Duration,
    /// Refuse calls of tracks that send no secret; switch it on after all tracks send one
    #[arg(long, env, default_value = "false", value_parser = clap::value_parser!(bool), action = clap::ArgAction::Set)]
    pub require_track_secret: bool,
    /// Seconds from the creation of an account at the CSP until its sandbox may be allocated; 600 if accounts do not work at once
    #[arg(
        long = "available-min-age-sec",
        env = "AVAILABLE_MIN_AGE_SEC",
        default_value = "0",
        value_parser = seconds(0..=86_400),
    )]
    pub available_min_age: Duration,
    /// Minutes between the end of a holding and its expiry
    #[arg(
        long = "grace-period-minutes",
        env = "GRACE_PERIOD_MINUTES",
        default_value = "30",
        value_parser = minutes(0.0..=YEAR_HOURS * 60.0),
    )]
    pub grace: Duration,
    /// Milliseconds that one allocation may take in total
    #[arg(
        long = "allocate-timeout-ms",
        env = "ALLOCATE_TIMEOUT_MS",
        default_value = "10000",
        value_parser = milliseconds(100..=60_000),
    )]
    pub timeout: Duration,
    /// Seconds between refreshes of the cached pool
    #[arg(
        long = "pool-refresh-interval-sec",
        env = "POOL_REFRESH_INTERVAL_SEC",
        default_value = "10",
        value_parser = seconds(1..=3600),
    )]
    pub pool_refresh_interval: Duration,
    /// Low-water mark: with fewer cached candidates the pool is refreshed at once
    #[arg(
        long = "k-candidates",
        env = "K_CANDIDATES",
        default_value = "15",
        value_parser = number::<usize>(0..=10_000),
    )]
    pub low_water: usize,
    /// Milliseconds of the first wait after candidates were lost to other writers
    #[arg(
        long = "backoff-base-ms",
        env = "BACKOFF_BASE_MS",
        default_value = "100",
        value_parser = milliseconds(1..=60_000),
    )]
    pub backoff_base: Duration,
    /// Milliseconds of the longest such wait
    #[arg(
        long = "backoff-max-ms",
        env = "BACKOFF_MAX_MS",
        default_value = "5000",
        value_parser = milliseconds(1..=60_000),
    )]
    pub backoff_max: Duration,
}

impl AllocationSettings {
    /// How long a sandbox is held.
    ///
    /// # Panics
    ///
    /// Panics if the setting is missing, which [`super::Settings::check`] refuses.
    pub fn lab_duration(&self) -> Duration {
        self.lab_duration.expect("the settings are checked")
    }

    /// How long a holding may last with its renewals, from its start.
    pub fn max_holding(&self) -> Duration {
        self.max_holding.unwrap_or_else(|| self.lab_duration() * 4)
    }

    /// What does not fit together, or is missing.
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.lab_duration.is_none() {
            let takes = "the hours that a sandbox is held, which have no default with BROKER_STORE=dynamodb; the Python \
                         broker's default is 48";
            problems.push(Problem::new("LAB_DURATION_HOURS", "nothing", takes));
        } else if self.max_holding() < self.lab_duration() {
            let holds = (self.max_holding().as_secs_f64() / 3600.0).to_string();
            problems.push(Problem::new("MAX_HOLDING_HOURS", holds, "no less than LAB_DURATION_HOURS"));
        }
        if self.backoff_base > self.backoff_max {
            let holds = self.backoff_base.as_millis().to_string();
            problems.push(Problem::new("BACKOFF_BASE_MS", holds, "no more than BACKOFF_MAX_MS"));
        }
        problems
    }
}
