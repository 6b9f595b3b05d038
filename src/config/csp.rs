//! Where the sandboxes come from.

use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use url::Url;

use super::values::{Problem, http_url, number, one_of, seconds};

/// Where the sandboxes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CspMode {
    /// A simulated CSP inside the process
    Sim,
    /// The CSP at CSP_BASE_URL
    Http,
}

/// The cloud service provider.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "CSP")]
pub struct CspSettings {
    /// Where sandboxes come from [default: sim; http with BROKER_STORE=dynamodb]
    #[arg(
        long = "csp-mode",
        env = "CSP_MODE",
        default_value_if("kind", "dynamodb", "http"),
        value_parser = one_of::<CspMode>(),
    )]
    pub mode: Option<CspMode>,
    /// Sandboxes that the simulated CSP keeps
    #[arg(
        long = "csp-sim-sandboxes",
        env = "CSP_SIM_SANDBOXES",
        default_value = "50",
        value_parser = number::<u64>(0..=100_000),
    )]
    pub sim_sandboxes: u64,
    /// Base URL of the CSP's API; required with CSP_MODE=http
    #[arg(long = "csp-base-url", env = "CSP_BASE_URL", value_parser = http_url())]
    pub base_url: Option<Url>,
    /// Token for the CSP's API; required with CSP_MODE=http
    #[arg(long = "csp-api-token", env = "CSP_API_TOKEN", hide_env_values = true)]
    pub api_token: Option<SecretString>,
    /// Seconds that a connection to the CSP may take
    #[arg(
        long = "csp-timeout-connect-sec",
        env = "CSP_TIMEOUT_CONNECT_SEC",
        default_value = "5",
        value_parser = seconds(1..=300),
    )]
    pub connect_timeout: Duration,
    /// Seconds that the CSP may send nothing
    #[arg(
        long = "csp-timeout-read-sec",
        env = "CSP_TIMEOUT_READ_SEC",
        default_value = "15",
        value_parser = seconds(1..=300),
    )]
    pub read_timeout: Duration,
    /// Consecutive failures that open the circuit breaker
    #[arg(
        long = "circuit-breaker-threshold",
        env = "CIRCUIT_BREAKER_THRESHOLD",
        default_value = "5",
        value_parser = number::<u32>(1..=1000),
    )]
    pub breaker_threshold: u32,
    /// Seconds that the circuit breaker stays open
    #[arg(
        long = "circuit-breaker-timeout-sec",
        env = "CIRCUIT_BREAKER_TIMEOUT_SEC",
        default_value = "60",
        value_parser = seconds(1..=86_400),
    )]
    pub breaker_timeout: Duration,
}

/// The CSP to use.
#[derive(Clone, Debug)]
pub enum CspSource {
    /// A simulator inside the process.
    Simulator {
        /// The number of sandboxes that it keeps.
        sandboxes: u64,
    },
    /// The CSP's API.
    Http {
        /// Its base URL.
        base_url: Url,
        /// The token for it.
        token: SecretString,
    },
}

impl CspSettings {
    /// The CSP to use.
    ///
    /// # Errors
    ///
    /// What `CSP_MODE=http` requires and does not have.
    pub fn source(&self) -> Result<CspSource, Vec<Problem>> {
        if self.mode != Some(CspMode::Http) {
            return Ok(CspSource::Simulator { sandboxes: self.sim_sandboxes });
        }
        let missing = |name, what| Problem::new(name, "nothing", format!("{what}, which CSP_MODE=http requires"));
        match (&self.base_url, &self.api_token) {
            (Some(base_url), Some(token)) => Ok(CspSource::Http { base_url: base_url.clone(), token: token.clone() }),
            (base_url, token) => {
                let base_url = base_url.is_none().then(|| missing("CSP_BASE_URL", "the CSP's base URL"));
                let token = token.is_none().then(|| missing("CSP_API_TOKEN", "the CSP's token"));
                Err(base_url.into_iter().chain(token).collect())
            }
        }
    }
}
