//! The HTTP server, its callers, and what it reports.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use broker_actors::sandbox::ReplicaId;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use super::store::StoreKind;
use super::values::{Problem, http_url, number, one_of, seconds, text};

/// The track token for trials. It is too short for `BROKER_STORE=dynamodb`.
pub const DEVELOPMENT_TOKEN: &str = "development-track-token";
/// The admin token for trials.
pub const DEVELOPMENT_ADMIN_TOKEN: &str = "development-admin-token";

/// The shortest token that is accepted in production.
const MIN_TOKEN_LENGTH: usize = 32;

/// The longest token that is accepted. No other header of the API may be longer.
pub const MAX_TOKEN_LENGTH: usize = 256;

/// What LOG_LEVEL takes.
const LOG_FILTER: &str = "a level (error, warn, info, debug, trace) or a filter such as info,sandbox_broker=debug";

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line
    Json,
    /// Text for people
    Pretty,
}

/// The HTTP server and what it reports.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerSettings {
    /// Address to listen on; with BROKER_STORE=dynamodb the default is 0.0.0.0, every address of the machine
    #[arg(
        long = "broker-host",
        env = "BROKER_HOST",
        default_value = "127.0.0.1",
        default_value_if("kind", "dynamodb", "0.0.0.0"),
        value_parser = text("an IP address", |host| host.parse::<IpAddr>().ok()),
    )]
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long = "broker-port", env = "BROKER_PORT", default_value = "8080", value_parser = number::<u16>(0..=65_535))]
    pub port: u16,
    /// Tokens of the track API, comma-separated; with BROKER_STORE=dynamodb required, and at least 32 characters each
    #[arg(
        long = "broker-api-token",
        env = "BROKER_API_TOKEN",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = DEVELOPMENT_TOKEN,
        default_value_if("kind", "dynamodb", None::<&str>),
        value_parser = secret,
    )]
    pub track_tokens: Vec<SecretString>,
    /// Tokens of the admin API, comma-separated; with BROKER_STORE=dynamodb required, and at least 32 characters each
    #[arg(
        long = "broker-admin-token",
        env = "BROKER_ADMIN_TOKEN",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = DEVELOPMENT_ADMIN_TOKEN,
        default_value_if("kind", "dynamodb", None::<&str>),
        value_parser = secret,
    )]
    pub admin_tokens: Vec<SecretString>,
    /// Name of this replica in leases and logs [default: random]
    #[arg(
        long = "broker-replica-id",
        env = "BROKER_REPLICA_ID",
        value_parser = text("1 to 64 letters, digits, '.', '_' and '-'", replica_id),
    )]
    pub replica_id: Option<ReplicaId>,
    /// Requests per second that one client address may make; 0 is off; with BROKER_STORE=dynamodb the default is 10
    #[arg(
        long,
        env,
        default_value = "0",
        default_value_if("kind", "dynamodb", "10"),
        value_parser = number::<u32>(0..=u32::MAX.into()),
    )]
    pub rate_limit_rps: u32,
    /// Requests that one client address may make at once
    #[arg(long, env, default_value = "20", value_parser = number::<u32>(1..=u32::MAX.into()))]
    pub rate_limit_burst: u32,
    /// Number of proxies in front of the broker whose X-Forwarded-For entries are trusted
    #[arg(long, env, default_value = "0", value_parser = number::<usize>(0..=16))]
    pub trusted_proxies: usize,
    /// Allocations that may be in flight at once
    #[arg(long, env, default_value = "1024", value_parser = number::<usize>(1..=100_000))]
    pub max_in_flight: usize,
    /// Origins that browsers may call from, comma-separated, each as scheme://host:port [default: none]
    #[arg(
        long,
        env,
        value_delimiter = ',',
        value_parser = text("origins such as https://labs.example.com, comma-separated", origin),
    )]
    pub cors_allowed_origins: Vec<String>,
    /// Seconds that requests and jobs in flight have to finish after SIGTERM
    #[arg(
        long = "shutdown-grace-sec",
        env = "SHUTDOWN_GRACE_SEC",
        default_value = "25",
        value_parser = seconds(1..=600),
    )]
    pub shutdown_grace: Duration,
    /// Log level, or a filter such as info,sandbox_broker=debug
    #[arg(
        long = "log-level",
        env = "LOG_LEVEL",
        default_value = "info",
        value_parser = text(LOG_FILTER, log_filter),
    )]
    pub log_filter: String,
    /// Form of log lines [default: json; pretty on a terminal]
    #[arg(long, env, value_parser = one_of::<LogFormat>())]
    pub log_format: Option<LogFormat>,
    /// Base URL of a collector that takes traces as OTLP over HTTP [default: no traces]
    #[arg(long = "otel-exporter-otlp-endpoint", env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = http_url())]
    pub otlp_endpoint: Option<Url>,
}

impl ServerSettings {
    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// True if a token from the documentation is in use.
    pub fn uses_development_tokens(&self) -> bool {
        let tokens = self.track_tokens.iter().chain(&self.admin_tokens);
        tokens.into_iter().any(|token| [DEVELOPMENT_TOKEN, DEVELOPMENT_ADMIN_TOKEN].contains(&token.expose_secret()))
    }

    /// Checks the tokens of both APIs. How long they must be depends on the store.
    pub(super) fn check_tokens(&self, store: StoreKind) -> Vec<Problem> {
        let min_length = if store == StoreKind::Dynamodb { MIN_TOKEN_LENGTH } else { 1 };
        let mut problems = Vec::new();
        for (name, tokens) in [("BROKER_API_TOKEN", &self.track_tokens), ("BROKER_ADMIN_TOKEN", &self.admin_tokens)] {
            if tokens.is_empty() {
                let takes = format!("one or more tokens of at least {min_length} characters, comma-separated");
                problems.push(Problem::new(name, "nothing", takes));
            }
            for (number, token) in (1..).zip(tokens) {
                let token = token.expose_secret();
                let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_visible || !(min_length..=MAX_TOKEN_LENGTH).contains(&token.len()) {
                    let holds = format!("a token (number {number}, hidden) of {} characters", token.chars().count());
                    let takes = format!(
                        "tokens of at least {min_length} and at most {MAX_TOKEN_LENGTH} visible ASCII characters, \
                         comma-separated"
                    );
                    problems.push(Problem::new(name, holds, takes));
                }
            }
        }
        let is_admin =
            |token: &SecretString| self.admin_tokens.iter().any(|admin| admin.expose_secret() == token.expose_secret());
        if self.track_tokens.iter().any(is_admin) {
            let takes = "other tokens than the track API's";
            problems.push(Problem::new("BROKER_ADMIN_TOKEN", "a token of BROKER_API_TOKEN", takes));
        }
        problems
    }
}

fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text.trim()))
}

fn replica_id(text: &str) -> Option<ReplicaId> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_allowed);
    is_name.then(|| ReplicaId::new(text))
}

fn origin(text: &str) -> Option<String> {
    let is_origin = Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
    is_origin.then(|| text.to_owned())
}

fn log_filter(text: &str) -> Option<String> {
    // The filter's own parser takes any other word for the name of a module.
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_level = text.parse::<LevelFilter>().is_ok();
    ((is_level || !is_word) && EnvFilter::try_new(text).is_ok()).then(|| text.to_owned())
}
