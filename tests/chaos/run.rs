//! One run: start everything, inject faults for a while, heal, wait until the system has settled, collect the evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use test_support::metering::{Counters, MeteringEngine, MeteringServer, MeteringSettings};
use test_support::{ADMIN_TOKEN, http_client};
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::csp::Csp;
use super::endpoint::Endpoint;
use super::history::{Account, Busiest, Call, Caller, Commit, Completion, Evidence, Op, Table, Timestamp};
use super::journal::{self, Journal};
use super::nemesis::Nemesis;
use super::proxy::{self, Origin};
use super::replica::{Replica, ReplicaSetup};
use super::requests::RequestCounts;
use super::service::Service;

/// The replicas, with the seconds by which their clocks are ahead. A clock that is ahead ends holdings early; the grace
/// period covers that.
const REPLICAS: [(&str, i64); 3] = [("on-time", 0), ("ahead", 4), ("behind", -4)];

/// The number of sandboxes at the CSP.
const SANDBOXES: u32 = 80;

const CLIENTS: usize = 20;

/// The clients that wait in the queue.
const WAITING_CLIENTS: usize = 25;

/// The students of a class that comes when all faults are over. The first of them use up the pool, so that the others
/// wait for the accounts that replace theirs.
const CLASS: usize = 110;

/// Short durations, so that expiry, leases and retries race with everything else.
const SETTINGS: [(&str, &str); 18] = [
    ("BROKER_STORE", "dynamodb"),
    // 5 seconds each.
    ("LAB_DURATION_HOURS", "0.001388"),
    ("GRACE_PERIOD_MINUTES", "0.08333333"),
    ("ALLOCATE_TIMEOUT_MS", "4000"),
    ("BACKOFF_BASE_MS", "20"),
    ("BACKOFF_MAX_MS", "500"),
    ("SYNC_INTERVAL_SEC", "1"),
    ("CLEANUP_INTERVAL_SEC", "1"),
    ("AUTO_EXPIRY_INTERVAL_SEC", "1"),
    ("POOL_REFRESH_INTERVAL_SEC", "1"),
    ("JOB_LEASE_SEC", "3"),
    ("CONTROL_POLL_SEC", "1"),
    ("CSP_TIMEOUT_CONNECT_SEC", "1"),
    ("CSP_TIMEOUT_READ_SEC", "1"),
    ("CIRCUIT_BREAKER_THRESHOLD", "3"),
    ("CIRCUIT_BREAKER_TIMEOUT_SEC", "1"),
    // The second attempt of a deletion would wait for a minute; so the operator retries after the first.
    ("DELETION_RETRY_MAX_ATTEMPTS", "1"),
    ("SHUTDOWN_GRACE_SEC", "4"),
];

/// The longest wait until the system has settled after the last fault. A deletion that was accepted is asked for again
/// after 60 seconds, a holding lasts 14 with grace and skew, a lease 3, everything else less; the rest is for a loaded
/// machine.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(150);

/// The operator's interval between retries of failed deletions, and its request timeout.
const OPERATOR_INTERVAL: Duration = Duration::from_secs(2);

/// Counts of a run.
pub(crate) struct Figures {
    completions: BTreeMap<String, u64>,
    network_faults: BTreeMap<&'static str, u64>,
    replica_events: BTreeMap<String, u64>,
    service_faults: BTreeMap<&'static str, u64>,
    counters: Counters,
    busiest: Busiest,
    csp_faults: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<String, u64>,
    commits: usize,
    settled_after: Duration,
    /// How long the class took after that, until everything had settled again.
    class_took: Duration,
}

impl Figures {
    /// How often a broker ended without a fault that ends it.
    pub(crate) fn crashes(&self) -> u64 {
        self.replica_events.iter().filter(|(event, _)| event.ends_with("crashed")).map(|(_, count)| count).sum()
    }

    /// The number of calls with this operation and completion, such as `release: ok`.
    pub(crate) fn completions(&self, label: &str) -> u64 {
        self.completions.get(label).copied().unwrap_or(0)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [calls, faults] = [self.completions.values().sum::<u64>(), self.network_faults.values().sum()];
        writeln!(formatter, "{calls} calls of clients: {:?}", self.completions)?;
        writeln!(formatter, "{faults} network faults: {:?}", self.network_faults)?;
        writeln!(formatter, "DynamoDB: {:?}", self.service_faults)?;
        let requests: u64 = self.counters.operations.values().map(|operation| operation.requests).sum();
        let errors: u64 = self.counters.operations.values().map(|operation| operation.faults).sum();
        writeln!(
            formatter,
            "{requests} requests to DynamoDB: {} throttled, {} conflicts, {errors} errors; at most {} a second for one key",
            self.counters.throttled(),
            self.counters.conflicts(),
            self.busiest.requests,
        )?;
        writeln!(formatter, "replicas: {:?}", self.replica_events)?;
        writeln!(formatter, "CSP: {:?}", self.csp_faults)?;
        writeln!(formatter, "{} commits; sandboxes at the end: {:?}", self.commits, self.statuses)?;
        let [settled_after, class_took] = [self.settled_after, self.class_took].map(|it| it.as_secs_f64());
        write!(
            formatter,
            "settled {settled_after:.1} s after the last fault; a class of {CLASS} took {class_took:.1} s"
        )
    }
}

