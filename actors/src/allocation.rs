//! Allocation: take a candidate, claim it, answer. Renewal, release and read use the same parts.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::Instrument as _;

use crate::SPANS;
use crate::error::cause;
use crate::jobs::expiry_reaper::Reaper;
use crate::jobs::expiry_timers::ExpiryTimers;
use crate::pool::{Candidate, Pool, TakeError};
use crate::ports::{ClaimOutcome, Clock, SandboxStore, StoreError};
use crate::quota::{Quota, QuotaExceeded};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, Event, Holding, IdempotencyKey, Owner, Sandbox, SandboxId, Status, Timestamp,
};
use crate::update::{ClaimChange, SandboxError, Step, owned, update_sandbox};

/// Consecutive misses allowed before backing off.
const MISSES_WITHOUT_WAIT: u32 = 3;

/// How long reading the claim of a replay may take, beyond the budget, when no new sandbox can be had.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(1);

/// A track's request for a sandbox.
#[derive(Clone, Debug)]
pub struct AllocateRequest {
    /// The track.
    pub owner: Owner,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// The track's intent.
    pub key: IdempotencyKey,
    /// Only sandboxes whose name starts with this.
    pub name_prefix: Option<String>,
    /// How many new claims the caller's credential may make.
    pub quota: Option<Arc<Quota>>,
}

/// A successful allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// What the track holds.
    pub claim: Claim,
    /// Whether the track held it before this request.
    pub replayed: bool,
}

/// Why a track got no sandbox.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AllocateError {
    /// At some moment during the request the pool had no matching sandbox (I4).
    #[error("no sandboxes available")]
    NoneAvailable,
    /// The key holds a sandbox, and the caller does not prove that it owns it (I10).
    #[error("this key holds a sandbox of an owner with another secret")]
    NotOwner,
    /// The caller's credential has made as many new claims as it may.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// An operator paused the pool manager.
    #[error("allocation is paused")]
    Paused,
    /// Too many claims are in flight.
    #[error("more than {limit} allocations are in flight")]
    Overloaded {
        /// The most that may be in flight.
        limit: usize,
    },
    /// The allocation's budget ran out.
    #[error("the allocation took longer than {} ms", budget.as_millis())]
    TimedOut {
        /// The budget.
        budget: Duration,
    },
    /// The broker is stopping, or its pool manager is dead.
    #[error("the broker is stopping")]
    Stopping,
    /// The table holds more available sandboxes than the cache, so that it is not known whether one matches.
    #[error("the pool is too large to be read in full")]
    NotReadInFull,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A sandbox that its owner released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// When it was first released.
    pub deletion_requested_at: Timestamp,
}

/// The parameters of an allocation.
#[derive(Clone, Copy, Debug)]
pub struct AllocationSettings {
    /// How long a sandbox is held.
    pub lab_duration: Duration,
    /// How long renewals may extend a holding, from its start.
    pub max_holding: Duration,
    /// The budget of one allocation.
    pub timeout: Duration,
    /// The most claims in flight.
    pub max_in_flight: usize,
    /// The waits between candidates after consecutive misses.
    pub retry: RetryPolicy,
}

type Answer = Result<Allocation, AllocateError>;

