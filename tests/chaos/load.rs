//! Load on a metering server: what AWS's limits carry, and what happens beyond them. Limits and load are divided by a
//! scale, which is linear, so that two cores suffice.
//!
//! `BROKER_LOAD_PLACEMENTS` sets the number of placements of keys on partitions, `BROKER_LOAD_SECONDS` the length of each
//! load, and `BROKER_LOAD_SCALE` the scale.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use test_support::metering::{
    Counters, Limits, MeteringServer, MeteringSettings, Placement, WarmThroughput, partition_of,
};
use test_support::{Broker, CspSim, eventually, http_client};
use tokio::time::{Instant, sleep_until};

use super::checker;
use super::client::Client;
use super::endpoint::Endpoint;
use super::history::{Call, Completion, Evidence, Op, Timestamp};
use super::journal::{self, Journal};
use super::{ONE_AT_A_TIME, number_from};

const SHARDS: u32 = 16;

/// Write units a second that the table and its indexes are warmed to.
const WARM: u32 = 12_000;

/// Units that the status index writes for an allocation.
const INDEX_UNITS: u64 = 2;

const BROKERS: usize = 2;

/// How long refused students come back after the load has ended.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
enum Offer {
    /// Each student allocates.
    Allocations,
    /// Each student allocates and releases; meanwhile accounts are deleted and replaced.
    Lives,
}

impl Offer {
    /// Students a second, as on AWS.
    fn rate(self) -> u64 {
        match self {
            Self::Allocations => 1_000,
            Self::Lives => 500,
        }
    }

    /// The students of a whole load.
    fn students(self) -> u64 {
        self.rate() * seconds() / scale()
    }
}

/// One load on one table.
struct Load {
    offer: Offer,
    /// Decides which keys share a partition.
    seed: u64,
    placement: Placement,
    shards: u32,
    /// Write units a second; a cold table if there are none.
    warm: Option<u32>,
    /// Units that may wait for a partition of an index.
    index_queue: f64,
}

struct Report {
    title: String,
    seconds: u64,
    evidence: Evidence,
    counters: Counters,
    /// The end of the load. Students that were refused go on.
    load_ended: Timestamp,
}

impl Load {
    /// A load on a warm table of 16 shards.
    fn new(offer: Offer, seed: u64) -> Self {
        // AWS documents no length of this queue, so placements take turns.
        let index_queue = if seed.is_multiple_of(2) { 0.0 } else { 1_000.0 };
        Self { offer, seed, placement: Placement::default(), shards: SHARDS, warm: Some(WARM), index_queue }
    }

    async fn run(self) -> Report {
        let seconds = seconds();
        let settings = MeteringSettings {
            seed: self.seed,
            limits: Limits::unlimited(),
            placement: self.placement,
            ..MeteringSettings::default()
        };
        let server = MeteringServer::start(settings);
        let mut flags = vec![format!("--shards={}", self.shards)];
        flags.extend(self.warm.map(|units| format!("--warm-write={units}")));
        server.create_table(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let engine = server.engine();
        let journal = Journal::of(engine);

        let students = self.offer.students();
        // Enough also for the candidates that are in flight at the end.
        let csp = CspSim::start(u32::try_from(students + students / 10).unwrap()).await;
        let brokers = start_brokers(&server, &csp, self.offer).await;
        let endpoints: Arc<[Endpoint]> = brokers.iter().map(|broker| Endpoint::at(broker.address)).collect();

        engine.set_limits(|limits| {
            *limits = Limits { scale: scale() as f64, index_queue: self.index_queue, ..Limits::default() }
        });
        engine.reset_counters();
        let (http, started) = (http_client(), Instant::now());
        let interval = Duration::from_secs(scale()) / u32::try_from(self.offer.rate()).unwrap();
        let load_ends = started + Duration::from_secs(seconds);
        let students = (0..students).map(|number| {
            let client = Client::new(format!("s{number}"), Arc::clone(&endpoints), http.clone(), number);
            let starts_at = started + interval * u32::try_from(number).unwrap();
            let (replica, releases) = (number as usize % BROKERS, matches!(self.offer, Offer::Lives));
            tokio::spawn(async move {
                sleep_until(starts_at).await;
                client.attend(replica, releases, load_ends + SETTLE_TIMEOUT).await
            })
        });
        let students: Vec<_> = students.collect();
        sleep_until(load_ends).await;
        let (load_ended, counters) = (Timestamp::now(), engine.counters());
        let history = join_all(students).await.into_iter().flat_map(Result::unwrap).collect();
        // Jobs write as long as they run, and the table must be that of the journal.
        drop(brokers);
        engine.set_limits(|limits| *limits = Limits::unlimited());
        let table = eventually("no write is on its way", async || {
            let commits = journal.commits().len();
            let table = journal::scan(engine).await;
            (journal.commits().len() == commits).then_some(table)
        })
        .await;
        let evidence = Evidence { history, journal: journal.commits(), table, ..Evidence::default() };
        let title = format!(
            "{:?}, placement {}, {} shards, warm {:?}, queue {}",
            self.offer, self.seed, self.shards, self.warm, self.index_queue
        );
        let report = Report { title, seconds, evidence, counters, load_ended };
        println!("{report}");
        let violations: Vec<_> = checker::violations_so_far(&report.evidence).iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{}:\n{}", report.title, violations.join("\n"));
        assert_eq!(report.allocations().count() as u64, self.offer.students(), "{report}");
        report
    }
}

impl Report {
    fn allocations(&self) -> impl Iterator<Item = &Call> {
        self.evidence
            .history
            .iter()
            .filter(|call| matches!((&call.op, &call.completion), (Op::Allocate { .. }, Completion::Holds { .. })))
    }

