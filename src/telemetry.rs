//! Logs and traces.

use std::io::IsTerminal as _;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use broker_actors::SPANS;
use broker_actors::error::Chain;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Span};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use url::Url;

use crate::config::LogFormat;
use crate::tls;

/// How long an export may take. It is the exporter's own default.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not valid.
    #[error("the log filter `{filter}` is not valid")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The exporter of traces cannot be built.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT holds {endpoint}; it takes the base URL of a collector for OTLP over HTTP")]
    Exporter {
        /// The collector.
        endpoint: Url,
        /// What the exporter reported.
        source: ExporterBuildError,
    },
}

/// Lines that wait for a reader of standard output. Further ones are dropped and counted: a reader that stops must not stop
/// the program.
const WAITING_LINES: usize = 8192;

/// How long the end of the program waits for the reader of the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The lines that were dropped, of the writer that is in use.
static DROPPED_LINES: OnceLock<ErrorCounter> = OnceLock::new();

/// The log lines that were dropped so far, because no one read standard output.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Logs and traces, until the program ends.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Writes log lines from a thread of its own. [`Telemetry::flush`] waits for the last ones.
    lines: Option<WorkerGuard>,
    /// Collects spans and sends them in batches. [`Telemetry::flush`] sends the last ones.
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Writes log lines to standard output, and sends spans to the collector at `otlp_endpoint`. Only the first call in
    /// a process has an effect.
    ///
    /// # Errors
    ///
    /// See [`TelemetryError`].
    pub fn init(filter: &str, format: Option<LogFormat>, otlp_endpoint: Option<&Url>) -> Result<Self, TelemetryError> {
        // The HTTP server's lines about its start and about malformed requests help no one, nor do those of the SDK about a
        // failed request to an engine without a connection. Spans are not log lines. `filter` comes last and can override
        // this.
        let sdk = "aws_smithy_runtime::client::http::connection_poisoning=off";
        let defaults = format!("actix_server=warn,actix_http::h1::dispatcher=off,{sdk},{SPANS}=off");
        let filter = EnvFilter::try_new(format!("{defaults},{filter}"))
            .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
        let is_terminal = std::io::stdout().is_terminal();
        let format = format.unwrap_or(if is_terminal { LogFormat::Pretty } else { LogFormat::Json });
        let (writer, guard) =
            NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).lossy(true).finish(std::io::stdout());
        let _ = DROPPED_LINES.set(writer.error_counter());
        let lines = tracing_subscriber::fmt::layer().with_writer(writer);
        let lines = match format {
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
            LogFormat::Pretty => lines.with_ansi(is_terminal).with_target(false).boxed(),
        };
        let traces = otlp_endpoint.map(tracer_provider).transpose()?;
        // The broker's spans, and those of the SDK's operations, each of which is one call to DynamoDB.
        let spans =
            Targets::new().with_target(SPANS, Level::INFO).with_target("aws_sdk_dynamodb::operation", Level::DEBUG);
        let mut layers = vec![lines.with_filter(filter).boxed()];
        // Without a collector the layer is omitted: `None` has no filter, and spans would be recorded for nothing.
        layers.extend(traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer().with_tracer(traces.tracer(env!("CARGO_PKG_NAME"))).with_filter(spans).boxed()
        }));
        // It fails if an earlier call, as in tests, has set a subscriber.
        let _ = tracing_subscriber::registry().with(layers).try_init();
        Ok(Self { lines: Some(guard), traces })
    }

    /// Sends the spans that are still in a batch, and writes the last log lines.
    pub fn flush(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
            tracing::warn!(event = "spans_lost", error = %Chain(&error), "the last spans could not be sent");
        }
        // In a thread of its own: dropping the guard would wait forever for a reader that is gone.
        let (flushed, is_flushed) = mpsc::channel();
        let lines = self.lines;
        std::thread::spawn(move || {
            drop(lines);
            let _ = flushed.send(());
        });
        let _ = is_flushed.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Sends spans in batches from a thread of its own.
fn tracer_provider(endpoint: &Url) -> Result<SdkTracerProvider, TelemetryError> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    // The exporter makes an HTTP client of its own, except for a collector on this machine: its own would use a proxy.
    tls::install_provider();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')));
    let exporter = if tls::is_loopback(endpoint) { exporter.with_http_client(direct_client()) } else { exporter };
    let exporter =
        exporter.build().map_err(|source| TelemetryError::Exporter { endpoint: endpoint.clone(), source })?;
    let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// A client that uses no proxy. A blocking one, which may not be made on a thread of an asynchronous runtime.
fn direct_client() -> reqwest::blocking::Client {
    let make = || reqwest::blocking::Client::builder().no_proxy().timeout(EXPORT_TIMEOUT).build();
    let made = std::thread::spawn(make).join().expect("making a client does not panic");
    made.expect("a client without settings from outside can be made")
}

/// The span of one request, within the caller's trace (W3C trace context).
pub fn request_span(request: &ServiceRequest) -> Span {
    let span = tracing::info_span!(
        target: SPANS,
        "request",
        otel.name = format!("{} {}", request.method(), request.match_pattern().as_deref().unwrap_or("unmatched")),
        otel.kind = "server",
        http.request.method = request.method().as_str(),
        url.path = request.path(),
        http.response.status_code = tracing::field::Empty,
    );
    if !span.is_disabled() {
        let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.extract(&RequestHeaders(request.headers()))
        });
        // It fails if spans are not exported.
        let _ = span.set_parent(parent);
    }
    span
}

/// Puts the context of the current span into the headers of an outgoing request.
pub fn inject_context(headers: &mut reqwest::header::HeaderMap) {
    let context = Span::current().context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut OutgoingHeaders(headers));
    });
}

struct RequestHeaders<'a>(&'a actix_web::http::header::HeaderMap);

impl Extractor for RequestHeaders<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

struct OutgoingHeaders<'a>(&'a mut reqwest::header::HeaderMap);

impl Injector for OutgoingHeaders<'_> {
    fn set(&mut self, name: &str, value: String) {
        if let (Ok(name), Ok(value)) = (reqwest::header::HeaderName::try_from(name), value.try_into()) {
            self.0.insert(name, value);
        }
    }
}
