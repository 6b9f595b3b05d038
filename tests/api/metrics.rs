//! What a scrape returns, against the table of metrics.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use sandbox_broker::metrics::METRICS;
use test_support::{Broker, TestApp, eventually, send};

/// Each metric's type and labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

fn known() -> Metrics {
    let metrics = METRICS.iter().map(|metric| {
        let labels = metric.labels.iter().map(|label| label.name.to_owned()).collect();
        (metric.name.to_owned(), (metric.kind.as_str().to_owned(), labels))
    });
    metrics.collect()
}

async fn scraped(app: &TestApp) -> Metrics {
    let answer = app.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let text = answer.body.as_str().unwrap().to_owned();
    let mut metrics = Metrics::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no description");
        metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = base.filter(|base| metrics.contains_key(*base)).unwrap_or(name);
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| Some(label.split_once('=')?.0));
        metrics.get_mut(name).unwrap().1.extend(labels.filter(|label| *label != "le").map(str::to_owned));
    }
    metrics
}

#[actix_web::test]
async fn a_scrape_has_exactly_the_metrics_of_the_table() {
    let app = TestApp::start(&["--grace-period-minutes=0", "--lab-duration-hours=0.0003"]).await;
    let sandbox = app.allocate("student-1").await;
    app.allocate("student-1").await;
    app.mark_for_deletion(sandbox.sandbox_id(), "student-1").await;
    for job in ["cleanup", "auto-expire", "auto-delete-stale"] {
        assert_eq!(app.post_admin(&format!("/v1/admin/{job}")).await.status, 200);
    }
    app.allocate("student-2").await;
    eventually("the timer ends the holding", async || {
        (app.metric("broker_expiry_orphaned_total", "").await > 0.0).then_some(())
    })
    .await;
    send(app.track(Method::DELETE, "/v1/no/such/route", "student-1")).await;
    let (mut scraped, mut known) = (scraped(&app).await, known());
    let former = scraped.remove("broker_pool_total").map(|(kind, _)| kind);
    assert_eq!(former.as_deref(), Some("untyped"), "the former name of broker_pool_sandboxes");
    known.remove("broker_dynamodb_requests_limit").expect("it is absent until DynamoDB throttles");
    // These are absent until one has waited and until services were cleaned up, which other tests of this process may do.
    for name in ["broker_queue_wait_seconds", "broker_niosxaas_cleanup_duration_seconds"] {
        assert!(known.contains_key(name));
        known.retain(|known, _| known != name || scraped.contains_key(name));
    }
    let missing: Vec<_> = known.keys().filter(|name| !scraped.contains_key(*name)).collect();
    assert!(missing.is_empty(), "in the table, but not scraped: {missing:?}");
    assert_eq!(scraped, known);
}

#[actix_web::test]
async fn what_is_not_known_yet_is_absent_and_every_counter_starts_as_0() {
    let settings = [("BROKER_STORE", "memory"), ("POOL_STATS_INTERVAL_SEC", "3600"), ("CSP_SIM_SANDBOXES", "0")];
    let broker = Broker::start(&settings).await;
    let text = broker.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let starts = |start: &str| text.lines().any(|line| line.starts_with(start));
    for series in [
        "broker_allocate_total{outcome=\"none_available\"} 0",
        "broker_track_failures_total{code=\"STORE_UNAVAILABLE\"} 0",
        "broker_job_runs_total{actor=\"cleanup\",outcome=\"csp_error\"} 0",
        "broker_actor_paused{actor=\"pool-manager\"} 0",
        "broker_build_info{version=",
        "process_resident_memory_bytes ",
    ] {
        assert!(starts(series), "{series} is missing: {text}");
    }
    assert!(!starts("broker_sync_allocated_missing ") || broker.metric("broker_sync_total", "completed").await > 0.0);
    assert!(!starts("broker_dynamodb_requests_limit "), "nothing was throttled");
}

#[actix_web::test]
async fn the_capacity_that_requests_consume_is_counted() {
    let app = TestApp::start(&[]).await;
    let consumed = async |operation: &str| app.metric("broker_dynamodb_consumed_capacity_units_sum", operation).await;
    let before = consumed("TransactWriteItems").await;
    app.allocate("student-1").await;
    assert!(consumed("TransactWriteItems").await > before);
    for operation in ["Query", "GetItem", "UpdateItem"] {
        assert!(consumed(operation).await > 0.0, "{operation}");
    }
}

#[actix_web::test]
async fn a_scrape_reads_no_table() {
    let app = Broker::start(&[("BROKER_STORE", "memory")]).await;
    app.sync("").await;
    // Background jobs send requests, too. The quietest of several scrapes shows the scrape's own.
    let mut least = f64::INFINITY;
    for _ in 0..20 {
        let before = app.metric("broker_dynamodb_requests_total", "").await;
        least = least.min(app.metric("broker_dynamodb_requests_total", "").await - before);
    }
    assert_eq!(least, 0.0);
}

#[test]
fn dashboard_and_alerts_use_only_metrics_of_the_table() {
    let known = known();
    for (file, text) in [
        ("grafana-dashboard.json", include_str!("../../docs/grafana-dashboard.json")),
        ("alerts.yaml", include_str!("../../docs/alerts.yaml")),
    ] {
        let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let names = text.split(|character| !is_word(character)).filter(|word| word.starts_with("broker_"));
        let mut used = 0;
        for name in names {
            let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
            let is_known = known.contains_key(name) || base.is_some_and(|base| known.contains_key(base));
            assert!(is_known, "{file} names {name}");
            used += 1;
        }
        assert!(used > 10, "{file}");
    }
}
