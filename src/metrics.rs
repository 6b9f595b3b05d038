//! The metrics: one table of all of them, and the recorder that Prometheus scrapes.
//!
//! The table describes each metric to the recorder, sets its buckets, and is printed by
//! `sandbox-broker reference metrics`. The code that measures uses the names.

use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{Label as Series, Unit};
use broker_actors::actor::ActorName;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tokio::time::interval;

use crate::http::error::ErrorCode;

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
    /// Whether it has a value from the start. A gauge that is not known at the start is absent, because 0 would be wrong.
    starts: Starts,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it counts or measures.
    pub meaning: &'static str,
}

/// When a metric gets its first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starts {
    /// At the start, as 0 in every series that its labels allow, so that rates and alerts see the first event.
    AsZero,
    /// When it is measured.
    Measured,
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
    /// Its values.
    pub values: Values,
}

/// The values of a label.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// These.
    Known(fn() -> Vec<&'static str>),
    /// Those that this text describes.
    Described(&'static str),
}

const fn known(name: &'static str, values: fn() -> Vec<&'static str>) -> Label {
    Label { name, values: Values::Known(values) }
}

const fn described(name: &'static str, values: &'static str) -> Label {
    Label { name, values: Values::Described(values) }
}

const fn counter(name: &'static str, labels: &'static [Label], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, starts: Starts::AsZero, labels, meaning }
}

const fn gauge(name: &'static str, labels: &'static [Label], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, starts: Starts::AsZero, labels, meaning }
}

/// A gauge that is absent until it is measured.
const fn measured(name: &'static str, labels: &'static [Label], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, starts: Starts::Measured, labels, meaning }
}

const fn histogram(
    name: &'static str,
    bounds: &'static [f64],
    labels: &'static [Label],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(bounds), starts: Starts::Measured, labels, meaning }
}

const ALLOCATION: Label = known("outcome", || {
    vec![
        "allocated",
        "replayed",
        "none_available",
        "not_owner",
        "quota_exceeded",
        "paused",
        "overloaded",
        "timed_out",
        "not_read_in_full",
        "stopping",
        "store_error",
        "waiting",
        "queue_full",
        "withdrawn",
        "too_long",
    ]
});
/// `waiting` is told to ask again.
const WAIT: Label = known("outcome", || vec!["allocated", "waiting", "ended"]);
const RELEASE: Label = known("outcome", || vec!["ok", "error"]);
/// `reported` is the outcome in shadow mode.
const NIOSXAAS: Label = known("outcome", || vec!["cleaned", "reported", "failed"]);
const AUTH: Label = known("outcome", || vec!["ok", "error"]);
const EXPIRY: Label = known("outcome", || vec!["expired", "superseded", "error"]);
const RUN: Label = known("outcome", || {
    vec![
        "completed",
        "paused",
        "busy",
        "lease_lost",
        "cut_off",
        "refused",
        "panicked",
        "stopping",
        "breaker_open",
        "silenced",
        "csp_error",
        "store_error",
    ]
});
const ACTOR: Label = known("actor", || ActorName::ALL.iter().map(|actor| actor.as_str()).collect());
const JOB: Label = known("actor", || {
    let jobs = ActorName::ALL.iter().filter(|actor| **actor != ActorName::PoolManager);
    jobs.map(|actor| actor.as_str()).collect()
});
const METHOD: Label = described("method", "the HTTP method");
const ENDPOINT: Label = described("endpoint", "the path of the endpoint, or `unmatched`");
const STATUS: Label = described("status", "the HTTP status");
const FAILURE: Label = known("code", || {
    let failures = ErrorCode::ALL.iter().filter(|code| code.status().is_server_error());
    failures.map(|code| code.as_str()).collect()
});
const CUT: Label =
    known("reason", || vec!["too_many", "slow_head", "large_head", "malformed", "slow_body", "idle", "not_reading"]);
const TOKEN: Label =
    described("token", "the name of a token: `default`, `admin`, `viewer`, or of an entry of `BROKER_TRACK_TOKENS`");
