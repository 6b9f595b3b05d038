//! One run: everything is started, disturbed for a while, left alone, and looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dynoxide::Database;
use futures_util::future::join_all;
use test_support::{ADMIN_TOKEN, DynamoServer};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::csp::Csp;
use super::history::{Completion, Evidence, Op, SandboxId, Table, Timestamp};
use super::journal::Journal;
use super::nemesis::Nemesis;
use super::proxy::{self, Origin};
use super::replica::{Endpoint, Replica, ReplicaSetup};

/// The replicas, with the seconds by which their clocks are ahead. One that is ahead ends a holding so much sooner, which
/// the grace period of the settings makes up for.
const REPLICAS: [(&str, i64); 3] = [("on-time", 0), ("ahead", 4), ("behind", -4)];

/// Sandboxes that the CSP keeps.
const SANDBOXES: u32 = 80;

const CLIENTS: usize = 20;

/// Small times, so that expiry, leases and retries race with everything else.
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
    // A second attempt would come after a minute; so the first failure calls for the operator.
    ("DELETION_RETRY_MAX_ATTEMPTS", "1"),
    ("SHUTDOWN_GRACE_SEC", "4"),
];

/// How long it may take, once nothing is disturbed, until all is in order again. A holding lasts for fourteen seconds with
/// grace and skew, a lease for three, every other wait for less; the rest is for a loaded machine.
const SETTLING: Duration = Duration::from_secs(90);

/// So often an operator looks for deletions that failed, and so long waits for a broker.
const OPERATORS_ROUND: Duration = Duration::from_secs(2);

/// What happened, in numbers.
pub struct Figures {
    completion: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    troubles: BTreeMap<String, u64>,
    csp_troubles: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<String, u64>,
    commits: usize,
    settled_after: Duration,
}

impl Figures {
    /// How often a broker ended though nobody ended it.
    pub fn deaths(&self) -> u64 {
        self.troubles.iter().filter(|(name, _)| name.ends_with("died")).map(|(_, count)| count).sum()
    }

    pub fn completion(&self, what: &str) -> u64 {
        self.completion.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: u64 = self.completion.values().sum();
        writeln!(formatter, "{sum} requests of clients: {:?}", self.completion)?;
        writeln!(formatter, "{} faults: {:?}", self.faults.values().sum::<u64>(), self.faults)?;
        writeln!(formatter, "replicas: {:?}", self.troubles)?;
        writeln!(formatter, "CSP: {:?}", self.csp_troubles)?;
        writeln!(formatter, "{} commits; sandboxes at the end: {:?}", self.commits, self.statuses)?;
        write!(formatter, "in order {:.1} s after the last trouble", self.settled_after.as_secs_f64())
    }
}

