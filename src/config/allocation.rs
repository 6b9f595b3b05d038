//! How sandboxes are allocated.

use std::time::Duration;

use clap::Args;

use super::values::{YEAR_HOURS, hours, milliseconds, minutes, number, seconds};

/// Allocation.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Allocation")]
pub struct AllocationSettings {
    /// Hours that a sandbox is held
    #[arg(
        long = "lab-duration-hours",
        env = "LAB_DURATION_HOURS",
        default_value = "4",
        value_parser = hours(1.0 / 3600.0..=YEAR_HOURS),
    )]
    pub lab_duration: Duration,
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
