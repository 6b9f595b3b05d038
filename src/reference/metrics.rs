//! The metrics, read from their table.

use super::table;
use crate::metrics::{Label, METRICS, Metric};

const HEAD: &str = "\
# Metrics

<!-- Printed by `sandbox-broker reference metrics`. Change the metrics in src/metrics.rs, not here. -->

`GET /metrics` returns the metrics of one replica in Prometheus's text format. It needs no token and reads no table. No
label holds an id, so the number of series is bounded. Every replica counts the sandboxes of the pool once a minute
(`broker_pool_available` to `broker_pool_total`); take the `max` over replicas, not the `sum`. All other metrics are the
replica's own.

[grafana-dashboard.json](../grafana-dashboard.json) shows them, and [alerts.yaml](../alerts.yaml) alerts on them.

";

pub(super) fn page() -> String {
    HEAD.to_owned() + &table(&["metric", "type", "labels", "meaning"], METRICS.iter().map(row))
}

fn row(metric: &Metric) -> Vec<String> {
    let label = |label: &Label| format!("`{}`: {}", label.name, label.values);
    let labels = metric.labels.iter().map(label).collect::<Vec<_>>().join("<br>");
    vec![format!("`{}`", metric.name), metric.kind.as_str().to_owned(), labels, metric.meaning.to_owned()]
}
