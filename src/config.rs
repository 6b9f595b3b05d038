//! The settings: environment variables and equal flags, checked as a whole before anything starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use url::Url;

use crate::dynamo::TableNames;

/// Tokens for trials; refused with `BROKER_STORE=dynamodb`.
pub const DEVELOPMENT_TOKEN: &str = "development-track-token";
/// The same for operators.
pub const DEVELOPMENT_ADMIN_TOKEN: &str = "development-admin-token";

/// The shortest token that production takes.
const MIN_TOKEN_LENGTH: usize = 32;

/// The longest token; no other header of this API may be longer.
pub const MAX_TOKEN_LENGTH: usize = 256;

/// Where the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A DynamoDB engine inside the process, on a file in BROKER_DATA_DIR
    Embedded,
    /// The same without a file: a restart forgets everything
    Memory,
    /// Amazon DynamoDB, or the server at DDB_ENDPOINT_URL
    Dynamodb,
}

/// Where the sandboxes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CspMode {
    /// A simulated CSP inside the process
    Sim,
    /// The CSP at CSP_BASE_URL
    Http,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line
    Json,
    /// For people
    Pretty,
}

/// The settings as they are given; [`Settings::check`] makes sense of them.
#[derive(Args, Clone, Debug)]
#[allow(missing_docs, reason = "each field's help text says it, to the operator too")]
pub struct RawSettings {
    /// Address to listen on
    #[arg(long, env, default_value = "0.0.0.0", help_heading = "Server")]
    pub broker_host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, env, default_value_t = 8080, help_heading = "Server")]
    pub broker_port: u16,
    /// Tokens of the track API, comma-separated; at least 32 characters each with BROKER_STORE=dynamodb
    #[arg(long, env, hide_env_values = true, help_heading = "Server")]
    pub broker_api_token: Option<SecretString>,
    /// Tokens of the admin API, comma-separated; at least 32 characters each with BROKER_STORE=dynamodb
    #[arg(long, env, hide_env_values = true, help_heading = "Server")]
    pub broker_admin_token: Option<SecretString>,
    /// Name of this replica in leases and logs [default: random]
    #[arg(long, env, help_heading = "Server")]
    pub broker_replica_id: Option<String>,
    /// Requests a second that one client IP may make; 0 is off [default: 10; 0 with embedded and memory]
    #[arg(long, env, help_heading = "Server")]
    pub rate_limit_rps: Option<u32>,
    /// Requests that one client IP may make at once
    #[arg(long, env, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Server")]
    pub rate_limit_burst: u32,
    /// Proxies before the broker whose X-Forwarded-For entries are believed
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=16), help_heading = "Server")]
    pub trusted_proxies: u8,
    /// Allocations that may be under way at once
    #[arg(long, env, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Server")]
    pub max_in_flight: u32,
    /// Origins that browsers may call from, comma-separated, each as scheme://host:port [default: none]
    #[arg(long, env, value_delimiter = ',', help_heading = "Server")]
    pub cors_allowed_origins: Vec<String>,
    /// Seconds that requests and jobs under way get at SIGTERM
    #[arg(long, env, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=600), help_heading = "Server")]
    pub shutdown_grace_sec: u64,
    /// Log level, or a filter such as info,sandbox_broker=debug
    #[arg(long, env, default_value = "info", help_heading = "Server")]
    pub log_level: String,
    /// Form of log lines [default: json; pretty on a terminal]
    #[arg(long, env, help_heading = "Server")]
    pub log_format: Option<LogFormat>,
    /// Base URL of a collector that takes traces as OTLP over HTTP [default: no traces]
    #[arg(long, env, help_heading = "Server")]
    pub otel_exporter_otlp_endpoint: Option<String>,

    #[command(flatten)]
    pub store: RawStoreSettings,

    /// Where sandboxes come from [default: sim with embedded and memory, http with dynamodb]
    #[arg(long, env, help_heading = "CSP")]
    pub csp_mode: Option<CspMode>,
    /// Sandboxes that the simulated CSP keeps
    #[arg(long, env, default_value_t = 50, value_parser = clap::value_parser!(u64).range(..=100_000), help_heading = "CSP")]
    pub csp_sim_sandboxes: u64,
    /// Base URL of the CSP's API; required with CSP_MODE=http
    #[arg(long, env, help_heading = "CSP")]
    pub csp_base_url: Option<String>,
    /// Token for the CSP's API; required with CSP_MODE=http
    #[arg(long, env, hide_env_values = true, help_heading = "CSP")]
    pub csp_api_token: Option<SecretString>,
    /// Seconds that a connection to the CSP may take
    #[arg(long, env, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300), help_heading = "CSP")]
    pub csp_timeout_connect_sec: u64,
    /// Seconds that the CSP may stay silent
    #[arg(long, env, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=300), help_heading = "CSP")]
    pub csp_timeout_read_sec: u64,
    /// Failures in a row that open the circuit breaker
    #[arg(long, env, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "CSP")]
    pub circuit_breaker_threshold: u32,
    /// Seconds that the circuit breaker stays open
    #[arg(long, env, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = "CSP")]
    pub circuit_breaker_timeout_sec: u64,

    /// Hours that a sandbox is held; fractions allowed
    #[arg(long, env, default_value_t = 4.0, help_heading = "Allocation")]
    pub lab_duration_hours: f64,
    /// Minutes that a holding goes on past its end; fractions allowed
    #[arg(long, env, default_value_t = 30.0, help_heading = "Allocation")]
    pub grace_period_minutes: f64,
    /// Milliseconds that one allocation may take in all
    #[arg(long, env, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=60_000), help_heading = "Allocation")]
    pub allocate_timeout_ms: u64,
    /// Seconds between refreshes of the cached pool
    #[arg(long, env, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600), help_heading = "Allocation")]
    pub pool_refresh_interval_sec: u64,
    /// Low-water mark: with fewer cached candidates the pool is refreshed
    #[arg(long, env, default_value_t = 15, value_parser = clap::value_parser!(u32).range(..=10_000), help_heading = "Allocation")]
    pub k_candidates: u32,
    /// Milliseconds of the first wait after candidates were taken by others
    #[arg(long, env, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000), help_heading = "Allocation")]
    pub backoff_base_ms: u64,
    /// Milliseconds of the longest such wait
    #[arg(long, env, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=60_000), help_heading = "Allocation")]
    pub backoff_max_ms: u64,

    /// Seconds between syncs with the CSP
    #[arg(long, env, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800), help_heading = "Background jobs")]
    pub sync_interval_sec: u64,
    /// Seconds between cleanups
    #[arg(long, env, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800), help_heading = "Background jobs")]
    pub cleanup_interval_sec: u64,
    /// Seconds between expiry sweeps
    #[arg(long, env, default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=604_800), help_heading = "Background jobs")]
    pub auto_expiry_interval_sec: u64,
    /// Seconds between collections of stale sandboxes
    #[arg(long, env, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=604_800), help_heading = "Background jobs")]
    pub stale_interval_sec: u64,
    /// Deletions at the CSP that run at once
    #[arg(long, env, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Background jobs")]
    pub cleanup_concurrency: u32,
    /// Seconds that each of them waits before a deletion; fractions allowed
    #[arg(long, env, default_value_t = 0.0, help_heading = "Background jobs")]
    pub cleanup_per_sandbox_delay_sec: f64,
    /// Failed deletions of a sandbox until it is deletion_failed
    #[arg(long, env, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Background jobs")]
    pub deletion_retry_max_attempts: u32,
    /// Largest share of the available sandboxes that one sync may make stale, in percent
    #[arg(long, env, default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=100), help_heading = "Background jobs")]
    pub sync_max_stale_percent: u32,
    /// Hours that a sandbox stays stale before it is buried; fractions allowed
    #[arg(long, env, default_value_t = 24.0, help_heading = "Background jobs")]
    pub stale_grace_hours: f64,
    /// Hours that a tombstone stays; fractions allowed
    #[arg(long, env, default_value_t = 24.0, help_heading = "Background jobs")]
    pub deleted_retention_hours: f64,
    /// Seconds that a job's lease lasts without extension
    #[arg(long, env, default_value_t = 30, value_parser = clap::value_parser!(u64).range(3..=3600), help_heading = "Background jobs")]
    pub job_lease_sec: u64,
    /// Seconds between looks at the operators' controls
    #[arg(long, env, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=4), help_heading = "Background jobs")]
    pub control_poll_sec: u64,
}