/// Runs for so long under this seed; logs go to the directory.
pub async fn run(seed: u64, duration: Duration, directory: &Path) -> (Evidence, Figures) {
    let mut seeds = fastrand::Rng::with_seed(seed);
    let database = Database::memory().unwrap();
    let server = DynamoServer::on(database.clone()).await;
    let journal = Mutex::new(Journal::of(database));
    let origin = Arc::new(Origin { url: server.url, http: reqwest::Client::new(), journal });
    let csp = Csp::start(SANDBOXES, directory.join("csp.json"), seeds.u64(..)).await;

    let mut replicas = Vec::new();
    let mut ways = Vec::new();
    for (name, clock_skew) in REPLICAS {
        let nemesis = Arc::new(Nemesis::calm(seeds.u64(..)));
        let mut settings = csp.settings();
        settings.extend(SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        settings.push(("DDB_ENDPOINT_URL".to_owned(), proxy::open(Arc::clone(&origin), Arc::clone(&nemesis)).await));
        ways.push(Arc::clone(&nemesis));
        let log = directory.join(format!("{name}.log"));
        replicas
            .push(Replica::start(ReplicaSetup { name, clock_skew, settings, nemesis, log, seed: seeds.u64(..) }).await);
    }
    let endpoints: Arc<[Endpoint]> = replicas.iter().map(Replica::endpoint).collect();

    let end = Instant::now() + duration;
    let clients = (0..CLIENTS).map(|number| Client::new(format!("t{number}"), Arc::clone(&endpoints), seeds.u64(..)));
    let (clients, replicas, csp, ()) = tokio::join!(
        join_all(clients.map(|client| client.live(end))),
        join_all(replicas.into_iter().map(|replica| replica.be_troubled(end))),
        csp.be_troubled(end),
        operate(&origin, &endpoints, end)
    );
    let mut history: Vec<_> = clients.into_iter().flatten().collect();

    let (calm_since, calm) = (Timestamp::now(), Instant::now());
    let provers = (0..REPLICAS.len()).map(|replica| {
        let client = Client::new(format!("after-{replica}"), Arc::clone(&endpoints), seeds.u64(..));
        client.prove_that_it_serves(replica, calm + SETTLING)
    });
    history.extend(join_all(provers).await.into_iter().flatten());
    let (table, accounts) = loop {
        let (table, accounts) = (origin.journal.lock().await.table(), csp.accounts().await);
        if is_in_order(&table, &accounts, &csp.hidden) || calm.elapsed() > SETTLING {
            break (table, accounts);
        }
        retry_deletions(&table, &endpoints[0]).await;
        sleep(Duration::from_millis(250)).await;
    };
    let journal = origin.journal.lock().await.commits().to_vec();
    let figures = Figures {
        completion: count(history.iter().map(|call| told_name(&call.op, &call.completion))),
        faults: sum(ways.iter().map(|nemesis| nemesis.met())),
        troubles: replicas.iter().flat_map(Replica::troubles).collect(),
        csp_troubles: csp.troubles.clone(),
        statuses: count(table.sandboxes.values().map(|sandbox| sandbox.status.clone())),
        commits: journal.len(),
        settled_after: calm.elapsed(),
    };
    (Evidence { history, journal, replicas: REPLICAS.len(), calm_since, table, accounts, hidden: csp.hidden }, figures)
}

fn is_in_order(table: &Table, accounts: &BTreeSet<SandboxId>, hidden: &BTreeSet<SandboxId>) -> bool {
    let is_quiet = table.sandboxes.values().all(|sandbox| sandbox.is("available") || sandbox.is("deleted"));
    // Whether it was right to take what was hidden for gone is the checker's to say.
    let is_taken_for_gone =
        |id: &SandboxId| hidden.contains(id) && table.sandboxes.get(id).is_some_and(|it| it.is("deleted"));
    is_quiet && table.claims.is_empty() && table.differences(accounts).iter().all(is_taken_for_gone)
}

/// The operator's part, without which what the CSP refused to delete would use up its accounts.
async fn operate(origin: &Origin, endpoints: &[Endpoint], end: Instant) {
    for endpoint in endpoints.iter().cycle() {
        sleep(OPERATORS_ROUND).await;
        if Instant::now() >= end {
            return;
        }
        let table = origin.journal.lock().await.table();
        retry_deletions(&table, endpoint).await;
    }
}

/// Has the deletions that failed tried again.
async fn retry_deletions(table: &Table, endpoint: &Endpoint) {
    let Some(address) = endpoint.address() else { return };
    for (id, _) in table.sandboxes.iter().filter(|(_, sandbox)| sandbox.is("deletion_failed")) {
        let url = format!("http://{address}/v1/admin/sandboxes/{id}/retry-deletion");
        let request = reqwest::Client::new().post(url).bearer_auth(ADMIN_TOKEN).timeout(OPERATORS_ROUND);
        // Whether it worked is seen in the table; a broker that does not answer is not op again.
        if request.send().await.is_err() {
            return;
        }
    }
}

fn told_name(op: &Op, completion: &Completion) -> String {
    let op = match op {
        Op::Allocate { .. } => "allocate",
        Op::Read(_) => "read",
        Op::Renew(_) => "renew",
        Op::Release(_) => "release",
    };
    let completion = match completion {
        Completion::Holds { .. } | Completion::Reads { .. } | Completion::Released => "ok",
        Completion::NoneAvailable => "none",
        Completion::NotYours => "not yours",
        Completion::WrongState => "wrong state",
        Completion::TryAgain => "503",
        Completion::NoAnswer => "no answer",
        Completion::Unexpected(_) => "unheard of",
    };
    format!("{op}: {completion}")
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn sum(counts: impl Iterator<Item = BTreeMap<&'static str, u64>>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in counts.flatten() {
        *sums.entry(name).or_default() += count;
    }
    sums
}
