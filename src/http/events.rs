//! What operators' consoles follow: a snapshot of the broker every second and a journal of what happened, as
//! server-sent events. While nobody watches, nothing is read for them.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use broker_actors::actor::ActorStatus;
use broker_actors::actor::{ActorName, Control, DesiredState};
use broker_actors::breaker::BreakerSnapshot;
use broker_actors::sandbox::Timestamp;
use broker_actors::stats::Stats;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::edge::RequestContext;
use super::error::ApiError;
use super::openapi::ADMIN;
use super::throughput::{Throughput, ThroughputMeter};

const INTERVAL: Duration = Duration::from_secs(1);

/// How long the table is waited for; longer than this is worth telling the operator.
const TABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// So many events are kept for consoles that come or come back.
const JOURNAL_LENGTH: usize = 200;

/// So many consoles may watch one replica.
const MAX_STREAMS: usize = 64;

/// The requests that an operator would want to know of.
const JOURNALLED: [&str; 10] = [
    "allocate",
    "renew",
    "mark-for-deletion",
    "force-release",
    "retry-deletion",
    "sync",
    "cleanup",
    "auto-expire",
    "auto-delete-stale",
    "bulk-delete",
];

/// Something that happened
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Event {
    at: Timestamp,
    /// `allocate`, `renew`, `mark-for-deletion`, `force-release`, …; `run`, `pause`, `resume` of an actor
    action: String,
    outcome: String,
    actor: Option<String>,
    track_id: Option<String>,
    sandbox_id: Option<String>,
    /// Who did it: an operator, or the replica that ran a job
    by: Option<String>,
    /// A reason, an error, an error's code
    detail: Option<String>,
    /// What a run reports
    #[schema(value_type = Option<Object>)]
    report: Option<serde_json::Value>,
}

/// The broker at a moment, as this replica sees it
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Snapshot {
    at: Timestamp,
    replica: String,
    version: &'static str,
    /// Counted at most a few seconds ago; null before the first count
    stats: Option<Stats>,
    /// Null while the store does not answer
    actors: Option<Vec<ActorStatus>>,
    circuit_breaker: BreakerSnapshot,
    /// Allocations under way on this replica
    in_flight: usize,
    throughput: Throughput,
}

/// What consoles watch.
pub struct Live {
    /// Tells the ids of this process's events from those of another.
    process: String,
    journal: Mutex<Journal>,
    throughput: Mutex<ThroughputMeter>,
    snapshots: watch::Sender<Option<Arc<str>>>,
    streams: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct Journal {
    /// The number of the next event.
    next: u64,
    last: VecDeque<Event>,
}

impl Journal {
    fn push(&mut self, event: Event) {
        if self.last.len() == JOURNAL_LENGTH {
            self.last.pop_front();
        }
        self.last.push_back(event);
        self.next += 1;
    }

    /// The events from this number on that are still kept.
    fn since(&self, number: u64) -> impl Iterator<Item = &Event> {
        let missing = usize::try_from(self.next.saturating_sub(number)).unwrap_or(usize::MAX);
        self.last.iter().skip(self.last.len().saturating_sub(missing))
    }
}

impl Live {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self {
            process: Uuid::new_v4().simple().to_string(),
            journal: Mutex::default(),
            throughput: Mutex::new(ThroughputMeter::new()),
            snapshots: watch::Sender::new(None),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            closed: watch::Sender::new(false),
        }
    }

    /// Notes an allocation that was answered with a sandbox.
    pub(super) fn allocated(&self, took: Duration) {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).record(took);
    }

    /// Notes a request, if it is one that operators want to know of.
    pub(super) fn requested(
        &self,
        at: Timestamp,
        action: &str,
        fields: &RequestContext,
        outcome: &str,
        code: Option<&str>,
    ) {
        if !JOURNALLED.contains(&action) {
            return;
        }
        self.note(Event {
            at,
            action: action.to_owned(),
            outcome: outcome.to_owned(),
            track_id: fields.track_id.clone(),
            sandbox_id: fields.sandbox_id.clone(),
            by: fields.operator.clone(),
            detail: code.map(str::to_owned),
            ..Event::default()
        });
    }

    /// Ends all streams; the broker is stopping.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Takes a snapshot every second, as long as somebody watches.
    pub async fn run(&self, state: &AppState) {
        let mut seen = Seen::default();
        let mut counts = None;
        loop {
            let throughput = self.throughput.lock().unwrap_or_else(PoisonError::into_inner).read(Instant::now());
            if self.snapshots.receiver_count() > 0 {
                let counts = counts.get_or_insert_with(|| state.broker.watch_stats());
                let actors = match timeout(TABLE_TIMEOUT, state.broker.actors()).await {
                    Ok(Ok(actors)) => Some(actors),
                    Ok(Err(_)) | Err(_) => None,
                };
                seen.news(actors.as_deref().unwrap_or_default()).into_iter().for_each(|event| self.note(event));
                let snapshot = self.snapshot(state, stats_of(*counts.borrow()), actors, throughput);
                self.snapshots.send_replace(Some(snapshot));
            } else {
                counts = None;
            }
            sleep(INTERVAL).await;
        }
    }

    fn snapshot(
        &self,
        state: &AppState,
        stats: Option<Stats>,
        actors: Option<Vec<ActorStatus>>,
        throughput: Throughput,
    ) -> Arc<str> {
        let snapshot = Snapshot {
            at: state.clock.now(),
            replica: state.broker.replica().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            stats,
            actors,
            circuit_breaker: state.broker.circuit_breaker(),
            in_flight: state.broker.allocator().in_flight(),
            throughput,
        };
        frame("snapshot", None, &snapshot).into()
    }

    fn note(&self, event: Event) {
        self.journal().push(event);
    }

    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame of all events from this number on, and the number after them.
    fn news(&self, from: u64) -> (String, u64) {
        let journal = self.journal();
        if journal.next == from {
            return (String::new(), from);
        }
        let events: Vec<&Event> = journal.since(from).collect();
        (frame("journal", Some(&format!("{}-{}", self.process, journal.next)), &events), journal.next)
    }

    /// Where a console that comes back goes on; from the start if it saw another process.
    fn resume_at(&self, headers: &HeaderMap) -> u64 {
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let number = last.and_then(|id| id.strip_prefix(&self.process)?.strip_prefix('-')?.parse::<u64>().ok());
        number.filter(|number| *number <= self.journal().next).unwrap_or_default()
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

fn frame(event: &str, id: Option<&str>, data: &impl Serialize) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {event}\n{id}data: {data}\n\n")
}

