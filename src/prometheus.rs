//! The metrics: all that there are, what they mean, and the recorder that Prometheus scrapes. docs/metrics.md lists the
//! same for operators; a test holds the two and a scrape against each other.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::interval;

/// Bounds of the latencies, in seconds; allocations take milliseconds.
const LATENCY_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Bounds of the jobs' durations, in seconds; they wait for the CSP.
const DURATION_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0];

/// Bounds of what one request to DynamoDB consumes, in capacity units.
const CAPACITY_BUCKETS: [f64; 9] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// How often what histograms have recorded is summed up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Every metric with its labels, and what it means.
const METRICS: &[(&str, Kind, &[&str], &str)] = &[
    ("broker_allocate_total", Counter, &["outcome"], "Allocations answered"),
    ("broker_allocate_idempotent_hits_total", Counter, &[], "Allocations answered with what the key held already"),
    ("broker_allocate_conflicts_total", Counter, &[], "Claims that met another writer"),
    ("broker_allocation_latency_seconds", Histogram, &["outcome"], "How long allocations took"),
    ("broker_allocations_in_flight", Gauge, &[], "Allocations under way"),
    ("broker_deletion_marked_total", Counter, &["outcome"], "Sandboxes given back by their owners"),
    ("broker_request_latency_seconds", Histogram, &["method", "endpoint", "status"], "How long requests took"),
    ("broker_connections", Gauge, &[], "Connections that are open"),
    ("broker_connections_cut_total", Counter, &["reason"], "Connections that were ended because of what the peer did"),
    ("broker_rate_limit_clients", Gauge, &[], "Clients whose rate is remembered"),
    ("broker_pool_available", Gauge, &[], "Sandboxes that are free"),
    ("broker_pool_allocated", Gauge, &[], "Sandboxes that are held"),
    ("broker_pool_pending_deletion", Gauge, &[], "Sandboxes that wait for their deletion"),
    ("broker_pool_stale", Gauge, &[], "Sandboxes that vanished from the CSP"),
    ("broker_pool_deletion_failed", Gauge, &[], "Sandboxes whose deletion was given up"),
    ("broker_pool_total", Gauge, &[], "Sandboxes, without tombstones"),
    ("broker_pool_cached", Gauge, &[], "Candidates in this replica's cache"),
    ("broker_pool_cache_age_seconds", Gauge, &[], "Time since the cache was refreshed"),
    ("broker_pool_refresh_failed_total", Counter, &[], "Refreshes of the cache that failed"),
    ("broker_sync_total", Counter, &["outcome"], "Runs of csp-sync"),
    ("broker_sync_duration_seconds", Histogram, &[], "How long runs of csp-sync took"),
    ("broker_sync_sandboxes_synced_total", Counter, &[], "Sandboxes in the CSP's listings"),
    ("broker_sync_sandboxes_stale_total", Counter, &[], "Sandboxes that syncs marked stale"),
    ("broker_sync_allocated_missing", Gauge, &[], "Held sandboxes that the CSP's last listing lacked"),
    ("broker_cleanup_total", Counter, &["outcome"], "Runs of cleanup"),
    ("broker_cleanup_duration_seconds", Histogram, &[], "How long runs of cleanup took"),
    ("broker_cleanup_deleted_total", Counter, &[], "Sandboxes deleted at the CSP"),
    ("broker_cleanup_failed_total", Counter, &[], "Deletions that failed"),
    ("broker_expiry_total", Counter, &["outcome"], "Holdings whose time was over"),
    ("broker_expiry_orphaned_total", Counter, &[], "Holdings that their owners did not end"),
    ("broker_expiry_timers_left_out_total", Counter, &[], "Timers beyond the limit, left to the sweep"),
    ("broker_circuit_breaker_state", Gauge, &[], "The breaker before the CSP: 0 closed, 1 half-open, 2 open"),
    ("broker_job_leader", Gauge, &["job"], "1 while this replica runs the job"),
    ("broker_job_runs_total", Counter, &["job", "outcome"], "Runs of background jobs on this replica"),
    ("broker_job_last_success_timestamp_seconds", Gauge, &["job"], "When the job last succeeded on this replica"),
    ("broker_dynamodb_requests_total", Counter, &["operation"], "Requests to DynamoDB, repetitions too"),
    ("broker_dynamodb_consumed_capacity_units", Histogram, &["operation"], "What requests to DynamoDB consumed"),
    ("broker_unreadable_items_total", Counter, &[], "Table items that could not be read and were left out"),
];

/// The process's metrics. Several brokers in one process, as tests run them, share one recorder.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let buckets = [
            (Matcher::Suffix("_latency_seconds".to_owned()), &LATENCY_BUCKETS[..]),
            (Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS),
            (Matcher::Suffix("_capacity_units".to_owned()), &CAPACITY_BUCKETS),
        ];
        let builder = buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (names, bounds)| {
            builder.set_buckets_for_metric(names, bounds).expect("the buckets are not empty")
        });
        let handle = builder.install_recorder().expect("nothing else in this program installs a recorder");
        METRICS.iter().for_each(describe);
        handle
    })
}

/// Sums up what histograms have recorded, again and again: until then, or until a scrape, they keep every single value
/// (I8).
pub async fn upkeep() {
    let mut ticks = interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        recorder().run_upkeep();
    }
}

/// Says what a metric means; one without labels is there from the start, as zero, so that rates and alerts see the
/// first event.
fn describe(&(name, kind, labels, meaning): &(&'static str, Kind, &[&str], &'static str)) {
    match kind {
        Counter => metrics::describe_counter!(name, Unit::Count, meaning),
        Gauge => metrics::describe_gauge!(name, meaning),
        Histogram => metrics::describe_histogram!(name, meaning),
    }
    if labels.is_empty() {
        match kind {
            Counter => metrics::counter!(name).absolute(0),
            Gauge => metrics::gauge!(name).set(0.0),
            Histogram => {}
        }
    }
}
