//! The brokers, and what makes each alert fire at one of them.

use std::net::SocketAddr;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use test_support::metering::{Fault, FaultRule, Limits, MeteringServer, MeteringSettings};
use test_support::{Broker, CspSim, DynamoServer, eventually, send};

use crate::prometheus::Prometheus;

/// Each is a job of its own in Prometheus.
pub(crate) struct Brokers {
    /// Works, is paused for a while, and fails two requests.
    quiet: Broker,
    /// Stops.
    gone: Broker,
    /// Has few sandboxes.
    small: Broker,
    /// Has enough sandboxes, until they are used up.
    draining: Broker,
    /// Its table answers only half of the allocations at once.
    slow: Broker,
    slow_table: MeteringServer,
    /// Its table fails.
    broken: Broker,
    broken_table: MeteringServer,
    /// Its CSP loses an account, then fails.
    csp_down: Broker,
    csp: CspSim,
    /// Its CSP rejects its token from the start.
    denied: Broker,
    _denying_csp: CspSim,
}

/// The consequences that a condition has beside its own alert.
pub(crate) fn may_fire(alert: &str, job: &str) -> bool {
    match job {
        // Before the first scrape no broker is known.
        "" => alert == "BrokerDown",
        "small" => alert == "BrokerPoolLow",
        "slow" => ["BrokerErrors", "BrokerPoolEmpty", "BrokerPoolEmptySoon"].contains(&alert),
        "broken" => alert == "BrokerJobFailing",
        "csp_down" => ["BrokerJobFailing", "BrokerJobOverdue", "BrokerPoolEmptySoon"].contains(&alert),
        "denied" => ["BrokerPoolEmpty", "BrokerJobOverdue"].contains(&alert),
        _ => false,
    }
}

impl Brokers {
    pub(crate) async fn start() -> Self {
        let memory = async |settings: &[(&str, &str)]| {
            let fixed = [("BROKER_STORE", "memory"), ("POOL_STATS_INTERVAL_SEC", "1"), ("CONTROL_POLL_SEC", "1")];
            Broker::start(&[&fixed, settings].concat()).await
        };
        let (slow_table, broken_table) = (table().await, table().await);
        let csp = CspSim::start(100).await;
        let denying_csp = CspSim::start(1).await;
        let mut denied_settings = denying_csp.settings();
        denied_settings[2].1 = "another-token";
        Self {
            quiet: memory(&[]).await,
            gone: memory(&[]).await,
            small: memory(&[("CSP_SIM_SANDBOXES", "3")]).await,
            draining: memory(&[("CSP_SIM_SANDBOXES", "60")]).await,
            slow: on_table(&slow_table, &[("MAX_IN_FLIGHT", "2"), ("POOL_REFRESH_INTERVAL_SEC", "1")]).await,
            slow_table,
            broken: on_table(&broken_table, &[("POOL_STATS_INTERVAL_SEC", "1")]).await,
            broken_table,
            csp_down: memory(
                &[&csp.settings()[..], &[("DELETION_RETRY_MAX_ATTEMPTS", "1"), ("CIRCUIT_BREAKER_TIMEOUT_SEC", "600")]]
                    .concat(),
            )
            .await,
            csp,
            denied: Broker::start(&[&[("BROKER_STORE", "memory")], &denied_settings[..]].concat()).await,
            _denying_csp: denying_csp,
        }
    }

    /// The jobs and their addresses.
    pub(crate) fn targets(&self) -> Vec<(&'static str, SocketAddr)> {
        let brokers = self.all().into_iter();
        brokers.map(|(job, broker)| (job, broker.address)).collect()
    }