/// The last count, if there was one.
fn stats_of(stored: broker_actors::ports::StoredStats) -> Option<Stats> {
    stored.counted_at.map(|_| stored.stats)
}

/// The beginning of a stream, for the OpenAPI document.
pub(super) fn example(at: Timestamp, stats: Stats, actors: Vec<ActorStatus>, breaker: BreakerSnapshot) -> String {
    let mut seen = Seen::default();
    let events = seen.news(&actors);
    let snapshot = Snapshot {
        at,
        replica: "broker-1".to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        stats: Some(stats),
        actors: Some(actors),
        circuit_breaker: breaker,
        in_flight: 1,
        throughput: ThroughputMeter::new().read(Instant::now()),
    };
    frame("snapshot", None, &snapshot) + &frame("journal", Some("5f0c-1"), &events)
}

/// What the actors' statuses have told already.
#[derive(Default)]
struct Seen {
    /// The last run of each job.
    runs: BTreeMap<ActorName, (Timestamp, u64)>,
    /// The last word to each actor.
    controls: BTreeMap<ActorName, Control>,
}

impl Seen {
    /// The runs and words since the last look, on any replica.
    fn news(&mut self, actors: &[ActorStatus]) -> Vec<Event> {
        let mut news = Vec::new();
        for actor in actors {
            if let Some(run) = &actor.last_run
                && self.runs.insert(actor.name, (run.started_at, run.duration_ms))
                    != Some((run.started_at, run.duration_ms))
            {
                news.push(Event {
                    at: run.started_at,
                    action: "run".to_owned(),
                    outcome: if run.error.is_none() { "completed" } else { "error" }.to_owned(),
                    actor: Some(actor.name.to_string()),
                    by: Some(run.replica.to_string()),
                    detail: run.error.clone(),
                    report: run.report.clone(),
                    ..Event::default()
                });
            }
            if let Some(control) = &actor.control
                && self.controls.insert(actor.name, control.clone()).as_ref() != Some(control)
            {
                let is_pause = control.desired_state == DesiredState::Paused;
                news.push(Event {
                    at: control.updated_at,
                    action: if is_pause { "pause" } else { "resume" }.to_owned(),
                    outcome: "ok".to_owned(),
                    actor: Some(actor.name.to_string()),
                    by: Some(control.requested_by.clone()),
                    detail: Some(control.reason.clone()).filter(|reason| !reason.is_empty()),
                    ..Event::default()
                });
            }
        }
        news.sort_by_key(|event| event.at);
        news
    }
}

/// One console's place in what it follows.
struct Follower {
    state: web::Data<AppState>,
    snapshots: watch::Receiver<Option<Arc<str>>>,
    closed: watch::Receiver<bool>,
    next: u64,
    _place: OwnedSemaphorePermit,
}

/// Follows the broker, as server-sent events
///
/// `snapshot` comes every second with a `Snapshot`; `journal` with an array of `Event` when something has happened. A
/// client that comes back with `Last-Event-ID` gets what it missed, as far as it is kept (200 events).
#[utoipa::path(
    get,
    path = "/v1/admin/events",
    tag = ADMIN,
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received")),
    responses((
        status = 200,
        description = "Events, until the client or the broker ends it; each `data` is a `Snapshot` or an array of `Event`",
        body = String,
        content_type = "text/event-stream",
    ))
)]
pub(super) async fn events(state: web::Data<AppState>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let live = &state.live;
    let place = Arc::clone(&live.streams).try_acquire_owned().map_err(|_| ApiError::too_many_streams())?;
    let follower = Follower {
        next: live.resume_at(request.headers()),
        snapshots: live.snapshots.subscribe(),
        closed: live.closed.subscribe(),
        state: state.clone(),
        _place: place,
    };
    let frames = stream::unfold(follower, |mut follower| async {
        tokio::select! {
            changed = follower.snapshots.changed() => changed.ok()?,
            _ = follower.closed.wait_for(|closed| *closed) => return None,
        }
        let snapshot = follower.snapshots.borrow_and_update().clone()?;
        let (journal, next) = follower.state.live.news(follower.next);
        follower.next = next;
        let bytes = web::Bytes::from([&*snapshot, &journal].concat());
        Some((Ok::<_, Infallible>(bytes), follower))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("x-accel-buffering", "no"))
        .streaming(frames))
}