const TOKEN_OUTCOME: Label = known("outcome", || vec!["ok", "forbidden", "limited", "refused", "failed"]);
const OPERATION: Label = described("operation", "the name of the DynamoDB operation, such as `TransactWriteItems`");
const VERSION: Label = described("version", "the version of the program");

/// All metrics.
pub const METRICS: &[Metric] = &[
    counter("broker_allocate_total", &[ALLOCATION], "Answered allocations"),
    counter("broker_allocate_idempotent_hits_total", &[], "Allocations answered with the sandbox that the key held"),
    counter("broker_allocate_conflicts_total", &[], "Claims that lost their candidate to another writer"),
    histogram(
        "broker_allocation_latency_seconds",
        LATENCY,
        &[ALLOCATION],
        "Latency of allocations, but for those that got their sandbox in the queue",
    ),
    gauge("broker_queue_waiting", &[], "Keys that wait for a sandbox on this replica"),
    histogram("broker_queue_wait_seconds", DURATION, &[WAIT], "Time that requests waited in the queue"),
    counter("broker_queue_overtakes_total", &[], "Allocations past the queue before this replica knew of it, at most"),
    gauge("broker_allocations_in_flight", &[], "Allocations in flight"),
    counter("broker_deletion_marked_total", &[RELEASE], "Releases by owners"),
    counter("broker_track_failures_total", &[FAILURE], "Answers to tracks with a status of 5xx"),
    histogram("broker_request_latency_seconds", LATENCY, &[METHOD, ENDPOINT, STATUS], "Latency of HTTP requests"),
    counter("broker_log_lines_dropped_total", &[], "Log lines dropped because standard output was not read"),
    gauge("broker_connections", &[], "Open connections"),
    counter("broker_connections_cut_total", &[CUT], "Connections closed because of what the peer did"),
    counter("broker_token_requests_total", &[TOKEN, TOKEN_OUTCOME], "HTTP requests with a known token"),
    gauge("broker_rate_limit_clients", &[], "Clients with a remembered request rate"),
    measured("broker_pool_available", &[], "Available sandboxes"),
    measured("broker_pool_allocated", &[], "Allocated sandboxes"),
    measured("broker_pool_standby", &[], "Allocated sandboxes that wait for their learner"),
    measured("broker_pool_pending_deletion", &[], "Sandboxes that wait for their deletion"),
    measured("broker_pool_stale", &[], "Sandboxes that are missing from the CSP's listing"),
    measured("broker_pool_deletion_failed", &[], "Sandboxes whose deletion was given up"),
    measured("broker_pool_warming", &[], "Available sandboxes that are not old enough to be allocated"),
    measured("broker_pool_quarantined", &[], "Sandboxes that an operator has set aside"),
    measured("broker_pool_sandboxes", &[], "All sandboxes, without tombstones"),
    gauge("broker_pool_cached", &[], "Candidates in the cache of this replica"),
    measured("broker_pool_cache_age_seconds", &[], "Time since the last refresh of the cache"),
    counter("broker_pool_refresh_failed_total", &[], "Failed refreshes of the cache"),
    counter("broker_sync_total", &[RUN], "Runs of csp-sync"),
    histogram("broker_sync_duration_seconds", DURATION, &[], "Duration of the runs of csp-sync"),
    counter("broker_sync_sandboxes_synced_total", &[], "Sandboxes in the CSP's listings"),
    counter("broker_sync_sandboxes_stale_total", &[], "Sandboxes that syncs marked stale"),
    measured("broker_sync_allocated_missing", &[], "Allocated sandboxes that the CSP's last listing did not have"),
    measured("broker_sync_undead", &[], "Deleted sandboxes that the CSP's last listing still had"),
    measured("broker_sync_duplicates", &[], "Records of the last listing whose account has another id too"),
    measured("broker_sync_skipped", &[], "Records of the last listing that could not be read"),
    measured("broker_sync_incomplete", &[], "1 if the last listing was incomplete"),
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
    gauge("broker_actor_paused", &[ACTOR], "1 while operators have paused the actor"),
    gauge("broker_job_leader", &[JOB], "1 if this replica runs the job or ran it last"),
    counter("broker_job_runs_total", &[JOB, RUN], "Runs of background jobs on this replica"),
    gauge(
        "broker_job_last_success_timestamp_seconds",
        &[JOB],
        "Unix time of the job's last success, as far as this replica knows; 0 before the first",
    ),
    gauge("broker_job_interval_seconds", &[JOB], "The time from one run of the job to the next"),
    counter("broker_dynamodb_requests_total", &[OPERATION], "Requests to DynamoDB, including retries"),
    histogram(
        "broker_dynamodb_consumed_capacity_units",
        CAPACITY,
        &[OPERATION],
        "Capacity units that requests to DynamoDB consumed",
    ),
    measured(
        "broker_dynamodb_requests_limit",
        &[],
        "Concurrent requests to DynamoDB that are allowed; absent until DynamoDB throttles",
    ),
    counter("broker_unreadable_items_total", &[], "Table items that could not be read and were skipped"),
    measured("broker_build_info", &[VERSION], "Always 1; its label names the program that runs"),
    counter("process_cpu_seconds_total", &[], "Processor time that the process used"),
    measured("process_start_time_seconds", &[], "Unix time at which the process started"),
    measured("process_resident_memory_bytes", &[], "Resident memory of the process"),
    measured("process_virtual_memory_bytes", &[], "Virtual memory of the process"),
    measured("process_virtual_memory_max_bytes", &[], "The limit of virtual memory"),
    measured("process_open_fds", &[], "Open file descriptors"),
    measured("process_max_fds", &[], "The limit of open file descriptors"),
    measured("process_threads", &[], "Threads of the process"),
];

