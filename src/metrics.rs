//! The metrics: one table of all of them, and the recorder that Prometheus scrapes.
//!
//! The table describes each metric to the recorder, sets its buckets, and is printed by
//! `sandbox-broker reference metrics`. The code that measures uses the names.

use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::interval;

/// Bounds of latencies in seconds. Allocations take milliseconds.
const LATENCY: &[f64] = &[0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Bounds of the durations of jobs in seconds. Jobs wait for the CSP.
const DURATION: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0];

/// Bounds of the capacity units that one request to DynamoDB consumes.
const CAPACITY: &[f64] = &[0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// How often the recorder compacts the values of histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it counts or measures.
    pub meaning: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A histogram with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Its name in Prometheus's text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label. Its values are bounded: never an id.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values, as Markdown.
    pub values: &'static str,
}

const fn label(name: &'static str, values: &'static str) -> Label {
    Label { name, values }
}

const fn counter(name: &'static str, labels: &'static [Label], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, meaning }
}

const fn gauge(name: &'static str, labels: &'static [Label], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, meaning }
}

const fn histogram(
    name: &'static str,
    bounds: &'static [f64],
    labels: &'static [Label],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(bounds), labels, meaning }
}

const ALLOCATION: Label = label(
    "outcome",
    "`allocated`, `replayed`, `none_available`, `not_owner`, `quota_exceeded`, `paused`, `overloaded`, `timed_out`, \
     `not_read_in_full`, `stopping`, `store_error`, `waiting`, `queue_full`, `withdrawn`, `too_long`",
);
const WAIT: Label = label("outcome", "`allocated`; `waiting`: told to ask again; `ended`: anything else");
const RELEASE: Label = label("outcome", "`ok`, `error`");
const NIOSXAAS: Label = label("outcome", "`cleaned`, `reported` (shadow mode), `failed`");
const AUTH: Label = label("outcome", "`ok`, `error`");
const EXPIRY: Label = label("outcome", "`expired`, `superseded`, `error`");
const RUN: Label = label(
    "outcome",
    "`completed`, `paused`, `busy`, `lease_lost`, `cut_off`, `refused`, `panicked`, `stopping`, `breaker_open`, \
     `silenced`, `csp_error`, `store_error`",
);
const JOB: Label = label("job", "`csp-sync`, `expiry-reaper`, `cleanup`, `stale-collector`");
const METHOD: Label = label("method", "the HTTP method");
const ENDPOINT: Label = label("endpoint", "the path of the endpoint, or `unmatched`");
const STATUS: Label = label("status", "the HTTP status");
const CUT: Label =
    label("reason", "`too_many`, `slow_head`, `large_head`, `malformed`, `slow_body`, `idle`, `not_reading`");
const TOKEN: Label =
    label("token", "the name of a token: `default`, `admin`, `viewer`, or of an entry of `BROKER_TRACK_TOKENS`");
const TOKEN_OUTCOME: Label = label("outcome", "`ok`, `forbidden`, `limited`, `refused`, `failed`");
const OPERATION: Label = label("operation", "the name of the DynamoDB operation, such as `TransactWriteItems`");