    /// The refusals: how many with each code and `Retry-After`.
    fn refusals(&self) -> BTreeMap<(&str, u64), u64> {
        let mut refusals = BTreeMap::new();
        for call in &self.evidence.history {
            if let Completion::Unavailable { code, retry_after } = &call.completion {
                let retry_after = retry_after.expect("a refusal says when to try again");
                *refusals.entry((code.as_str(), retry_after)).or_default() += 1;
            }
        }
        refusals
    }

    /// The allocations that were answered while the load lasted.
    fn in_time(&self) -> usize {
        self.allocations().filter(|call| call.completed <= self.load_ended).count()
    }

    /// Whether the store refused no student. On a machine that is too slow for the load there are other refusals, which
    /// the report shows.
    fn is_carried(&self) -> bool {
        self.refusals().keys().all(|(code, _)| *code != "STORE_THROTTLED")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.counters.resource("sandbox-broker-pool/StatusIndex");
        let table = self.counters.resource("sandbox-broker-pool");
        let as_on_aws = scale() as f64 / self.seconds as f64;
        let [index, table] = [index, table].map(|resource| resource.fullest_write_units() * as_on_aws);
        let transactions = self.counters.operation("TransactWriteItems");
        write!(
            formatter,
            "{}: {} served, {} of them within {} s; 503s {:?}; fullest partitions {table:.0} (table), {index:.0} (status index) \
             of {} units/s at the scale of AWS; {} transactions, {} throttled, {} conflicts",
            self.title,
            self.allocations().count(),
            self.in_time(),
            self.seconds,
            self.refusals(),
            Limits::default().partition_write,
            transactions.requests,
            transactions.throttled,
            transactions.conflicts,
        )
    }
}

/// Starts brokers and waits until the pool is full.
async fn start_brokers(server: &MeteringServer, csp: &CspSim, offer: Offer) -> Vec<Broker> {
    let url = server.url();
    let mut settings = vec![("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", url.as_str())];
    settings.extend(csp.settings());
    settings.extend(match offer {
        Offer::Allocations => {
            [("SYNC_INTERVAL_SEC", "3600"), ("CLEANUP_INTERVAL_SEC", "3600"), ("CLEANUP_CONCURRENCY", "4")]
        }
        Offer::Lives => [("SYNC_INTERVAL_SEC", "1"), ("CLEANUP_INTERVAL_SEC", "1"), ("CLEANUP_CONCURRENCY", "32")],
    });
    let brokers = join_all((0..BROKERS).map(|_| Broker::start(&settings))).await;
    let accounts = csp.stats().await["accounts"].as_u64().expect("the simulator counts its accounts");
    let available = async || brokers[0].stats().await.body["available"].as_u64().filter(|available| *available > 0);
    let mut filled = 0;
    while filled < accounts {
        filled = eventually("the pool grows", async || available().await.filter(|available| *available > filled)).await;
    }
    brokers
}

/// Placements that are tried. In the first, an index by the bare status has both keys of an allocation in one partition.
fn placements() -> impl Iterator<Item = u64> {
    let partitions = WarmThroughput::write(f64::from(WARM)).partitions(&Limits::default());
    let partition = |seed, key| partition_of(seed, "StatusIndex", key, partitions);
    let first = (0..).find(|seed| partition(*seed, "available#00") == partition(*seed, "allocated#00"));
    let count = number_from("BROKER_LOAD_PLACEMENTS").unwrap_or(2);
    (0..count).map(move |number| first.expect("some keys share a partition") + number)
}

fn scale() -> u64 {
    number_from("BROKER_LOAD_SCALE").unwrap_or(10)
}

fn seconds() -> u64 {
    number_from("BROKER_LOAD_SECONDS").unwrap_or(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_allocations_a_second_need_the_shards() {
    let _turn = ONE_AT_A_TIME.lock().await;
    for seed in placements() {
        let sharded = Load::new(Offer::Allocations, seed).run().await;
        assert!(sharded.is_carried(), "{sharded}");
    }
    // One shard is an index by the bare status.
    let seed = placements().next().expect("there is a placement");
    let bare = Load { shards: 1, ..Load::new(Offer::Allocations, seed) }.run().await;
    assert!(!bare.is_carried(), "{bare}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_lives_a_second_are_carried() {
    let _turn = ONE_AT_A_TIME.lock().await;
    for seed in placements() {
        let lives = Load::new(Offer::Lives, seed).run().await;
        assert!(lives.is_carried(), "{lives}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_table_and_a_full_partition_are_used_up_and_lose_nothing() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let seed = placements().next().expect("there is a placement");
    let cold = Load { warm: None, ..Load::new(Offer::Allocations, seed) }.run().await;
    // A cold table takes exactly this load, if its keys are spread evenly.
    assert_goodput(&cold, Offer::Allocations.rate());
    let placement = Placement::together("StatusIndex", "");
    let one_partition = Load { placement, ..Load::new(Offer::Allocations, seed) }.run().await;
    assert_goodput(&one_partition, Limits::default().partition_write as u64 / INDEX_UNITS);
    let refusals = one_partition.refusals();
    let waits: BTreeSet<_> = refusals.keys().map(|(_, retry_after)| retry_after).collect();
    assert!(waits.len() >= 3, "refused students come back at different times, not after {waits:?}");
}

/// At least a quarter of what the limits allow was served. The rest is for a loaded machine; the report has the share.
fn assert_goodput(report: &Report, ceiling: u64) {
    let allowed = ceiling * report.seconds / scale();
    println!("goodput {} of {allowed}", report.in_time());
    assert!(report.in_time() as u64 * 4 >= allowed, "{report}");
}
