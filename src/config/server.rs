//! The HTTP server, its callers, and what it reports.

use std::net::IpAddr;
use std::time::Duration;

use broker_actors::sandbox::ReplicaId;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::values::{Problem, http_url, number, one_of, seconds, text};

/// Stands for all origins in CORS_ALLOWED_ORIGINS, as in the header of an answer.
pub const ANY_ORIGIN: &str = "*";

/// What LOG_LEVEL takes.
const LOG_FILTER: &str = "a level (error, warn, info, debug, trace) or a filter such as info,sandbox_broker=debug";

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line
    Json,
    /// Text for people
    #[value(alias = "text")]
    Pretty,
}

/// The HTTP server and what it reports.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerSettings {
    /// Address to listen on [default: 127.0.0.1 with development tokens, else 0.0.0.0]
    #[arg(
        long = "broker-host",
        env = "BROKER_HOST",
        value_parser = text("an IP address", |host| host.parse::<IpAddr>().ok()),
    )]
    pub host: Option<IpAddr>,
    /// Port to listen on; 0 picks a free one
    #[arg(long = "broker-port", env = "BROKER_PORT", default_value = "8080", value_parser = number::<u16>(0..=65_535))]
    pub port: u16,
    /// Port for the admin API, the console and the metrics, which are then served there only [default: the same port]
    #[arg(long = "broker-admin-port", env = "BROKER_ADMIN_PORT", value_parser = number::<u16>(0..=65_535))]
    pub admin_port: Option<u16>,
    /// New allocations per minute and replica with BROKER_API_TOKEN, all tracks together; 0 is off
    #[arg(long, env, default_value = "0", value_parser = number::<u32>(0..=u32::MAX.into()))]
    pub broker_new_per_minute: u32,
    /// Name of this replica in leases and logs [default: random]
    #[arg(
        long = "broker-replica-id",
        env = "BROKER_REPLICA_ID",
        value_parser = text("1 to 64 letters, digits, '.', '_' and '-'", replica_id),
    )]
    pub replica_id: Option<ReplicaId>,
    /// Requests per second that one student may make, or one operator's address, or an address without a valid token; 0
    /// is off; with BROKER_STORE=dynamodb the default is 10
    #[arg(
        long,
        env,
        default_value = "0",
        default_value_if("kind", "dynamodb", "10"),
        value_parser = number::<u32>(0..=u32::MAX.into()),
    )]
    pub rate_limit_rps: u32,
    /// Requests that each of them may make at once
    #[arg(long, env, default_value = "20", value_parser = number::<u32>(1..=u32::MAX.into()))]
    pub rate_limit_burst: u32,
    /// Requests per second with one track token, all students together; 0 is off; with BROKER_STORE=dynamodb the default
    /// is 2000
    #[arg(
        long,
        env,
        default_value = "0",
        default_value_if("kind", "dynamodb", "2000"),
        value_parser = number::<u32>(0..=u32::MAX.into()),
    )]
    pub rate_limit_token_rps: u32,
    /// Number of proxies in front of the broker whose X-Forwarded-For entries are trusted
    #[arg(long, env, default_value = "0", value_parser = number::<usize>(0..=16))]
    pub trusted_proxies: usize,
    /// Allocations that may be in flight at once
    #[arg(long, env, default_value = "1024", value_parser = number::<usize>(1..=100_000))]
    pub max_in_flight: usize,
    /// Origins that browsers may call from, comma-separated, each as scheme://host:port; * is any [default: none]
    #[arg(
        long,
        env,
        value_delimiter = ',',
        value_parser = text("* or origins such as https://labs.example.com, comma-separated", origin),
    )]
    pub cors_allowed_origins: Vec<String>,
    /// Repeat the object of an error as `detail`, as clients of the Python broker expect it
    #[arg(long, env, default_value = "false", value_parser = clap::value_parser!(bool), action = clap::ArgAction::Set)]
    pub compat_error_detail: bool,
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
    pub(super) fn check_ports(&self) -> Option<Problem> {
        let same = self.admin_port.filter(|port| *port == self.port && *port != 0)?;
        Some(Problem::new("BROKER_ADMIN_PORT", same.to_string(), "another port than BROKER_PORT"))
    }
}

fn replica_id(text: &str) -> Option<ReplicaId> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_allowed);
    is_name.then(|| ReplicaId::new(text))
}

fn origin(text: &str) -> Option<String> {
    let is_origin = Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
    (is_origin || text == ANY_ORIGIN).then(|| text.to_owned())
}

/// The filter, with the names of levels that the logging library knows. The library takes any other word for the name of
/// a module and switches off the log of all others, so a word alone must be a level.
fn log_filter(text: &str) -> Option<String> {
    let directives = text.split(',').map(|directive| match directive.trim().rsplit_once('=') {
        None => level(directive.trim()).map(str::to_owned),
        Some((target, name)) => Some(format!("{target}={}", level(name)?)),
    });
    let filter = directives.collect::<Option<Vec<_>>>()?.join(",");
    EnvFilter::try_new(&filter).is_ok().then_some(filter)
}

fn level(name: &str) -> Option<&'static str> {
    const LEVELS: [(&str, &str); 9] = [
        ("critical", "error"),
        ("fatal", "error"),
        ("error", "error"),
        ("warning", "warn"),
        ("warn", "warn"),
        ("info", "info"),
        ("debug", "debug"),
        ("trace", "trace"),
        ("off", "off"),
    ];
    LEVELS.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_other_libraries_are_understood_and_words_that_are_none_refused() {
        for (text, filter) in [
            ("INFO", "info"),
            ("WARNING", "warn"),
            ("Critical", "error"),
            ("off", "off"),
            ("info,sandbox_broker=DEBUG", "info,sandbox_broker=debug"),
            (" warning, sandbox_broker::http=trace", "warn,sandbox_broker::http=trace"),
        ] {
            assert_eq!(log_filter(text).as_deref(), Some(filter), "{text}");
        }
        for text in ["", "wanring", "sandbox_broker", "info,", "info,loud", "sandbox_broker=loud", "3", "info;debug"] {
            assert_eq!(log_filter(text), None, "{text}");
        }
    }
}