/// All metrics.
pub const METRICS: &[Metric] = &[
    counter("broker_allocate_total", &[ALLOCATION], "Answered allocations"),
    counter("broker_allocate_idempotent_hits_total", &[], "Allocations answered with the sandbox that the key held"),
    counter("broker_allocate_conflicts_total", &[], "Claims that lost their candidate to another writer"),
    histogram("broker_allocation_latency_seconds", LATENCY, &[ALLOCATION], "Latency of allocations"),
    gauge("broker_queue_waiting", &[], "Keys that wait for a sandbox on this replica"),
    histogram("broker_queue_wait_seconds", DURATION, &[WAIT], "Time that requests waited in the queue"),
    counter("broker_queue_overtakes_total", &[], "Allocations past the queue before this replica knew of it, at most"),
    gauge("broker_allocations_in_flight", &[], "Allocations in flight"),
    counter("broker_deletion_marked_total", &[RELEASE], "Releases by owners"),
    histogram("broker_request_latency_seconds", LATENCY, &[METHOD, ENDPOINT, STATUS], "Latency of HTTP requests"),
    counter("broker_log_lines_dropped_total", &[], "Log lines dropped because standard output was not read"),
    gauge("broker_connections", &[], "Open connections"),
    counter("broker_connections_cut_total", &[CUT], "Connections closed because of what the peer did"),
    counter("broker_token_requests_total", &[TOKEN, TOKEN_OUTCOME], "HTTP requests with a known token"),
    gauge("broker_rate_limit_clients", &[], "Clients with a remembered request rate"),
    gauge("broker_pool_available", &[], "Available sandboxes"),
    gauge("broker_pool_allocated", &[], "Allocated sandboxes"),
    gauge("broker_pool_pending_deletion", &[], "Sandboxes that wait for their deletion"),
    gauge("broker_pool_stale", &[], "Sandboxes that are missing from the CSP's listing"),
    gauge("broker_pool_deletion_failed", &[], "Sandboxes whose deletion was given up"),
    gauge("broker_pool_warming", &[], "Available sandboxes that are not old enough to be allocated"),
    gauge("broker_pool_quarantined", &[], "Sandboxes that an operator has set aside"),
    gauge("broker_pool_total", &[], "All sandboxes, without tombstones"),
    gauge("broker_pool_cached", &[], "Candidates in the cache of this replica"),
    gauge("broker_pool_cache_age_seconds", &[], "Time since the last refresh of the cache"),
    counter("broker_pool_refresh_failed_total", &[], "Failed refreshes of the cache"),
    counter("broker_sync_total", &[RUN], "Runs of csp-sync"),
    histogram("broker_sync_duration_seconds", DURATION, &[], "Duration of the runs of csp-sync"),
    counter("broker_sync_sandboxes_synced_total", &[], "Sandboxes in the CSP's listings"),
    counter("broker_sync_sandboxes_stale_total", &[], "Sandboxes that syncs marked stale"),
    gauge("broker_sync_allocated_missing", &[], "Allocated sandboxes that the CSP's last listing did not have"),
    gauge("broker_sync_undead", &[], "Deleted sandboxes that the CSP's last listing still had"),
    gauge("broker_sync_duplicates", &[], "Records of the last listing whose account has another id too"),
    gauge("broker_sync_skipped", &[], "Records of the last listing that could not be read"),
    gauge("broker_sync_incomplete", &[], "1 if the last listing was incomplete"),
    counter("broker_cleanup_total", &[RUN], "Runs of cleanup"),
    histogram("broker_cleanup_duration_seconds", DURATION, &[], "Duration of the runs of cleanup"),
    counter("broker_cleanup_deleted_total", &[], "Sandboxes deleted at the CSP"),
    counter("broker_cleanup_failed_total", &[], "Failed deletions"),
    counter("broker_cleanup_configuration_errors_total", &[], "Runs of cleanup whose answers point to a wrong setting"),
    counter("broker_niosxaas_cleanup_total", &[NIOSXAAS], "Sandboxes whose NIOSXaaS services were looked at"),
    counter("broker_niosxaas_services_deleted_total", &[], "NIOSXaaS services deleted"),
    counter("broker_niosxaas_auth_total", &[AUTH], "Sign-ins to NIOSXaaS"),
    histogram("broker_niosxaas_cleanup_duration_seconds", DURATION, &[], "Time for the services of one sandbox"),
    counter("broker_expiry_total", &[EXPIRY], "Overdue holdings"),
    counter("broker_expiry_orphaned_total", &[], "Holdings that expired because their owners did not release them"),
    counter("broker_expiry_timers_left_out_total", &[], "Holdings beyond the limit of timers, left to the sweep"),
    gauge("broker_circuit_breaker_state", &[], "Circuit breaker in front of the CSP: 0 closed, 1 half-open, 2 open"),
    gauge("broker_job_leader", &[JOB], "1 while this replica runs the job"),
    counter("broker_job_runs_total", &[JOB, RUN], "Runs of background jobs on this replica"),
    gauge("broker_job_last_success_timestamp_seconds", &[JOB], "Unix time of the job's last success on this replica"),
    counter("broker_dynamodb_requests_total", &[OPERATION], "Requests to DynamoDB, including retries"),
    histogram(
        "broker_dynamodb_consumed_capacity_units",
        CAPACITY,
        &[OPERATION],
        "Capacity units that requests to DynamoDB consumed",
    ),
    counter("broker_unreadable_items_total", &[], "Table items that could not be read and were skipped"),
];

/// The recorder of this process. Brokers that share a process, as in tests, share the recorder.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = METRICS.iter().fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
            Kind::Histogram(bounds) => builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
                .expect("the buckets are not empty"),
            Kind::Counter | Kind::Gauge => builder,
        });
        let handle = builder.install_recorder().expect("the program installs no other recorder");
        METRICS.iter().for_each(register);
        handle
    })
}

/// Compacts the values of histograms at an interval. Without it they are kept one by one until the next scrape (I8).
pub async fn upkeep() {
    let mut ticks = interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        recorder().run_upkeep();
    }
}

/// Describes a metric. One without labels starts as zero, so that rates and alerts see the first event.
fn register(metric: &Metric) {
    let Metric { name, kind, labels, meaning } = *metric;
    match kind {
        Kind::Counter => ::metrics::describe_counter!(name, Unit::Count, meaning),
        Kind::Gauge => ::metrics::describe_gauge!(name, meaning),
        Kind::Histogram(_) => ::metrics::describe_histogram!(name, meaning),
    }
    match kind {
        Kind::Counter if labels.is_empty() => ::metrics::counter!(name).absolute(0),
        Kind::Gauge if labels.is_empty() => ::metrics::gauge!(name).set(0.0),
        _ => {}
    }
}
