//! One allocation: take a candidate, claim it, answer. Renewal, release and read stand beside it.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::Instrument as _;

use crate::SPANS;
use crate::pool::{Candidate, Pool, TakeError};
use crate::ports::{ClaimOutcome, Clock, SandboxStore, StoreError, WriteOutcome};
use crate::reaper::{ExpiryTimers, Reaper};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{
    Claim, ClaimKey, Event, Holding, IdempotencyKey, Refused, Sandbox, SandboxId, Status, Timestamp, TrackId, Write,
};

/// So many candidates in a row may turn out to be taken before the next one is tried after a wait.
const MISSES_WITHOUT_WAIT: u32 = 3;

/// So often a release or a renewal is tried again when others change the sandbox meanwhile.
const MAX_WRITE_ATTEMPTS: u32 = 5;

/// How long a replay's claim may take to be read, beyond the budget, when there is nothing new to be had.
const REPLAY_PATIENCE: Duration = Duration::from_secs(1);

/// What a track asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateRequest {
    /// Who asks.
    pub track: TrackId,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// Which of the track's intents this is.
    pub key: IdempotencyKey,
    /// Only sandboxes whose name starts so.
    pub name_prefix: Option<String>,
}

/// What a track got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// What it holds.
    pub claim: Claim,
    /// Whether it held it before this request.
    pub replayed: bool,
}

/// Why a track got nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AllocateError {
    /// The pool had none that fits at some moment during the request (I4).
    #[error("no sandboxes available")]
    NoneAvailable,
    /// An operator has paused the pool manager.
    #[error("allocation is paused")]
    Paused,
    /// As many claims as this broker takes are under way.
    #[error("more than {limit} allocations are under way")]
    Overloaded {
        /// So many may be.
        limit: usize,
    },
    /// The budget of one allocation ran out.
    #[error("the allocation took longer than {} ms", budget.as_millis())]
    TimedOut {
        /// The budget.
        budget: Duration,
    },
    /// The broker is stopping, or its pool manager is dead.
    #[error("the broker is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A sandbox that its owner has given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Which sandbox.
    pub sandbox_id: SandboxId,
    /// When it was given back first.
    pub deletion_requested_at: Timestamp,
}