/// Where the table is; `table create` takes these alone.
#[derive(Args, Clone, Debug)]
#[allow(missing_docs, reason = "each field's help text says it, to the operator too")]
pub struct RawStoreSettings {
    /// Where the pool is stored
    #[arg(long, env, default_value = "embedded", help_heading = "Store")]
    pub broker_store: StoreKind,
    /// Directory of the embedded store
    #[arg(long, env, default_value = "./data", help_heading = "Store")]
    pub broker_data_dir: PathBuf,
    /// Name of the table
    #[arg(long, env, default_value = "sandbox-broker-pool", help_heading = "Store")]
    pub ddb_table_name: String,
    /// Name of the index by status
    #[arg(long, env, default_value = "StatusIndex", help_heading = "Store")]
    pub ddb_gsi1_name: String,
    /// Name of the index by track
    #[arg(long, env, default_value = "TrackIndex", help_heading = "Store")]
    pub ddb_gsi2_name: String,
    /// Name of the index by idempotency key
    #[arg(long, env, default_value = "IdempotencyIndex", help_heading = "Store")]
    pub ddb_gsi3_name: String,
    /// Another DynamoDB-compatible server to use, by its URL
    #[arg(long, env, help_heading = "Store")]
    pub ddb_endpoint_url: Option<String>,
    /// AWS region [default: the AWS SDK's chain]
    #[arg(long, env, help_heading = "Store")]
    pub aws_region: Option<String>,
}

