//! The metrics, read from their table.

use super::table;
use crate::metrics::{Label, METRICS, Metric, Values};

const HEAD: &str = "\
# Metrics

<!-- Printed by `sandbox-broker reference metrics`. Change the metrics in src/metrics.rs, not here. -->

`GET /metrics` returns the metrics of one replica in Prometheus's text format. It needs no token and reads no table. No
label holds an id, so the number of series is bounded. All replicas report the same count of the pool
(`broker_pool_available` to `broker_pool_sandboxes`), made once a minute for all; take the `max` over replicas, not the
`sum`. All other metrics are the replica's own.

A counter starts as 0. A gauge that is not known at the start is absent until it is: before the first count there is no
`broker_pool_available`.

The replicas of one broker share the labels `cluster`, `namespace` and `job` that Prometheus adds, and differ in
`instance`. Two brokers in one Prometheus must differ in one of the three, so queries group by them:
`max by (cluster, namespace, job) (broker_pool_available)`. No metric of the broker has a label of these names. A label
that your Prometheus does not add does no harm.

`broker_pool_sandboxes` was `broker_pool_total`. The former name is still scraped; the next version drops it.

[grafana-dashboard.json](../grafana-dashboard.json) shows them, and [alerts.yaml](../alerts.yaml) alerts on them.

";

pub(super) fn page() -> String {
    HEAD.to_owned() + &table(&["metric", "type", "labels", "meaning"], METRICS.iter().map(row))
}

fn row(metric: &Metric) -> Vec<String> {
    let label = |label: &Label| format!("`{}`: {}", label.name, values(label));
    let labels = metric.labels.iter().map(label).collect::<Vec<_>>().join("<br>");
    vec![format!("`{}`", metric.name), metric.kind.as_str().to_owned(), labels, metric.meaning.to_owned()]
}

fn values(label: &Label) -> String {
    match label.values {
        Values::Known(values) => values().iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
        Values::Described(text) => text.to_owned(),
    }
}