/// Runs the fault phase for `duration` under this seed. Logs go to the directory.
pub(crate) async fn run(seed: u64, duration: Duration, directory: &Path) -> (Evidence, Figures) {
    let mut seeds = fastrand::Rng::with_seed(seed);
    let server = MeteringServer::start(MeteringSettings { seed: seeds.u64(..), ..MeteringSettings::default() });
    server.create_table(&[]).await;
    let engine = server.engine();
    let journal = Journal::of(engine);
    let origin = Arc::new(Origin { url: server.url(), http: http_client(), counts: RequestCounts::default() });
    let service = Service::new(engine.clone(), seeds.u64(..));
    let csp = Csp::start(SANDBOXES, directory.join("csp.json"), seeds.u64(..)).await;

    let mut replicas = Vec::new();
    let mut nemeses = Vec::new();
    for (name, clock_skew) in REPLICAS {
        let nemesis = Arc::new(Nemesis::new(seeds.u64(..)));
        let mut settings = csp.settings();
        settings.extend(SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        settings.push(("DDB_ENDPOINT_URL".to_owned(), proxy::start(Arc::clone(&origin), Arc::clone(&nemesis)).await));
        nemeses.push(Arc::clone(&nemesis));
        let log = directory.join(format!("{name}.log"));
        replicas
            .push(Replica::start(ReplicaSetup { name, clock_skew, settings, nemesis, log, seed: seeds.u64(..) }).await);
    }
    let endpoints: Arc<[Endpoint]> = replicas.iter().map(Replica::endpoint).collect();

    let end = Instant::now() + duration;
    let clients = (0..CLIENTS).map(|number| {
        let client = Client::new(format!("t{number}"), Arc::clone(&endpoints), http_client(), seeds.u64(..));
        if number % 2 == 0 { client.with_secret() } else { client }
    });
    let clients: Vec<_> = clients.collect();
    let waiting = (0..WAITING_CLIENTS).map(|number| {
        let client = Client::new(format!("w{number}"), Arc::clone(&endpoints), http_client(), seeds.u64(..));
        if number % 2 == 0 { client.with_secret() } else { client }
    });
    let waiting: Vec<_> = waiting.collect();
    let (histories, queues, mut replicas, service, csp, ()) = tokio::join!(
        join_all(clients.into_iter().map(|client| client.run(end))),
        join_all(waiting.into_iter().map(|client| client.queue(end))),
        join_all(replicas.into_iter().map(|replica| replica.inject_faults(end))),
        service.inject_faults(end),
        csp.inject_faults(end),
        operate(&journal, &endpoints, end)
    );
    let mut history: Vec<_> = histories.into_iter().chain(queues).flatten().collect();

    let (healed_at, healed) = (Timestamp::now(), Instant::now());
    let probes = (0..REPLICAS.len()).map(|replica| {
        let client = Client::new(format!("probe-{replica}"), Arc::clone(&endpoints), http_client(), seeds.u64(..));
        client.probe(replica, healed + SETTLE_TIMEOUT)
    });
    history.extend(join_all(probes).await.into_iter().flatten());
    settle(engine, &journal, &csp, &endpoints[0]).await;
    let settled_after = healed.elapsed();
    // Deletions are still slow after the failures of the CSP. After a deployment they are as fast as at rest.
    join_all(replicas.iter_mut().map(Replica::restart)).await;
    let (settled_at, settled) = (Timestamp::now(), Instant::now());
    let class = (0..CLASS).map(|number| {
        let client = Client::new(format!("c{number}"), Arc::clone(&endpoints), http_client(), seeds.u64(..));
        let client = if number % 2 == 0 { client.with_secret() } else { client };
        client.waiting(20).attend(number % REPLICAS.len(), true, settled + SETTLE_TIMEOUT)
    });
    let class: Vec<_> = class.collect();
    history.extend(join_all(class).await.into_iter().flatten());
    let (table, journal, accounts) = settle(engine, &journal, &csp, &endpoints[0]).await;
    let busiest = origin.counts.busiest();
    let figures = Figures {
        completions: count(history.iter().map(label)),
        network_faults: sum(nemeses.iter().map(|nemesis| nemesis.injected())),
        replica_events: replicas.iter().flat_map(Replica::events).collect(),
        service_faults: service.injected,
        counters: engine.counters(),
        busiest: busiest.clone(),
        csp_faults: csp.injected.clone(),
        statuses: count(table.sandboxes.values().map(|sandbox| sandbox.status.clone())),
        commits: journal.len(),
        settled_after,
        class_took: settled.elapsed(),
    };
    let evidence = Evidence {
        history,
        journal,
        busiest,
        replicas: REPLICAS.len(),
        healed_at,
        settled_at: Some(settled_at),
        table,
        accounts,
        omitted: csp.omitted,
        falsely_deleted: csp.falsely_deleted,
    };
    (evidence, figures)
}

/// Waits until everything has settled, or until the timeout. Returns the table, the commits that result in it, and the
/// accounts of the CSP.
async fn settle(
    engine: &MeteringEngine,
    journal: &Journal,
    csp: &Csp,
    endpoint: &Endpoint,
) -> (Table, Vec<Commit>, BTreeSet<Account>) {
    let started = Instant::now();
    loop {
        let table = journal::scan(engine).await;
        // Taken at once, because the table must be the result of these commits.
        let commits = journal.commits();
        let accounts = csp.accounts().await;
        if has_settled(&table, &accounts, csp) || started.elapsed() > SETTLE_TIMEOUT {
            return (table, commits, accounts);
        }
        retry_deletions(&table, endpoint).await;
        sleep(Duration::from_millis(250)).await;
    }
}

/// Whether no holding and no deletion is left, and table and CSP agree.
fn has_settled(table: &Table, accounts: &BTreeSet<Account>, csp: &Csp) -> bool {
    let is_final = table.sandboxes.values().all(|sandbox| sandbox.is("available") || sandbox.is("deleted"));
    // The checker decides whether the deletion of an account that exists is legitimate.
    let is_excused = |account: &Account| {
        let may_exist = csp.omitted.contains(account) || csp.falsely_deleted.contains(account);
        may_exist && table.of_account(account).is_some_and(|(_, sandbox)| sandbox.is("deleted"))
    };
    is_final && table.claims.is_empty() && table.differences(accounts).iter().all(is_excused)
}

/// The operator: retries failed deletions until `end`. Otherwise the CSP would run out of accounts.
async fn operate(journal: &Journal, endpoints: &[Endpoint], end: Instant) {
    for endpoint in endpoints.iter().cycle() {
        sleep(OPERATOR_INTERVAL).await;
        if Instant::now() >= end {
            return;
        }
        retry_deletions(&journal.table(), endpoint).await;
    }
}

/// Retries all failed deletions at one broker, until it does not answer.
async fn retry_deletions(table: &Table, endpoint: &Endpoint) {
    let Some(address) = endpoint.address() else { return };
    for (id, _) in table.sandboxes.iter().filter(|(_, sandbox)| sandbox.is("deletion_failed")) {
        let url = format!("http://{address}/v1/admin/sandboxes/{id}/retry-deletion");
        let request = http_client().post(url).bearer_auth(ADMIN_TOKEN).timeout(OPERATOR_INTERVAL);
        // The status does not matter: the next round reads the table.
        if request.send().await.is_err() {
            return;
        }
    }
}

fn label(call: &Call) -> String {
    let by = if call.caller == Caller::Impostor { "impostor's " } else { "" };
    let op = match call.op {
        Op::Allocate { .. } => "allocate",
        Op::Read(_) => "read",
        Op::Renew(_) => "renew",
        Op::Release(_) => "release",
        Op::Leave => "leave",
    };
    let completion = match call.completion {
        Completion::Holds { .. } | Completion::Reads { .. } | Completion::Released | Completion::Left => "ok",
        Completion::Withdrawn => "withdrawn",
        Completion::NoneAvailable => "none available",
        Completion::NotOwned => "not owned",
        Completion::WrongState => "wrong state",
        Completion::HeldLongest => "held longest",
        Completion::Unavailable { ref code, .. } if code == "WAITING" => "waiting",
        Completion::Unavailable { .. } => "unavailable",
        Completion::Indeterminate => "indeterminate",
        Completion::Unexpected(_) => "unexpected",
    };
    format!("{by}{op}: {completion}")
}

fn count(labels: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts
}

fn sum(counts: impl Iterator<Item = BTreeMap<&'static str, u64>>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (label, count) in counts.flatten() {
        *sums.entry(label).or_default() += count;
    }
    sums
}