/// Why a track may not act on a sandbox.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no such sandbox, or no longer.
    #[error("no sandbox has the id {0}")]
    NotFound(SandboxId),
    /// Another track holds it, or nobody does.
    #[error("the sandbox {0} does not belong to this track")]
    NotOwner(SandboxId),
    /// It is not in a state that allows this.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Others keep changing it; try again.
    #[error("the sandbox {0} keeps changing")]
    Contended(SandboxId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The numbers that shape an allocation.
#[derive(Clone, Copy, Debug)]
pub struct AllocationSettings {
    /// How long a sandbox is held.
    pub lab_duration: Duration,
    /// The whole budget of one allocation.
    pub timeout: Duration,
    /// So many claims may be under way at once.
    pub max_in_flight: usize,
    /// The waits between candidates after several were taken.
    pub retry: RetryPolicy,
}

type Answer = Result<Allocation, AllocateError>;

/// What duplicates have in common: the key, and the prefix, since "none" under one prefix says nothing of another (I4).
type Wish = (ClaimKey, Option<String>);

/// Allocates, renews, reads and releases.
#[derive(Clone)]
pub struct Allocator(Arc<Shared>);

struct Shared {
    pool: Pool,
    store: Arc<dyn SandboxStore>,
    clock: Arc<dyn Clock>,
    reaper: Reaper,
    timers: ExpiryTimers,
    settings: AllocationSettings,
    jitter: Jitter,
    /// Claims that are running here, each with the channel that will carry its answer. An entry lives as long as its
    /// claim does; duplicates that come meanwhile wait for the same answer.
    running: DashMap<Wish, watch::Receiver<Option<Answer>>>,
    /// One permit for each claim that may run. The claim holds it, not the caller, who may go away.
    permits: Arc<Semaphore>,
}

impl Allocator {
    pub(crate) fn new(
        pool: Pool,
        store: Arc<dyn SandboxStore>,
        clock: Arc<dyn Clock>,
        reaper: Reaper,
        timers: ExpiryTimers,
        settings: AllocationSettings,
        jitter: Jitter,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(settings.max_in_flight));
        let running = DashMap::new();
        Self(Arc::new(Shared { pool, store, clock, reaper, timers, settings, jitter, running, permits }))
    }

    /// How many claims are under way.
    pub fn in_flight(&self) -> usize {
        self.0.settings.max_in_flight - self.0.permits.available_permits()
    }

    /// Gives the track a sandbox: the one its key already holds, or a new one.
    ///
    /// Duplicates of a request that is being served get its answer. A caller that goes away cancels nothing: the
    /// claim runs to its end in a task of its own, so that its outcome is always known here.
    pub async fn allocate(&self, request: AllocateRequest) -> Answer {
        match self.claim_or_join(&request).await {
            // The claim that it joined began before it, and may have found the pool empty before it came (I4). Whatever
            // runs under this key now began after that.
            (Err(AllocateError::NoneAvailable), true) => self.claim_or_join(&request).await.0,
            (answer, _) => answer,
        }
    }

    /// Claims, or waits for the answer of a duplicate that does; tells which.
    async fn claim_or_join(&self, request: &AllocateRequest) -> (Answer, bool) {
        let claim_key = ClaimKey { track: request.track.clone(), key: request.key.clone() };
        let wish = (claim_key, request.name_prefix.clone());
        let (mut answer, is_duplicate) = match self.0.running.entry(wish.clone()) {
            Entry::Occupied(running) => (running.get().clone(), true),
            Entry::Vacant(free) => {
                let limit = self.0.settings.max_in_flight;
                let Ok(permit) = Arc::clone(&self.0.permits).try_acquire_owned() else {
                    return (Err(AllocateError::Overloaded { limit }), false);
                };
                let (sender, receiver) = watch::channel(None);
                free.insert(receiver.clone());
                let running = Running { shared: Arc::clone(&self.0), wish };
                let span = tracing::info_span!(target: SPANS, "claim", track_id = request.track.as_str());
                let request = request.clone();
                let claim = async move {
                    let answer = running.shared.claim_any(request).await;
                    drop((running, permit));
                    sender.send_replace(Some(answer));
                };
                tokio::spawn(Box::pin(claim).instrument(span));
                (receiver, false)
            }
        };
        // The sender goes without a word only if the claim panicked.
        let answered = answer.wait_for(Option::is_some).await.ok().and_then(|answered| answered.clone());
        let mut answered = answered.unwrap_or(Err(AllocateError::Stopping));
        if let Ok(allocation) = &mut answered {
            allocation.replayed |= is_duplicate;
        }
        (answered, is_duplicate)
    }

    /// Gives a sandbox back. Again by the same track, it answers the same until the sandbox is deleted.
    pub async fn release(&self, sandbox_id: &SandboxId, track: &TrackId) -> Result<Released, AccessError> {
        let now = self.0.clock.now();
        // The caller does not send its key. Most use the default, so that one request is enough; if not, the item
        // that comes back knows the key.
        let mut claim_key = ClaimKey { track: track.clone(), key: IdempotencyKey::new(track.as_str()) };
        let mut write = Write::release_by_holder(sandbox_id.clone(), claim_key.clone(), now);
        let mut waits = self.0.settings.retry.waits(&self.0.jitter);
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let found = match self.0.reaper.end_holding(&write, &claim_key).await? {
                WriteOutcome::Done => {
                    self.0.timers.forget(sandbox_id);
                    return Ok(Released { sandbox_id: sandbox_id.clone(), deletion_requested_at: now });
                }
                WriteOutcome::Conflict | WriteOutcome::ClaimMoved => {
                    tokio::time::sleep(waits.next_wait()).await;
                    continue;
                }
                WriteOutcome::Moved { found } => owned(found, sandbox_id, track)?,
            };
            if let (true, Some(at)) = (found.status != Status::Allocated, found.deletion_requested_at) {
                return Ok(Released { sandbox_id: sandbox_id.clone(), deletion_requested_at: at });
            }
            write = found.write(Event::Release, now)?;
            claim_key.key = found.idempotency_key.unwrap_or(claim_key.key);
        }
        Err(AccessError::Contended(sandbox_id.clone()))
    }

    /// Holds a sandbox for another full lab duration from now, and at least as long as was promised before: the promise
    /// may be that of a replica whose clock is ahead of this one's.
    pub async fn renew(&self, sandbox_id: &SandboxId, track: &TrackId) -> Result<Claim, AccessError> {
        let mut waits = self.0.settings.retry.waits(&self.0.jitter);
        let mut found = owned(self.0.store.get(sandbox_id).await?, sandbox_id, track)?;
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let now = self.0.clock.now();
            let expires_at = found.expires_at.unwrap_or_default().max(now.plus(self.0.settings.lab_duration));
            let write = found.write(Event::Renew { expires_at }, now)?;
            let Some(renewed) = Claim::held(&found.changed(&write.change)) else {
                return Err(AccessError::NotOwner(sandbox_id.clone()));
            };
            found = match self.0.store.renew_claim(&write, &renewed).await? {
                WriteOutcome::Done => {
                    self.0.timers.watch(renewed.clone());
                    return Ok(renewed);
                }
                WriteOutcome::Conflict | WriteOutcome::ClaimMoved => {
                    tokio::time::sleep(waits.next_wait()).await;
                    owned(self.0.store.get(sandbox_id).await?, sandbox_id, track)?
                }
                WriteOutcome::Moved { found } => owned(found, sandbox_id, track)?,
            };
        }
        Err(AccessError::Contended(sandbox_id.clone()))
    }

    /// Reads a sandbox that the track holds or has given back.
    pub async fn read(&self, sandbox_id: &SandboxId, track: &TrackId) -> Result<Sandbox, AccessError> {
        owned(self.0.store.get(sandbox_id).await?, sandbox_id, track)
    }
}

