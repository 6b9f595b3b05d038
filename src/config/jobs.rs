//! When and how the background jobs run.

use std::time::Duration;

use clap::Args;

use super::values::{YEAR_HOURS, days, fractional_seconds, hours, number, seconds};

/// A week in seconds: the longest interval of a job.
const WEEK: u64 = 7 * 86_400;

/// The background jobs. Intervals run from the end of one run to the start of the next.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Background jobs")]
pub struct JobSettings {
    /// Seconds between syncs with the CSP
    #[arg(
        long = "sync-interval-sec",
        env = "SYNC_INTERVAL_SEC",
        default_value = "300",
        value_parser = seconds(1..=WEEK),
    )]
    pub sync_interval: Duration,
    /// Seconds between cleanups
    #[arg(
        long = "cleanup-interval-sec",
        env = "CLEANUP_INTERVAL_SEC",
        default_value = "300",
        value_parser = seconds(1..=WEEK),
    )]
    pub cleanup_interval: Duration,
    /// Seconds between expiry sweeps
    #[arg(
        long = "auto-expiry-interval-sec",
        env = "AUTO_EXPIRY_INTERVAL_SEC",
        default_value = "900",
        value_parser = seconds(1..=WEEK),
    )]
    pub expiry_interval: Duration,
    /// Seconds between collections of stale sandboxes
    #[arg(
        long = "stale-interval-sec",
        env = "STALE_INTERVAL_SEC",
        default_value = "86400",
        value_parser = seconds(1..=WEEK),
    )]
    pub stale_interval: Duration,
    /// Seconds between counts of the sandboxes; with BROKER_STORE=dynamodb the default is 60
    #[arg(
        long = "pool-stats-interval-sec",
        env = "POOL_STATS_INTERVAL_SEC",
        default_value = "2",
        default_value_if("kind", "dynamodb", "60"),
        value_parser = seconds(1..=3600),
    )]
    pub stats_interval: Duration,
    /// Deletions at the CSP that run at once
    #[arg(long, env, default_value = "4", value_parser = number::<usize>(1..=100))]
    pub cleanup_concurrency: usize,
    /// Seconds between the starts of two deletions at the CSP; failures of the CSP make them more
    #[arg(
        long = "cleanup-per-sandbox-delay-sec",
        env = "CLEANUP_PER_SANDBOX_DELAY_SEC",
        default_value = "0",
        value_parser = fractional_seconds(0.0..=3600.0),
    )]
    pub cleanup_delay: Duration,
    /// Hours that deletions of a sandbox may fail until it becomes deletion_failed; one attempt a day follows
    #[arg(
        long = "deletion-give-up-hours",
        env = "DELETION_GIVE_UP_HOURS",
        default_value = "24",
        value_parser = hours(1.0 / 60.0..=YEAR_HOURS),
    )]
    pub deletion_give_up: Duration,
    /// Failed deletions after which a sandbox becomes deletion_failed, whatever the time; 0 for no such bound
    #[arg(long, env, default_value = "0", value_parser = number::<u32>(0..=10_000))]
    pub deletion_retry_max_attempts: u32,
    /// Largest share of the available sandboxes that one sync may make stale, in percent
    #[arg(long, env, default_value = "50", value_parser = number::<u32>(0..=100))]
    pub sync_max_stale_percent: u32,
    /// Hours that a sandbox stays stale before it becomes a tombstone
    #[arg(
        long = "stale-grace-hours",
        env = "STALE_GRACE_HOURS",
        default_value = "24",
        value_parser = hours(0.0..=YEAR_HOURS),
    )]
    pub stale_grace: Duration,
    /// Hours that a tombstone is kept, but at least twice SYNC_INTERVAL_SEC, so that a sync sees an account that comes back
    #[arg(
        long = "deleted-retention-hours",
        env = "DELETED_RETENTION_HOURS",
        default_value = "24",
        value_parser = hours(0.0..=YEAR_HOURS),
    )]
    pub deleted_retention: Duration,
    /// Days that operators' orders are kept in the audit log
    #[arg(
        long = "audit-retention-days",
        env = "AUDIT_RETENTION_DAYS",
        default_value = "90",
        value_parser = days(1..=3650),
    )]
    pub audit_retention: Duration,
    /// Seconds that a job's lease lasts without extension
    #[arg(long = "job-lease-sec", env = "JOB_LEASE_SEC", default_value = "30", value_parser = seconds(3..=3600))]
    pub job_lease: Duration,
    /// Seconds between reads of the operators' commands
    #[arg(long = "control-poll-sec", env = "CONTROL_POLL_SEC", default_value = "3", value_parser = seconds(1..=4))]
    pub control_poll: Duration,
}

impl JobSettings {
    /// How long a tombstone is kept. A shorter time than two syncs would forget an account that a listing still has.
    pub fn deleted_retention(&self) -> Duration {
        self.deleted_retention.max(self.sync_interval * 2)
    }
}