    fn all(&self) -> [(&'static str, &Broker); 8] {
        [
            ("quiet", &self.quiet),
            ("gone", &self.gone),
            ("small", &self.small),
            ("draining", &self.draining),
            ("slow", &self.slow),
            ("broken", &self.broken),
            ("csp_down", &self.csp_down),
            ("denied", &self.denied),
        ]
    }

    /// What this broker exports.
    pub(crate) async fn scrape_of(&self, job: &str) -> String {
        let (_, broker) = self.all().into_iter().find(|(name, _)| *name == job).unwrap();
        broker.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// Makes each condition and waits for its alert. Returns the alerts with the jobs that they fire for.
    pub(crate) async fn make_conditions(&mut self, prometheus: &Prometheus) -> Vec<(&'static str, &'static str)> {
        for (job, broker) in self.all() {
            if job != "denied" {
                assert_eq!(broker.sync("").await.status, 200);
            }
        }
        pause(&self.small, "stale-collector").await;
        self.quiet_troubles(prometheus).await;
        let mut expected = vec![("BrokerPauseForgotten", "small")];
        expected.extend(self.pool_runs_out(prometheus).await);
        expected.extend(self.table_is_slow(prometheus).await);
        expected.extend(self.table_fails(prometheus).await);
        expected.extend(self.csp_fails(prometheus).await);
        prometheus.fires("BrokerPauseForgotten", "small").await;
        self.gone.process.kill();
        prometheus.fires("BrokerDown", "gone").await;
        expected.push(("BrokerDown", "gone"));
        expected
    }

    /// A planned pause, rejected scripts of operators, and two allocations that ask for a prefix that does not exist.
    async fn quiet_troubles(&self, prometheus: &Prometheus) {
        let quiet = &self.quiet;
        for actor in ["pool-manager", "cleanup", "csp-sync"] {
            pause(quiet, actor).await;
        }
        eventually("the pause is scraped", async || {
            (quiet.metric("broker_actor_paused", "pool-manager").await == 1.0).then_some(())
        })
        .await;
        for track in ["one", "two"] {
            assert_eq!(quiet.allocate(track).await.status, 503);
        }
        for _ in 0..30 {
            assert_eq!(quiet.post_admin("/v1/admin/actors/cleanup/run").await.status, 409);
        }
        prometheus.evaluations(6).await;
        for actor in ["pool-manager", "cleanup", "csp-sync"] {
            assert_eq!(quiet.post_admin(&format!("/v1/admin/actors/{actor}/resume")).await.status, 200);
        }
        assert_eq!(quiet.sync("").await.status, 200);
        for track in ["one", "two"] {
            assert_eq!(allocate_prefixed(quiet, track, "missing").await, 409);
        }
    }

    async fn pool_runs_out(&self, prometheus: &Prometheus) -> Vec<(&'static str, &'static str)> {
        for track in 0..3 {
            assert_eq!(self.small.allocate(&format!("small-{track}")).await.status, 201);
        }
        prometheus.fires("BrokerPoolEmpty", "small").await;
        let waits = self.small.track(Method::POST, "/v1/allocate", "small-waits").header("Prefer", "wait=50");
        tokio::select! {
            answer = send(waits) => panic!("{answer:?}"),
            _ = prometheus.fires("BrokerQueueStands", "small") => {}
        }

        let draining = &self.draining;
        for track in 0..15 {
            assert_eq!(allocate_prefixed(draining, &format!("prefix-{track}"), "missing").await, 409);
        }
        prometheus.fires("BrokerLabsStarve", "draining").await;

        // One after the other, so that the count falls from scrape to scrape.
        let mut held = 0;
        while held < 50 && !prometheus.is_firing("BrokerPoolEmptySoon", "draining").await {
            assert_eq!(draining.allocate(&format!("draining-{held}")).await.status, 201);
            held += 1;
            prometheus.evaluations(1).await;
        }
        prometheus.fires("BrokerPoolEmptySoon", "draining").await;
        for track in held..57 {
            assert_eq!(draining.allocate(&format!("draining-{track}")).await.status, 201);
        }
        prometheus.fires("BrokerPoolLow", "draining").await;
        vec![
            ("BrokerPoolEmpty", "small"),
            ("BrokerQueueStands", "small"),
            ("BrokerLabsStarve", "draining"),
            ("BrokerPoolEmptySoon", "draining"),
            ("BrokerPoolLow", "draining"),
        ]
    }

    async fn table_is_slow(&self, prometheus: &Prometheus) -> Vec<(&'static str, &'static str)> {
        // A claim that gets no answer is tried again after a second.
        let engine = self.slow_table.engine();
        engine.add_fault(FaultRule::before(Fault::Silent).on(&["TransactWriteItems"]).share(0.5));
        let mut round = 0;
        while !(prometheus.is_firing("BrokerSlowAllocations", "slow").await
            && prometheus.is_firing("BrokerSaturated", "slow").await)
        {
            let tracks: Vec<_> = (0..12).map(|track| format!("slow-{round}-{track}")).collect();
            join_all(tracks.iter().map(|track| self.slow.allocate(track))).await;
            round += 1;
            assert!(round < 60, "allocations are slow and rejected, and no alert fires");
        }
        engine.clear_faults();

        let item = [("PK", "SBX#bad"), ("SK", "META"), ("status_shard", "available#00")];
        let item = item.map(|(name, value)| (name, AttributeValue::S(value.to_owned())));
        let client = DynamoServer { url: self.slow_table.url() }.client();
        let mut put = client.put_item().table_name("sandbox-broker-pool");
        // Refreshes read what became available since the last one.
        put = put.item("shard_at", AttributeValue::N("9999999999".to_owned()));
        for (name, value) in item {
            put = put.item(name, value);
        }
        put.send().await.unwrap();
        prometheus.fires("BrokerUnreadableItems", "slow").await;
        vec![("BrokerSlowAllocations", "slow"), ("BrokerSaturated", "slow"), ("BrokerUnreadableItems", "slow")]
    }

    async fn table_fails(&self, prometheus: &Prometheus) -> Vec<(&'static str, &'static str)> {
        let id = self.broken.allocate("broken").await.sandbox_id().to_owned();
        let failure = FaultRule::before(Fault::service_unavailable()).share(1.0);
        self.broken_table.engine().add_fault(failure);
        for answer in join_all((0..20).map(|_| self.broken.read(&id, "broken"))).await {
            assert_eq!(answer.status, 503);
        }
        prometheus.fires("BrokerErrors", "broken").await;
        prometheus.fires("BrokerJobOverdue", "broken").await;
        vec![("BrokerErrors", "broken"), ("BrokerJobOverdue", "broken")]
    }

    async fn csp_fails(&self, prometheus: &Prometheus) -> Vec<(&'static str, &'static str)> {
        for _ in 0..4 {
            self.denied.post_admin("/v1/admin/actors/csp-sync/run").await;
        }
        prometheus.fires("BrokerJobFailing", "denied").await;

        let broker = &self.csp_down;
        let lost = broker.allocate("lost").await;
        let account = lost.body["external_id"].as_str().unwrap().rsplit('/').next().unwrap();
        let url = format!("{}/sandbox/accounts/{account}", self.csp.url);
        let request = reqwest::Client::new().delete(url).header("Authorization", format!("Token {}", CspSim::TOKEN));
        let deleted = request.send().await.unwrap();
        assert!(deleted.status().is_success(), "{deleted:?}");
        assert_eq!(broker.sync("").await.status, 200);
        prometheus.fires("BrokerHeldSandboxGone", "csp_down").await;
        self.csp_lies(prometheus).await;

        self.csp.set_faults(json!({ "error_rate": 1.0 })).await;
        give_back(broker, "failed").await;
        assert_eq!(broker.post_admin("/v1/admin/cleanup").await.status, 200);
        prometheus.fires("BrokerDeletionsFailed", "csp_down").await;
        for _ in 0..5 {
            broker.sync("").await;
        }
        prometheus.fires("BrokerCircuitOpen", "csp_down").await;

        // No cleanup gets through the open breaker.
        let mut waiting = 0;
        while !prometheus.is_firing("BrokerDeletionBacklog", "csp_down").await {
            give_back(broker, &format!("backlog-{waiting}")).await;
            waiting += 1;
            if waiting > 52 {
                prometheus.evaluations(1).await;
            }
            assert!(waiting < 95, "the backlog grows, and no alert fires");
        }
        [
            ("BrokerJobFailing", "denied"),
            ("BrokerHeldSandboxGone", "csp_down"),
            ("BrokerListingIncomplete", "csp_down"),
            ("BrokerUndeadSandboxes", "csp_down"),
            ("BrokerDeletionsMisconfigured", "csp_down"),
            ("BrokerDeletionsFailed", "csp_down"),
            ("BrokerCircuitOpen", "csp_down"),
            ("BrokerDeletionBacklog", "csp_down"),
        ]
        .to_vec()
    }

    /// A listing without its end, a deletion that deletes nothing, and a token that may not delete.
    async fn csp_lies(&self, prometheus: &Prometheus) {
        let broker = &self.csp_down;
        let cleanup = async || assert_eq!(broker.post_admin("/v1/admin/cleanup").await.status, 200);
        self.csp.set_faults(json!({ "page_size": 10, "failing_pages": true })).await;
        assert_eq!(broker.sync("").await.status, 200);
        prometheus.fires("BrokerListingIncomplete", "csp_down").await;

        self.csp.set_faults(json!({ "deletion": "deleted" })).await;
        give_back(broker, "undead").await;
        cleanup().await;
        eventually("the listing has the deleted account", async || {
            let synced = broker.sync("").await;
            (synced.body["undead"] == 1).then_some(())
        })
        .await;
        prometheus.fires("BrokerUndeadSandboxes", "csp_down").await;

        self.csp.set_faults(json!({})).await;
        cleanup().await;
        let id = give_back(broker, "forbidden").await;
        self.csp.set_faults(json!({ "forbidden": [id.parse::<u64>().unwrap()] })).await;
        cleanup().await;
        prometheus.fires("BrokerDeletionsMisconfigured", "csp_down").await;
        self.csp.set_faults(json!({})).await;
    }
}

/// A table whose server can fail.
async fn table() -> MeteringServer {
    let server = MeteringServer::start(MeteringSettings { limits: Limits::unlimited(), ..MeteringSettings::default() });
    server.create_table(&[]).await;
    server
}

async fn on_table(server: &MeteringServer, settings: &[(&str, &str)]) -> Broker {
    let url = server.url();
    let store = [("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", url.as_str()), ("CSP_MODE", "sim")];
    let size = [("CSP_SIM_SANDBOXES", "500")];
    Broker::start(&[&store[..], &size, settings].concat()).await
}

async fn pause(broker: &Broker, actor: &str) {
    let request = broker.admin(Method::POST, &format!("/v1/admin/actors/{actor}/pause"));
    assert_eq!(send(request.json(&json!({ "reason": "planned" }))).await.status, 200);
}

async fn allocate_prefixed(broker: &Broker, track: &str, prefix: &str) -> u16 {
    let request = broker.track(Method::POST, "/v1/allocate", track).header("X-Sandbox-Name-Prefix", prefix);
    send(request).await.status.as_u16()
}

/// Allocates a sandbox, releases it, and returns its id.
async fn give_back(broker: &Broker, track: &str) -> String {
    let id = broker.allocate(track).await.sandbox_id().to_owned();
    assert_eq!(broker.mark_for_deletion(&id, track).await.status, 200);
    id
}