/// The former name of a metric, which is scraped beside the new one for a version.
struct FormerName {
    former: &'static str,
    current: &'static str,
}

/// A gauge must not end in `_total`, so its former name has no type.
const FORMER_NAMES: &[FormerName] = &[FormerName { former: "broker_pool_total", current: "broker_pool_sandboxes" }];

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
        ::metrics::gauge!("broker_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        handle
    })
}

/// What a scrape returns, in Prometheus's text format.
pub fn scrape() -> String {
    Collector::default().collect();
    let mut text = recorder().render();
    for FormerName { former, current } in FORMER_NAMES {
        let start = format!("{current} ");
        if let Some(value) = text.lines().find_map(|line| line.strip_prefix(&start)) {
            let help = format!("# HELP {former} Former name of {current}\n# TYPE {former} untyped\n");
            text = format!("{text}{help}{former} {value}\n");
        }
    }
    text
}

/// Compacts the values of histograms at an interval. Without it they are kept one by one until the next scrape (I8).
pub async fn upkeep() {
    let mut ticks = interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        recorder().run_upkeep();
    }
}

/// Describes a metric, and starts its series.
fn register(metric: &Metric) {
    let Metric { name, kind, starts, meaning, .. } = *metric;
    match kind {
        Kind::Counter => ::metrics::describe_counter!(name, Unit::Count, meaning),
        Kind::Gauge => ::metrics::describe_gauge!(name, meaning),
        Kind::Histogram(_) => ::metrics::describe_histogram!(name, meaning),
    }
    if starts == Starts::Measured {
        return;
    }
    for labels in metric.known_series() {
        match kind {
            Kind::Counter => ::metrics::counter!(name, labels).absolute(0),
            Kind::Gauge => ::metrics::gauge!(name, labels).set(0.0),
            Kind::Histogram(_) => {}
        }
    }
}

impl Metric {
    /// The labels of every series, if all values of all labels are known; else none.
    fn known_series(&self) -> Vec<Vec<Series>> {
        self.labels.iter().fold(vec![Vec::new()], |series, label| {
            let values = match label.values {
                Values::Known(values) => values(),
                Values::Described(_) => Vec::new(),
            };
            let with_value = |labels: &Vec<Series>| {
                let with = |value| [&labels[..], &[Series::new(label.name, value)]].concat();
                values.iter().copied().map(with).collect::<Vec<_>>()
            };
            series.iter().flat_map(with_value).collect()
        })
    }
}