/// What concurrent duplicates share: the owner with its proof (I10), the key, and the prefix, because "none" for one prefix
/// says nothing about another (I4).
type CoalescingKey = (Owner, IdempotencyKey, Option<String>);

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
    /// The claims in flight in this process, each with the channel that carries its answer. An entry exists as long as
    /// its claim; duplicates that arrive meanwhile wait for the same answer.
    in_flight: DashMap<CoalescingKey, watch::Receiver<Option<Answer>>>,
    /// One permit for each claim. The claim holds it, not the caller, who may go away.
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
        let in_flight = DashMap::new();
        Self(Arc::new(Shared { pool, store, clock, reaper, timers, settings, jitter, in_flight, permits }))
    }

    /// The number of claims in flight.
    pub fn in_flight(&self) -> usize {
        self.0.settings.max_in_flight - self.0.permits.available_permits()
    }

    /// Gives the track a sandbox: the one that its key already holds, or a new one.
    ///
    /// Concurrent duplicates of a request get the same answer. A caller that goes away cancels nothing: the claim runs
    /// to its end in its own task, so that its outcome is always known here.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`].
    pub async fn allocate(&self, request: AllocateRequest) -> Answer {
        match self.claim_or_join(&request).await {
            // The claim that was joined started before this request and may have found the pool empty before it (I4).
            // Whatever runs under this key now started later.
            (Err(AllocateError::NoneAvailable), Joined(true)) => self.claim_or_join(&request).await.0,
            (answer, _) => answer,
        }
    }

    /// Claims, or waits for the answer of a duplicate that does.
    async fn claim_or_join(&self, request: &AllocateRequest) -> (Answer, Joined) {
        let coalescing_key = (request.owner.clone(), request.key.clone(), request.name_prefix.clone());
        let (mut answer, joined) = match self.0.in_flight.entry(coalescing_key.clone()) {
            Entry::Occupied(in_flight) => (in_flight.get().clone(), Joined(true)),
            Entry::Vacant(vacant) => {
                let limit = self.0.settings.max_in_flight;
                let Ok(permit) = Arc::clone(&self.0.permits).try_acquire_owned() else {
                    return (Err(AllocateError::Overloaded { limit }), Joined(false));
                };
                let (sender, receiver) = watch::channel(None);
                vacant.insert(receiver.clone());
                let in_flight = InFlight { shared: Arc::clone(&self.0), coalescing_key, _permit: permit };
                let span = tracing::info_span!(target: SPANS, "claim", track_id = request.owner.track.as_str());
                let request = request.clone();
                let claim = async move {
                    let answer = in_flight.shared.claim_within_quota(request).await;
                    drop(in_flight);
                    sender.send_replace(Some(answer));
                };
                tokio::spawn(Box::pin(claim).instrument(span));
                (receiver, Joined(false))
            }
        };
        // The sender is dropped without an answer only if the claim panicked.
        let answered = answer.wait_for(Option::is_some).await.ok().and_then(|answered| answered.clone());
        let mut answered = answered.unwrap_or(Err(AllocateError::Stopping));
        if let Ok(allocation) = &mut answered {
            allocation.replayed |= joined.0;
        }
        (answered, joined)
    }

    /// Releases a sandbox. A repeated release by the same track gets the same answer until the sandbox is deleted.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn release(&self, sandbox_id: &SandboxId, owner: &Owner) -> Result<Released, SandboxError> {
        let now = self.0.clock.now();
        let released = |at| Released { sandbox_id: sandbox_id.clone(), deletion_requested_at: at };
        // The caller does not send its key. Most callers use the default, and one request is enough; otherwise the
        // record that comes back names the key.
        let default_key = IdempotencyKey::new(owner.track.as_str());
        let end = |key| ClaimChange::End(ClaimKey { track: owner.track.clone(), key });
        let first = Step::Write {
            update: ConditionalUpdate::release_by_holder(sandbox_id.clone(), owner.clone(), default_key.clone(), now),
            claim: end(default_key.clone()),
            answer: released(now),
        };
        let next = |current| {
            let sandbox = owned(current, sandbox_id, owner)?;
            if let (true, Some(at)) = (sandbox.status != Status::Allocated, sandbox.deletion_requested_at) {
                return Ok(Step::Done(released(at)));
            }
            let update = sandbox.update(Event::Release, now)?;
            let claim = end(sandbox.idempotency_key.unwrap_or(default_key.clone()));
            Ok(Step::Write { update, claim, answer: released(now) })
        };
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let released = update_sandbox(&*self.0.store, sandbox_id, waits, first, next).await?;
        self.0.timers.cancel(sandbox_id);
        Ok(released)
    }

    /// Extends a holding to a full lab duration from now, but not beyond the longest duration from its start. It never
    /// gets shorter: the present end may come from a replica whose clock is ahead.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn renew(&self, sandbox_id: &SandboxId, owner: &Owner) -> Result<Claim, SandboxError> {
        let AllocationSettings { lab_duration, max_holding, .. } = self.0.settings;
        let next = |current| {
            let sandbox = owned(current, sandbox_id, owner)?;
            let now = self.0.clock.now();
            let held_until = sandbox.expires_at.unwrap_or_default();
            let last_end = sandbox.allocated_at.plus(max_holding);
            if sandbox.status == Status::Allocated && held_until >= last_end {
                return Err(SandboxError::MaxDurationReached(sandbox_id.clone()));
            }
            let expires_at = held_until.max(now.plus(lab_duration).min(last_end));
            let update = sandbox.update(Event::Renew { expires_at }, now)?;
            let renewed = Claim::held(&sandbox.after(&update.mutation))
                .ok_or_else(|| SandboxError::NotOwner(sandbox_id.clone()))?;
            Ok(Step::Write { update, claim: ClaimChange::Renew(renewed.clone()), answer: renewed })
        };
        let first = next(self.0.store.get(sandbox_id).await?)?;
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let renewed = update_sandbox(&*self.0.store, sandbox_id, waits, first, next).await?;
        self.0.timers.set(renewed.clone());
        Ok(renewed)
    }

    /// Reads a sandbox that the owner holds or has released.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn read(&self, sandbox_id: &SandboxId, owner: &Owner) -> Result<Sandbox, SandboxError> {
        owned(self.0.store.get(sandbox_id).await?, sandbox_id, owner)
    }
}