impl RawStoreSettings {
    /// What the table and its indexes are called.
    pub fn table_names(&self) -> TableNames {
        TableNames {
            table: self.ddb_table_name.clone(),
            status_index: self.ddb_gsi1_name.clone(),
            track_index: self.ddb_gsi2_name.clone(),
            idempotency_index: self.ddb_gsi3_name.clone(),
        }
    }
}

/// The CSP to use.
#[derive(Clone, Debug)]
pub enum CspSettings {
    /// A simulator inside the process with so many sandboxes.
    Sim {
        /// How many.
        sandboxes: u64,
    },
    /// The real one.
    Http {
        /// Where its API is.
        base_url: Url,
        /// The token for it.
        token: SecretString,
    },
}

/// Settings that fit together.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// Tokens of the track API.
    pub api_tokens: Vec<SecretString>,
    /// Tokens of the admin API.
    pub admin_tokens: Vec<SecretString>,
    /// Whether tokens that everybody knows are in use.
    pub development_tokens: bool,
    /// Name of this replica.
    pub replica_id: String,
    /// Requests a second for one client; `None` is off.
    pub rate_limit_rps: Option<u32>,
    /// Where traces go.
    pub otlp_endpoint: Option<Url>,
    /// The CSP.
    pub csp: CspSettings,
    /// How long a sandbox is held.
    pub lab_duration: Duration,
    /// How long a holding goes on past its end.
    pub grace: Duration,
    /// What each deletion waits before.
    pub cleanup_delay: Duration,
    /// How long a sandbox stays stale.
    pub stale_grace: Duration,
    /// How long a tombstone stays.
    pub deleted_retention: Duration,
    /// All that needs no further sense.
    pub raw: RawSettings,
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadSettings(pub Vec<String>);

