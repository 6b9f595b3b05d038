//! Logs and metrics.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Bounds of the latency histograms, in seconds: allocations take milliseconds, syncs take seconds.
const LATENCY_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error(
        "LOG_LEVEL holds {0}; it takes a level (error, warn, info, debug, trace) or a filter like info,sandbox_broker=debug"
    )]
    Filter(String),
}

/// Sends log lines to standard output. Only the first call in a process counts.
pub fn init_logs(level: &str, format: Option<LogFormat>) -> Result<(), TelemetryError> {
    // What the HTTP server says of its own start is nobody's concern; a filter in `level` may overrule this.
    let filter = EnvFilter::try_new(format!("actix_server=warn,{level}"))
        .map_err(|_| TelemetryError::Filter(level.to_owned()))?;
    let is_terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Pretty } else { LogFormat::Json });
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    // An error means that a test in this process was first.
    let _ = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Pretty => lines.with_ansi(is_terminal).with_target(false).try_init(),
    };
    Ok(())
}

/// The process's metrics. Several brokers in one process, as tests run them, share one recorder.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)
            .expect("the buckets are not empty");
        builder.install_recorder().expect("nothing else in this program installs a recorder")
    })
}
