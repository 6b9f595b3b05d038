//! Every alert of docs/alerts.yaml at real brokers, scraped by a real Prometheus: its condition is made, and it fires for
//! the broker concerned and for no other. A broker whose operator pauses it, and that fails a request now and then, stays
//! silent throughout. Then the queries of the dashboard run on the same scrapes.
//!
//! Needs `prometheus` and `promtool` on PATH: `.ci/run alerts` installs them and runs this.

mod conditions;
mod prometheus;
mod rules;

use std::collections::BTreeSet;

use serde_json::Value;

use self::conditions::Brokers;
use self::prometheus::Prometheus;

#[actix_web::test]
#[ignore = "needs Prometheus; `.ci/run alerts` runs it"]
async fn each_condition_fires_its_alert_for_its_broker_alone() {
    let mut brokers = Brokers::start().await;
    let rules = include_str!("../../docs/alerts.yaml");
    let prometheus = Prometheus::start(&brokers.targets(), &rules::sped_up(rules)).await;
    let expected = brokers.make_conditions(&prometheus).await;

    let tested: BTreeSet<_> = expected.iter().map(|(alert, _)| (*alert).to_owned()).collect();
    assert_eq!(tested, rules::alerts(rules), "each alert needs a condition in this test");
    prometheus.assert_silent("quiet").await;
    // No alert of one broker is set off by another.
    for (alert, _) in &expected {
        let fired = prometheus.fired(alert).await;
        let meant: BTreeSet<_> = expected.iter().filter(|(name, _)| name == alert).map(|(_, job)| *job).collect();
        let stray = fired.iter().filter(|job| !meant.contains(job.as_str()) && !conditions::may_fire(alert, job));
        assert_eq!(stray.collect::<Vec<_>>(), Vec::<&String>::new(), "{alert} fired for others");
    }

    dashboard_queries_find_series(&prometheus).await;
    prometheus::check_metrics(&brokers.scrape_of("quiet").await);
}

/// Runs each query of the dashboard. A query without a series has a label or a name that no broker exports.
async fn dashboard_queries_find_series(prometheus: &Prometheus) {
    let dashboard: Value = serde_json::from_str(include_str!("../../docs/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut queries = 0;
    for target in targets {
        let query = target["expr"].as_str().unwrap();
        // The whole test, so that conditions that have ended are in it. A subquery shows what the panel would draw.
        let mut query = query.replace("$__rate_interval", "15s").replace("[5m]", "[15s]").replace("[30m]", "[15s]");
        for variable in ["$cluster", "$namespace", "$job", "$instance"] {
            query = query.replace(variable, ".*");
        }
        let drawn = prometheus.query(&format!("last_over_time(({query})[10m:1s])")).await;
        assert!(!drawn.is_empty(), "no series for {query}");
        queries += 1;
    }
    assert!(queries > 30, "only {queries} queries");
}