impl Settings {
    /// Makes sense of the settings, or tells all that is wrong with them: which one, what it holds, what it takes.
    pub fn check(raw: RawSettings) -> Result<Self, BadSettings> {
        let mut problems = Problems::default();
        let store = raw.store.broker_store;
        let is_production = store == StoreKind::Dynamodb;
        let mut tokens = |name, given: &Option<SecretString>, development: &str| match given {
            Some(given) => problems.tokens(name, given, if is_production { MIN_TOKEN_LENGTH } else { 1 }),
            None if is_production => {
                problems.add(name, "nothing", "one or more tokens of at least 32 characters, comma-separated");
                Vec::new()
            }
            None => vec![SecretString::from(development)],
        };
        let api_tokens = tokens("BROKER_API_TOKEN", &raw.broker_api_token, DEVELOPMENT_TOKEN);
        let admin_tokens = tokens("BROKER_ADMIN_TOKEN", &raw.broker_admin_token, DEVELOPMENT_ADMIN_TOKEN);
        let is_admin_token = |token| admin_tokens.iter().any(|admin| secrecy_text(admin) == secrecy_text(token));
        if api_tokens.iter().any(is_admin_token) {
            problems.add("BROKER_ADMIN_TOKEN", "a token of BROKER_API_TOKEN", "other tokens than the track API's");
        }
        let csp_mode = raw.csp_mode.unwrap_or(if is_production { CspMode::Http } else { CspMode::Sim });
        let csp = match csp_mode {
            CspMode::Sim => CspSettings::Sim { sandboxes: raw.csp_sim_sandboxes },
            CspMode::Http => problems.csp(&raw),
        };
        if let Some(endpoint) = &raw.store.ddb_endpoint_url {
            problems.url("DDB_ENDPOINT_URL", endpoint);
        }
        let otlp_endpoint = raw.otel_exporter_otlp_endpoint.as_ref();
        let otlp_endpoint = otlp_endpoint.and_then(|given| problems.url("OTEL_EXPORTER_OTLP_ENDPOINT", given));
        for origin in &raw.cors_allowed_origins {
            let is_origin = Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !is_origin {
                problems.add(
                    "CORS_ALLOWED_ORIGINS",
                    origin,
                    "origins such as https://labs.example.com, comma-separated",
                );
            }
        }
        if raw.backoff_base_ms > raw.backoff_max_ms {
            problems.add("BACKOFF_BASE_MS", &raw.backoff_base_ms.to_string(), "no more than BACKOFF_MAX_MS");
        }
        let replica_id = raw.broker_replica_id.clone().unwrap_or_else(random_replica_id);
        if !is_name(&replica_id) {
            problems.add("BROKER_REPLICA_ID", &replica_id, "1 to 64 letters, digits, '.', '_' and '-'");
        }
        let default_rps = if is_production { 10 } else { 0 };
        let rate_limit_rps = Some(raw.rate_limit_rps.unwrap_or(default_rps)).filter(|rps| *rps > 0);
        let year = 365.0 * 86_400.0;
        let settings = Self {
            address: SocketAddr::new(raw.broker_host, raw.broker_port),
            development_tokens: raw.broker_api_token.is_none() || raw.broker_admin_token.is_none(),
            api_tokens,
            admin_tokens,
            replica_id,
            rate_limit_rps,
            otlp_endpoint,
            csp,
            lab_duration: problems.duration("LAB_DURATION_HOURS", raw.lab_duration_hours, 3600.0, 1.0, year),
            grace: problems.duration("GRACE_PERIOD_MINUTES", raw.grace_period_minutes, 60.0, 0.0, year),
            cleanup_delay: problems.duration(
                "CLEANUP_PER_SANDBOX_DELAY_SEC",
                raw.cleanup_per_sandbox_delay_sec,
                1.0,
                0.0,
                3600.0,
            ),
            stale_grace: problems.duration("STALE_GRACE_HOURS", raw.stale_grace_hours, 3600.0, 0.0, year),
            deleted_retention: problems.duration(
                "DELETED_RETENTION_HOURS",
                raw.deleted_retention_hours,
                3600.0,
                0.0,
                year,
            ),
            raw,
        };
        if problems.0.is_empty() { Ok(settings) } else { Err(BadSettings(problems.0)) }
    }
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, name: &str, holds: &str, takes: &str) {
        self.0.push(format!("{name} holds {holds}; it takes {takes}"));
    }

    fn tokens(&mut self, name: &str, given: &SecretString, min_length: usize) -> Vec<SecretString> {
        let tokens: Vec<_> = secrecy_text(given).split(',').map(str::trim).map(str::to_owned).collect();
        for (index, token) in tokens.iter().enumerate() {
            let is_fit = (min_length..=MAX_TOKEN_LENGTH).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_fit {
                let holds = format!("a token (number {}, hidden) of {} characters", index + 1, token.chars().count());
                let takes = format!(
                    "tokens of at least {min_length} and at most {MAX_TOKEN_LENGTH} visible ASCII characters, \
                     comma-separated"
                );
                self.add(name, &holds, &takes);
            }
        }
        tokens.into_iter().map(SecretString::from).collect()
    }

    fn csp(&mut self, raw: &RawSettings) -> CspSettings {
        let base_url = match &raw.csp_base_url {
            Some(url) => self.url("CSP_BASE_URL", url),
            None => {
                self.add("CSP_BASE_URL", "nothing", "the CSP's base URL, which CSP_MODE=http requires");
                None
            }
        };
        let token = raw.csp_api_token.clone().unwrap_or_else(|| {
            self.add("CSP_API_TOKEN", "nothing", "the CSP's token, which CSP_MODE=http requires");
            SecretString::from("")
        });
        match base_url {
            Some(base_url) => CspSettings::Http { base_url, token },
            // The problem is noted; these settings will not be used.
            None => CspSettings::Sim { sandboxes: 0 },
        }
    }

    fn url(&mut self, name: &str, given: &str) -> Option<Url> {
        let url = Url::parse(given).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if url.is_none() {
            self.add(name, given, "an http or https URL");
        }
        url
    }

    fn duration(&mut self, name: &str, given: f64, unit: f64, min_seconds: f64, max_seconds: f64) -> Duration {
        let seconds = given * unit;
        if (min_seconds..=max_seconds).contains(&seconds) {
            return Duration::from_secs_f64(seconds);
        }
        let takes = format!("a number from {} to {}", min_seconds / unit, max_seconds / unit);
        self.add(name, &given.to_string(), &takes);
        Duration::ZERO
    }
}

fn secrecy_text(secret: &SecretString) -> &str {
    secrecy::ExposeSecret::expose_secret(secret)
}

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn random_replica_id() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("replica-{}", &id[..8])
}
