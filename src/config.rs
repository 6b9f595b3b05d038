//! The settings: environment variables and equal flags.
//!
//! Each setting is one field: its flag, its variable, its default, its range and its help text. clap parses the field
//! into its final type ([`values`]); [`Settings::check`] then checks what depends on more than one setting.
//! `sandbox-broker reference settings` prints the manual from the same fields.

mod allocation;
mod csp;
mod jobs;
mod server;
mod store;
pub mod values;

use clap::Parser;

pub use self::allocation::AllocationSettings;
pub use self::csp::{CspMode, CspSettings, CspSource};
pub use self::jobs::JobSettings;
pub use self::server::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, LogFormat, MAX_TOKEN_LENGTH, ServerSettings};
pub use self::store::{StoreKind, StoreSettings};
use self::values::Problem;

/// All settings, each in its final type. They fit together once [`Settings::check`] has accepted them.
#[derive(Clone, Debug, Parser)]
pub struct Settings {
    /// The HTTP server and what it reports.
    #[command(flatten)]
    pub server: ServerSettings,
    /// The table.
    #[command(flatten)]
    pub store: StoreSettings,
    /// The cloud service provider.
    #[command(flatten)]
    pub csp: CspSettings,
    /// Allocation.
    #[command(flatten)]
    pub allocation: AllocationSettings,
    /// The background jobs.
    #[command(flatten)]
    pub jobs: JobSettings,
}

/// All problems of the settings, one per line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BadSettings(pub Vec<Problem>);

impl Settings {
    /// Checks what depends on more than one setting, and returns all problems at once.
    ///
    /// # Errors
    ///
    /// If settings do not fit together.
    pub fn check(self) -> Result<Self, BadSettings> {
        let mut problems = self.server.check_tokens(self.store.kind);
        problems.extend(self.csp.source().err().into_iter().flatten());
        problems.extend(self.csp.niosxaas().err().into_iter().flatten());
        if self.allocation.backoff_base > self.allocation.backoff_max {
            let holds = self.allocation.backoff_base.as_millis().to_string();
            problems.push(Problem::new("BACKOFF_BASE_MS", holds, "no more than BACKOFF_MAX_MS"));
        }
        if self.allocation.max_holding() < self.allocation.lab_duration {
            let holds = (self.allocation.max_holding().as_secs_f64() / 3600.0).to_string();
            problems.push(Problem::new("MAX_HOLDING_HOURS", holds, "no less than LAB_DURATION_HOURS"));
        }
        if problems.is_empty() { Ok(self) } else { Err(BadSettings(problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> Settings {
        Settings::parse_from([&["broker"], flags].concat())
    }

    fn problems(flags: &[&str]) -> Vec<String> {
        let problems = settings(flags).check().expect_err("they do not fit together").0;
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn the_store_determines_the_defaults_of_other_settings() {
        let trial = settings(&["--broker-store=memory"]).check().unwrap();
        assert_eq!((trial.csp.mode, trial.server.rate_limit_rps), (CspMode::Sim, 0));
        assert!(trial.server.uses_development_tokens());
        let production = settings(&["--broker-store=dynamodb"]);
        assert_eq!((production.csp.mode, production.server.rate_limit_rps), (CspMode::Http, 10));
        assert!(production.server.track_tokens.is_empty() && production.server.admin_tokens.is_empty());
    }

    #[test]
    fn all_problems_are_returned_at_once() {
        let token = "the-same-token-of-32-characters-.";
        let found = problems(&[
            "--broker-store=dynamodb",
            &format!("--broker-api-token=short, {token}"),
            &format!("--broker-admin-token={token}"),
            "--backoff-base-ms=6000",
        ]);
        let starts = [
            "BROKER_API_TOKEN holds a token (number 1, hidden) of 5 characters; it takes tokens of at least 32",
            "BROKER_ADMIN_TOKEN holds a token of BROKER_API_TOKEN; it takes other tokens",
            "CSP_BASE_URL holds nothing",
            "CSP_API_TOKEN holds nothing",
            "BACKOFF_BASE_MS holds 6000; it takes no more than BACKOFF_MAX_MS",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        for (problem, start) in found.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
            assert!(!problem.contains(token) && !problem.contains("short"), "a token in {problem}");
        }
    }
}
