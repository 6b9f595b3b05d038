//! A Prometheus on loopback, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use test_support::{Process, eventually};
use url::Url;

/// One series of an answer: its labels and its value.
pub(crate) struct Series {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

pub(crate) struct Prometheus {
    url: String,
    http: reqwest::Client,
    _process: Process,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes each target under its job's name, and evaluates these rules, several times a second.
    pub(crate) async fn start(targets: &[(&str, SocketAddr)], rules: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let jobs = targets
            .iter()
            .map(|(job, address)| format!("  - job_name: {job}\n    static_configs: [{{ targets: ['{address}'] }}]\n"));
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [rules.yaml]\nscrape_configs:\n{}",
            jobs.collect::<String>()
        );
        std::fs::write(path("prometheus.yaml"), config).unwrap();
        std::fs::write(path("rules.yaml"), rules).unwrap();
        // Prometheus does not say which port it got, so it is given one that is free.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null());
        let process = Process::spawn(&mut command, &path("log"));
        let prometheus = Self {
            url: format!("http://{address}"),
            http: reqwest::Client::new(),
            _process: process,
            _directory: directory,
        };
        eventually("Prometheus is ready", async || {
            let answer = prometheus.http.get(format!("{}/-/ready", prometheus.url)).send().await;
            answer.ok().filter(|answer| answer.status() == 200).map(|_| ())
        })
        .await;
        for (job, _) in targets {
            prometheus.holds(&format!("up{{job=\"{job}\"}} == 1")).await;
        }
        prometheus
    }

    /// The series that a query returns now.
    pub(crate) async fn query(&self, query: &str) -> Vec<Series> {
        let url = Url::parse_with_params(&format!("{}/api/v1/query", self.url), [("query", query)]).unwrap();
        let answer: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap().iter();
        let series = series.map(|series| Series {
            labels: serde_json::from_value(series["metric"].clone()).unwrap(),
            value: series["value"][1].as_str().unwrap().parse().unwrap(),
        });
        series.collect()
    }

    /// Waits until a query returns anything.
    pub(crate) async fn holds(&self, query: &str) {
        let condition = format!("{query} holds");
        eventually(&condition, async || (!self.query(query).await.is_empty()).then_some(())).await;
    }

    /// Waits until an alert fires for this job.
    pub(crate) async fn fires(&self, alert: &str, job: &str) {
        let condition = format!("{alert} fires for {job}");
        eventually(&condition, async || self.is_firing(alert, job).await.then_some(())).await;
    }

    /// Whether an alert fires for this job now.
    pub(crate) async fn is_firing(&self, alert: &str, job: &str) -> bool {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", job=\"{job}\"}}");
        !self.query(&firing).await.is_empty()
    }

    /// The jobs for which an alert has fired so far.
    pub(crate) async fn fired(&self, alert: &str) -> BTreeSet<String> {
        let query = format!("count_over_time(ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}[1h])");
        let series = self.query(&query).await;
        series.into_iter().map(|mut series| series.labels.remove("job").unwrap_or_default()).collect()
    }

    /// Asserts that no alert has fired for this job so far.
    pub(crate) async fn assert_silent(&self, job: &str) {
        let fired = self.query(&format!("count_over_time(ALERTS{{alertstate=\"firing\", job=\"{job}\"}}[1h])")).await;
        let fired: Vec<_> = fired.iter().map(|series| (&series.labels, series.value)).collect();
        assert!(fired.is_empty(), "{job} is healthy: {fired:?}");
    }

    /// Waits until the rules have been evaluated this many times more.
    pub(crate) async fn evaluations(&self, count: u32) {
        let evaluations = "prometheus_rule_evaluations_total";
        let now = async || {
            let text = self.http.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap();
            let line = text.lines().find(|line| line.starts_with(evaluations)).unwrap_or("0").to_owned();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        let rules =
            f64::from(u32::try_from(crate::rules::alerts(include_str!("../../docs/alerts.yaml")).len()).unwrap());
        let target = now().await + rules * f64::from(count);
        eventually("the rules are evaluated", async || (now().await >= target).then_some(())).await;
    }
}

/// Asserts that `promtool check metrics` has nothing to say about a scrape.
pub(crate) fn check_metrics(scrape: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
