//! The feed of this replica: it collects what consoles show, once for all of them.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::actor;
use broker_actors::broker::Broker;
use broker_actors::ports::Clock;
use broker_actors::ports::StoredStats;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use super::actor_events::ActorEvents;
use super::journal::{Event, Journal};
use super::throughput::{Throughput, ThroughputMeter};
use crate::http::api::body::{ActorStatus, BreakerSnapshot, Stats, Timestamp, sync_example};
use crate::http::request_context::RequestContext;

const INTERVAL: Duration = Duration::from_secs(1);

/// The most streams of one replica.
const MAX_STREAMS: usize = 64;

/// The broker at one moment, as this replica sees it
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    at: Timestamp,
    replica: String,
    version: &'static str,
    /// A count that is a few seconds old; null before the first count
    stats: Option<Stats>,
    /// Null while the store does not answer
    actors: Option<Vec<ActorStatus>>,
    circuit_breaker: BreakerSnapshot,
    /// Those who wait for a sandbox, as far as this replica knows
    waiting: usize,
    /// Allocations in flight on this replica
    in_flight: usize,
    throughput: Throughput,
}

/// What consoles follow.
pub struct EventFeed {
    broker: Broker,
    clock: Arc<dyn Clock>,
    /// Distinguishes the ids of this process's events from those of another process.
    process: String,
    journal: Mutex<Journal>,
    throughput: Mutex<ThroughputMeter>,
    /// The last snapshot, as a frame; `None` before the first.
    snapshots: watch::Sender<Option<Arc<str>>>,
    streams: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl EventFeed {
    /// An empty feed, whose streams end when `stopping` is cancelled.
    pub(crate) fn new(broker: Broker, clock: Arc<dyn Clock>, stopping: CancellationToken) -> Self {
        Self {
            broker,
            clock,
            process: Uuid::new_v4().simple().to_string(),
            journal: Mutex::default(),
            throughput: Mutex::new(ThroughputMeter::new()),
            snapshots: watch::Sender::new(None),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            stopping,
        }
    }

    /// Records an allocation that was answered with a sandbox, and what it took without the queue.
    pub(crate) fn record_allocation(&self, took: Duration) {
        self.throughput.lock().record(took);
    }

    /// Records an answered request.
    pub(crate) fn record_request(
        &self,
        action: &str,
        context: &RequestContext,
        token: Option<&str>,
        outcome: &str,
        code: Option<&str>,
    ) {
        self.record(Event {
            token: token.map(str::to_owned),
            track_id: context.track_id.clone(),
            sandbox_id: context.sandbox_id.clone(),
            by: context.operator.clone(),
            detail: code.map(str::to_owned),
            ..Event::new(self.clock.now().into(), action, outcome)
        });
    }

    fn record(&self, event: Event) {
        self.journal.lock().push(event);
    }

    /// Takes a snapshot every second while a console is connected. Never returns.
    pub async fn run(&self) {
        let mut actor_events = ActorEvents::default();
        let mut counts = None;
        loop {
            let throughput = self.throughput.lock().read(Instant::now());
            if self.snapshots.receiver_count() > 0 {
                let counts = counts.get_or_insert_with(|| self.broker.watch_stats());
                // Consoles cost no reads: this replica shows what it knows.
                let actors = self.broker.local_actors().await;
                for event in actor_events.new_in(&actors) {
                    self.record(event);
                }
                let snapshot = self.snapshot(*counts.borrow(), actors, throughput);
                self.snapshots.send_replace(Some(frame("snapshot", None, &snapshot).into()));
            } else {
                counts = None;
            }
            sleep(INTERVAL).await;
        }
    }

    fn snapshot(&self, counts: StoredStats, actors: Vec<actor::ActorStatus>, throughput: Throughput) -> Snapshot {
        Snapshot {
            at: self.clock.now().into(),
            replica: self.broker.replica().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            stats: counts.counted_at.map(|_| counts.stats.into()),
            actors: Some(actors.into_iter().map(ActorStatus::from).collect()),
            circuit_breaker: self.broker.circuit_breaker().into(),
            waiting: self.broker.queue().waiting(),
            in_flight: self.broker.allocator().in_flight(),
            throughput,
        }
    }

    /// The journal's events from this number on, as a frame, and the number after them.
    fn journal_since(&self, from: u64) -> (String, u64) {
        let journal = self.journal.lock();
        let next = journal.next();
        if next == from {
            return (String::new(), from);
        }
        let events: Vec<&Event> = journal.since(from).collect();
        (frame("journal", Some(&format!("{}-{next}", self.process)), &events), next)
    }

    /// The number to continue at after the event with this id; the start if it is of another process.
    fn number_after(&self, last_event_id: Option<&str>) -> u64 {
        let number =
            last_event_id.and_then(|id| id.strip_prefix(&self.process)?.strip_prefix('-')?.parse::<u64>().ok());
        number.filter(|number| *number <= self.journal.lock().next()).unwrap_or_default()
    }
}

/// One console's subscription to a feed.
pub(super) struct Subscription {
    feed: Arc<EventFeed>,
    snapshots: watch::Receiver<Option<Arc<str>>>,
    /// The number of the next event to send.
    next: u64,
    _permit: OwnedSemaphorePermit,
}

impl Subscription {
    /// Subscribes from the event after this id on; `None` if the feed has as many subscriptions as it takes.
    pub(super) fn new(feed: Arc<EventFeed>, last_event_id: Option<&str>) -> Option<Self> {
        let permit = Arc::clone(&feed.streams).try_acquire_owned().ok()?;
        let (snapshots, next) = (feed.snapshots.subscribe(), feed.number_after(last_event_id));
        Some(Self { feed, snapshots, next, _permit: permit })
    }

    /// The next snapshot with the events since the last one; `None` once the broker is stopping.
    pub(super) async fn next(&mut self) -> Option<String> {
        tokio::select! {
            changed = self.snapshots.changed() => changed.ok()?,
            () = self.feed.stopping.cancelled() => return None,
        }
        let snapshot = self.snapshots.borrow_and_update().clone()?;
        let (journal, next) = self.feed.journal_since(self.next);
        self.next = next;
        Some([&*snapshot, &journal].concat())
    }
}

fn frame(event: &str, id: Option<&str>, data: &impl Serialize) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {event}\n{id}data: {data}\n\n")
}

/// The start of a stream.
pub(crate) fn example() -> String {
    let actor = sync_example();
    let events = ActorEvents::default().new_in(std::slice::from_ref(&actor));
    let snapshot = Snapshot {
        at: Timestamp::example(),
        replica: "broker-1".to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        stats: Some(Stats::example()),
        actors: Some(vec![actor.into()]),
        circuit_breaker: BreakerSnapshot::example(),
        waiting: 0,
        in_flight: 1,
        throughput: ThroughputMeter::new().read(Instant::now()),
    };
    frame("snapshot", None, &snapshot) + &frame("journal", Some("5f0c-1"), &events)
}
