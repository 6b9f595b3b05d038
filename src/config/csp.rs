//! Where the sandboxes come from.

use std::time::Duration;

use broker_actors::breaker::BreakerSettings;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::secrets::Secret;
use super::values::{Problem, fractional_seconds, http_url, number, one_of, seconds};
use crate::csp::niosxaas::NiosxaasSettings;

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
    /// Delete the NIOSXaaS services of an account before the account
    #[arg(long, env, default_value = "false", value_parser = clap::value_parser!(bool), action = clap::ArgAction::Set)]
    pub niosxaas_enabled: bool,
    /// Base URL of the NIOSXaaS API; required with NIOSXAAS_ENABLED=true
    #[arg(long, env, value_parser = http_url())]
    pub niosxaas_base_url: Option<Url>,
    /// User of the NIOSXaaS API; required with NIOSXAAS_ENABLED=true
    #[arg(long, env)]
    pub niosxaas_email: Option<String>,
    /// Name of the services to delete; empty for all
    #[arg(long, env, default_value = "Instrqt-SaaS")]
    pub niosxaas_service_name: String,
    /// Seconds that one request to NIOSXaaS may take
    #[arg(
        long = "niosxaas-timeout-sec",
        env = "NIOSXAAS_TIMEOUT_SEC",
        default_value = "15",
        value_parser = seconds(1..=300),
    )]
    pub niosxaas_timeout: Duration,
    /// Seconds to wait before the services of each sandbox
    #[arg(
        long = "niosxaas-per-sandbox-delay-sec",
        env = "NIOSXAAS_PER_SANDBOX_DELAY_SEC",
        default_value = "0",
        value_parser = fractional_seconds(0.0..=3600.0),
    )]
    pub niosxaas_delay: Duration,
    /// Report the services and delete none
    #[arg(long, env, default_value = "true", value_parser = clap::value_parser!(bool), action = clap::ArgAction::Set)]
    pub niosxaas_shadow_mode: bool,
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
    /// The step before each deletion, if it is enabled.
    ///
    /// # Errors
    ///
    /// What it requires and does not have.
    pub fn niosxaas(&self, password: &Secret) -> Result<Option<NiosxaasSettings>, Vec<Problem>> {
        if !self.niosxaas_enabled {
            return Ok(None);
        }
        let missing =
            |name, what: &str| Problem::new(name, "nothing", format!("{what}, which NIOSXAAS_ENABLED=true requires"));
        let email = self.niosxaas_email.as_ref().filter(|email| !email.is_empty());
        let password = password.read().map_err(|problem| vec![problem])?;
        match (&self.niosxaas_base_url, email, password.filter(|it| !it.expose_secret().is_empty())) {
            (Some(base_url), Some(email), Some(password)) => Ok(Some(NiosxaasSettings {
                base_url: base_url.clone(),
                email: email.clone(),
                password,
                service_name: self.niosxaas_service_name.clone(),
                timeout: self.niosxaas_timeout,
                delay: self.niosxaas_delay,
                is_shadow: self.niosxaas_shadow_mode,
                breaker: BreakerSettings { threshold: self.breaker_threshold, timeout: self.breaker_timeout },
            })),
            (base_url, email, password) => Err([
                base_url.is_none().then(|| missing("NIOSXAAS_BASE_URL", "a base URL")),
                email.is_none().then(|| missing("NIOSXAAS_EMAIL", "a user")),
                password.is_none().then(|| missing("NIOSXAAS_PASSWORD", "a password")),
            ]
            .into_iter()
            .flatten()
            .collect()),
        }
    }

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
