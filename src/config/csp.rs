//! Where the sandboxes come from.

use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::secrets::Secret;
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
    /// Base URL of the CSP's API, https unless it is on this machine; required with CSP_MODE=http
    #[arg(long = "csp-base-url", env = "CSP_BASE_URL", value_parser = http_url())]
    pub base_url: Option<Url>,
    /// Send the CSP's token over http too, which everyone on the way can read
    #[arg(
        long = "csp-allow-http",
        env = "CSP_ALLOW_HTTP",
        default_value = "false",
        value_parser = clap::value_parser!(bool),
        action = clap::ArgAction::Set,
    )]
    pub allows_http: bool,
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
    pub fn source(&self, token: &Secret) -> Result<CspSource, Vec<Problem>> {
        if self.mode != Some(CspMode::Http) {
            return Ok(CspSource::Simulator { sandboxes: self.sim_sandboxes });
        }
        match (self.checked_base_url(), checked_token(token)) {
            (Ok(base_url), Ok(token)) => Ok(CspSource::Http { base_url, token }),
            (base_url, token) => Err(base_url.err().into_iter().chain(token.err()).collect()),
        }
    }

    fn checked_base_url(&self) -> Result<Url, Problem> {
        let bad = |holds: &str, takes: &str| Problem::new("CSP_BASE_URL", holds, takes);
        let missing = || bad("nothing", "the CSP's base URL, which CSP_MODE=http requires");
        let url = self.base_url.clone().ok_or_else(missing)?;
        if url.scheme() != "https" && !self.allows_http && !is_loopback(&url) {
            return Err(bad(url.as_str(), "an https URL; CSP_ALLOW_HTTP=true sends the token unencrypted"));
        }
        Ok(url)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn checked_token(token: &Secret) -> Result<SecretString, Problem> {
    let bad = |holds: &str| {
        Problem::new(
            token.variable(),
            holds,
            "the CSP's token in visible ASCII characters, which CSP_MODE=http requires",
        )
    };
    let token = token.read()?.filter(|token| !token.expose_secret().is_empty()).ok_or_else(|| bad("nothing"))?;
    let is_visible = token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible { Ok(token) } else { Err(bad("a token (hidden) with other characters")) }
}