/// The sandbox, if it is there for its owner; a tombstone is not.
fn owned(found: Option<Sandbox>, sandbox_id: &SandboxId, track: &TrackId) -> Result<Sandbox, AccessError> {
    let found = found
        .filter(|sandbox| sandbox.status != Status::Deleted)
        .ok_or_else(|| AccessError::NotFound(sandbox_id.clone()))?;
    if !found.belongs_to(track) {
        return Err(AccessError::NotOwner(sandbox_id.clone()));
    }
    Ok(found)
}

/// Marks a claim as running here; the mark goes with it, also if the claim panics.
struct Running {
    shared: Arc<Shared>,
    wish: Wish,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.running.remove(&self.wish);
    }
}

/// What to do after one candidate.
enum Step {
    Answer(Answer),
    TryNext,
    TryNextAfterMiss,
}

impl Shared {
    /// Tries candidates until one is claimed, the key turns out to hold a sandbox, or none is left.
    async fn claim_any(&self, request: AllocateRequest) -> Answer {
        let deadline = Instant::now() + self.settings.timeout;
        let mut waits = self.settings.retry.waits(&self.jitter);
        let mut misses = 0;
        loop {
            let taken = match timeout_at(deadline, self.pool.take(request.name_prefix.clone())).await {
                Ok(taken) => taken.map_err(AllocateError::from),
                Err(_) => Err(self.timed_out()),
            };
            let candidate = match taken {
                Ok(candidate) => candidate,
                Err(error) => return self.replay_or(&request, error).await,
            };
            match self.claim(candidate, &request, deadline).await {
                Step::Answer(answer) => return answer,
                Step::TryNext => misses = 0,
                Step::TryNextAfterMiss => misses += 1,
            }
            if misses >= MISSES_WITHOUT_WAIT {
                sleep_until(deadline.min(Instant::now() + waits.next_wait())).await;
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out());
            }
        }
    }

    async fn claim(&self, mut candidate: Candidate, request: &AllocateRequest, deadline: Instant) -> Step {
        let now = self.clock.now();
        let holding = Holding {
            track: request.track.clone(),
            track_name: request.track_name.clone(),
            key: request.key.clone(),
            expires_at: now.plus(self.settings.lab_duration),
        };
        let Ok((write, claim)) = candidate.sandbox().claim(holding, now) else {
            // Only an available sandbox gets into the pool; if one is not, the next refresh shows it.
            candidate.unknown();
            return Step::TryNext;
        };
        candidate.sent();
        let outcome = timeout_at(deadline, self.store.claim(&write, &claim))
            .await
            .unwrap_or_else(|_| Err(StoreError::OutcomeUnknown("the allocation's time ran out".to_owned())));
        match outcome {
            Ok(ClaimOutcome::Claimed) => {
                candidate.consumed();
                self.timers.watch(claim.clone());
                Step::Answer(Ok(Allocation { claim, replayed: false }))
            }
            Ok(ClaimOutcome::AlreadyHeld(held)) => {
                candidate.put_back();
                self.answer_held(held).await
            }
            Ok(ClaimOutcome::CandidateMoved { found }) => {
                count_conflict();
                candidate.moved(found);
                Step::TryNextAfterMiss
            }
            Ok(ClaimOutcome::Conflict) => {
                count_conflict();
                candidate.unknown();
                Step::TryNextAfterMiss
            }
            Err(StoreError::OutcomeUnknown(reason)) => {
                candidate.unknown();
                self.resolve_unknown(claim, reason, deadline).await
            }
            Err(error) => {
                candidate.put_back();
                Step::Answer(Err(error.into()))
            }
        }
    }

    /// A holding that should have ended is ended now, so that its key is free; any other is the answer.
    async fn answer_held(&self, held: Claim) -> Step {
        if !self.reaper.is_overdue(&held) {
            return Step::Answer(Ok(Allocation { claim: held, replayed: true }));
        }
        match self.reaper.expire(&held).await {
            Ok(_) => Step::TryNext,
            Err(error) => Step::Answer(Err(error.into())),
        }
    }

    /// Reads the claim back to learn what became of the request. If there is none, the request may still be under
    /// way; going on is safe, because only one claim can be written under the key.
    async fn resolve_unknown(&self, attempted: Claim, reason: String, deadline: Instant) -> Step {
        let unknown = || Step::Answer(Err(StoreError::OutcomeUnknown(reason.clone()).into()));
        match timeout_at(deadline, self.store.find_claim(&attempted.claim_key)).await {
            // The same sandbox may also be held since long ago, where a lagging index offered it once more.
            Ok(Ok(Some(held))) if held == attempted => {
                self.timers.watch(held.clone());
                Step::Answer(Ok(Allocation { claim: held, replayed: false }))
            }
            Ok(Ok(Some(held))) => self.answer_held(held).await,
            Ok(Ok(None)) => Step::TryNextAfterMiss,
            Ok(Err(_)) | Err(_) => unknown(),
        }
    }

    /// A replay gets its sandbox whatever keeps new allocations from it.
    async fn replay_or(&self, request: &AllocateRequest, error: AllocateError) -> Answer {
        let claim_key = ClaimKey { track: request.track.clone(), key: request.key.clone() };
        match timeout(REPLAY_PATIENCE, self.store.find_claim(&claim_key)).await {
            Ok(Ok(Some(held))) if !self.reaper.is_overdue(&held) => Ok(Allocation { claim: held, replayed: true }),
            Ok(Ok(_)) => Err(error),
            Ok(Err(store_error)) => Err(store_error.into()),
            // "None" would be a guess: the key may hold one.
            Err(_) if matches!(error, AllocateError::NoneAvailable) => Err(self.timed_out()),
            Err(_) => Err(error),
        }
    }

    fn timed_out(&self) -> AllocateError {
        AllocateError::TimedOut { budget: self.settings.timeout }
    }
}

fn count_conflict() {
    metrics::counter!("broker_allocate_conflicts_total").increment(1);
}

impl From<TakeError> for AllocateError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Empty => Self::NoneAvailable,
            TakeError::Paused => Self::Paused,
            TakeError::Gone => Self::Stopping,
            TakeError::RefreshFailed(error) => Self::Store(error),
        }
    }
}

impl std::fmt::Debug for Allocator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Allocator").field("running", &self.0.running.len()).finish_non_exhaustive()
    }
}