/// Whether an answer is that of a duplicate.
struct Joined(bool);

/// A claim in flight. Its entry and its permit go with it, also if the claim panics.
struct InFlight {
    shared: Arc<Shared>,
    coalescing_key: CoalescingKey,
    _permit: OwnedSemaphorePermit,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.remove(&self.coalescing_key);
    }
}

/// What to do after one candidate.
enum NextStep {
    Answer(Answer),
    TryNext,
    TryNextAfterMiss,
    /// Another transaction works on the key's claim. The pool has nothing to do with it.
    TryAgainAfterWait,
}

impl Shared {
    /// Claims if the caller's quota allows another new claim. A replay is always answered and takes nothing from it.
    async fn claim_within_quota(&self, request: AllocateRequest) -> Answer {
        let permit = match request.quota.as_ref().map(Quota::take).transpose() {
            Ok(permit) => permit,
            Err(exceeded) => return self.replay_or(&request, exceeded.into()).await,
        };
        let answer = self.claim_any(request).await;
        let may_be_new = match &answer {
            Ok(allocation) => !allocation.replayed,
            Err(error) => matches!(error, AllocateError::Store(StoreError::OutcomeUnknown(_))),
        };
        if let (true, Some(permit)) = (may_be_new, permit) {
            permit.spend();
        }
        answer
    }

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
                NextStep::Answer(answer) => return answer,
                NextStep::TryNext => misses = 0,
                NextStep::TryNextAfterMiss => misses += 1,
                NextStep::TryAgainAfterWait => sleep_until(deadline.min(Instant::now() + waits.next_wait())).await,
            }
            if misses >= MISSES_WITHOUT_WAIT {
                // What this replica knows about the pool is out of date.
                self.pool.request_refresh();
                sleep_until(deadline.min(Instant::now() + waits.next_wait())).await;
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out());
            }
        }
    }

    async fn claim(&self, mut candidate: Candidate, request: &AllocateRequest, deadline: Instant) -> NextStep {
        let now = self.clock.now();
        let holding = Holding {
            owner: request.owner.clone(),
            track_name: request.track_name.clone(),
            key: request.key.clone(),
            expires_at: now.plus(self.settings.lab_duration),
        };
        let Ok((update, claim)) = candidate.sandbox().claim(holding, now) else {
            // Only available sandboxes enter the pool. If this one is not, the next refresh shows its state.
            candidate.unknown();
            return NextStep::TryNext;
        };
        candidate.sent();
        let outcome = timeout_at(deadline, self.store.claim(&update, &claim))
            .await
            .unwrap_or_else(|_| Err(StoreError::OutcomeUnknown(cause("the allocation's budget ran out"))));
        match outcome {
            Ok(ClaimOutcome::Claimed) => {
                candidate.consumed();
                self.timers.set(claim.clone());
                NextStep::Answer(Ok(Allocation { claim, replayed: false }))
            }
            Ok(ClaimOutcome::AlreadyHeld(held)) => {
                candidate.put_back();
                self.answer_held(held, request).await
            }
            Ok(ClaimOutcome::CandidateChanged { current }) => {
                count_conflict();
                candidate.changed(current);
                NextStep::TryNextAfterMiss
            }
            Ok(ClaimOutcome::CandidateConflict) => {
                count_conflict();
                candidate.unknown();
                NextStep::TryNextAfterMiss
            }
            Ok(ClaimOutcome::ClaimConflict) => {
                count_conflict();
                candidate.put_back();
                NextStep::TryAgainAfterWait
            }
            Err(error @ StoreError::OutcomeUnknown(_)) => {
                candidate.unknown();
                self.resolve_unknown(claim, error, request, deadline).await
            }
            Err(error) => {
                candidate.put_back();
                NextStep::Answer(Err(error.into()))
            }
        }
    }

    /// Ends a holding that is overdue, so that its key is free; any other holding is the answer.
    async fn answer_held(&self, held: Claim, request: &AllocateRequest) -> NextStep {
        if !self.reaper.is_overdue(&held) {
            return NextStep::Answer(replay(held, request));
        }
        let freed = match self.reaper.expire(&held).await {
            Ok(true) => return NextStep::TryNext,
            // The sandbox is not held as the claim says. A restored table may contain such a claim; left alone it would
            // block its key for ever. If the holding was renewed or released instead, the claim has changed too.
            Ok(false) => self.store.delete_claim(&held).await,
            Err(error) => Err(error),
        };
        match freed {
            Ok(was_orphaned) => {
                if was_orphaned {
                    let (sandbox_id, track_id) = (&held.sandbox_id, &held.claim_key.track);
                    tracing::warn!(event = "orphaned_claim", %sandbox_id, %track_id, "deleted a claim without its sandbox");
                }
                NextStep::TryNextAfterMiss
            }
            Err(error) => NextStep::Answer(Err(error.into())),
        }
    }

    /// Reads the claim back to learn the outcome of a request. If there is no claim, the request may still arrive;
    /// going on is safe, because only one claim can be written under the key.
    async fn resolve_unknown(
        &self,
        attempted: Claim,
        error: StoreError,
        request: &AllocateRequest,
        deadline: Instant,
    ) -> NextStep {
        match timeout_at(deadline, self.store.find_claim(&attempted.claim_key)).await {
            // Only an equal claim is the attempted one: the key may have held this same sandbox before the request.
            Ok(Ok(Some(held))) if held == attempted => {
                self.timers.set(held.clone());
                NextStep::Answer(Ok(Allocation { claim: held, replayed: false }))
            }
            Ok(Ok(Some(held))) => self.answer_held(held, request).await,
            Ok(Ok(None)) => NextStep::TryNextAfterMiss,
            Ok(Err(_)) | Err(_) => NextStep::Answer(Err(error.into())),
        }
    }

    /// A replay gets its sandbox whatever prevents new allocations.
    async fn replay_or(&self, request: &AllocateRequest, error: AllocateError) -> Answer {
        let claim_key = ClaimKey { track: request.owner.track.clone(), key: request.key.clone() };
        match timeout(REPLAY_TIMEOUT, self.store.find_claim(&claim_key)).await {
            Ok(Ok(Some(held))) if !self.reaper.is_overdue(&held) => replay(held, request),
            Ok(Ok(_)) => Err(error),
            Ok(Err(store_error)) => Err(store_error.into()),
            // "None" would be a guess: the key may hold a sandbox.
            Err(_) if matches!(error, AllocateError::NoneAvailable) => Err(self.timed_out()),
            Err(_) => Err(error),
        }
    }

    fn timed_out(&self) -> AllocateError {
        AllocateError::TimedOut { budget: self.settings.timeout }
    }
}

/// The answer to a request whose key holds a sandbox already.
fn replay(held: Claim, request: &AllocateRequest) -> Answer {
    if !request.owner.proves(held.owner_proof.as_ref()) {
        return Err(AllocateError::NotOwner);
    }
    Ok(Allocation { claim: held, replayed: true })
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
            TakeError::NotReadInFull => Self::NotReadInFull,
        }
    }
}

impl std::fmt::Debug for Allocator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Allocator").field("in_flight", &self.0.in_flight.len()).finish_non_exhaustive()
    }
}
