//! Allocation: take a candidate, claim it, answer. [`held`] has what an owner does with its holding.

mod error;
pub mod held;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::Instrument as _;

pub use self::error::AllocateError;
use crate::SPANS;
use crate::error::cause;
use crate::jobs::expiry_reaper::Reaper;
use crate::jobs::expiry_timers::ExpiryTimers;
use crate::pool::{Candidate, Pool, TakeError};
use crate::ports::{ClaimOutcome, Clock, GrantOutcome, SandboxStore, StoreError, Ticket};
use crate::queue::Queue;
use crate::quota::{Quota, QuotaExceeded, QuotaPermit};
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Claim, ClaimKey, Holding, IdempotencyKey, LabTime, Owner};

/// Consecutive misses allowed before backing off.
const MISSES_WITHOUT_WAIT: u32 = 3;

/// How long reading the claim of a replay may take, beyond the budget, when no new sandbox can be had.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a request is queued at least.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);

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
    /// How long the lab takes; `None` for the configured duration.
    pub lab_duration: Option<Duration>,
    /// The sandbox waits for its learner: the lab's time starts when it is activated.
    pub standby: bool,
    /// How long the request waits for a sandbox if none is free; `None` for the configured time.
    pub wait: Option<Duration>,
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
    /// How long the request waited in the queue.
    pub waited: Duration,
}

/// The parameters of an allocation.
#[derive(Clone, Copy, Debug)]
pub struct AllocationSettings {
    /// How long a sandbox is held.
    pub lab_duration: Duration,
    /// How long renewals may extend a holding, from the start of its lab.
    pub max_holding: Duration,
    /// How long a standby waits for its learner.
    pub standby_max: Duration,
    /// How long a request waits for a sandbox unless it says so itself.
    pub wait: Duration,
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
    queue: Queue,
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
    #[expect(clippy::too_many_arguments, reason = "each is another part of the broker; only start.rs calls this")]
    pub(crate) fn new(
        pool: Pool,
        queue: Queue,
        store: Arc<dyn SandboxStore>,
        clock: Arc<dyn Clock>,
        reaper: Reaper,
        timers: ExpiryTimers,
        settings: AllocationSettings,
        jitter: Jitter,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(settings.max_in_flight));
        let in_flight = DashMap::new();
        Self(Arc::new(Shared { pool, queue, store, clock, reaper, timers, settings, jitter, in_flight, permits }))
    }

    /// The longest holding.
    pub fn max_holding(&self) -> Duration {
        self.0.settings.max_holding
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
        self.allocate_while(request, std::future::pending()).await
    }

    /// The same. A caller that waits in the queue is no longer served once `gone` completes, because it is no longer there.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`].
    pub async fn allocate_while(&self, request: AllocateRequest, gone: impl Future<Output = ()>) -> Answer {
        let max = self.0.settings.max_holding;
        if request.lab_duration.is_some_and(|duration| duration > max) {
            return Err(AllocateError::TooLong { max });
        }
        let wait = request.wait.unwrap_or(self.0.settings.wait);
        let wait_until = Instant::now() + wait;
        if self.0.queue.is_ahead_of_newcomers().await {
            // A request that may not wait is queued for a moment too, so that its retries move up.
            return self.queue(request, wait_until.max(Instant::now() + SHORTEST_WAIT), false, gone).await;
        }
        let answer = match self.claim_or_join(&request).await {
            // The claim that was joined started before this request and may have found the pool empty before it (I4).
            // Whatever runs under this key now started later.
            (Err(AllocateError::NoneAvailable), Joined(true)) => self.claim_or_join(&request).await.0,
            (answer, _) => answer,
        };
        match answer {
            Err(AllocateError::NoneAvailable) if !wait.is_zero() => self.queue(request, wait_until, true, gone).await,
            Ok(Allocation { replayed: false, .. }) => {
                self.0.queue.count_unqueued();
                answer
            }
            answer => answer,
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
        let permit = match quota_permit(&request) {
            Ok(permit) => permit,
            Err(exceeded) => return self.replay_or(&request, exceeded.into()).await,
        };
        let answer = self.claim_any(request).await;
        spend_if_new(permit, &answer);
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
            match self.claim(candidate, &request, None, deadline).await {
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

    /// Claims a candidate, for a waiter with its ticket.
    async fn claim(
        &self,
        mut candidate: Candidate,
        request: &AllocateRequest,
        ticket: Option<&Ticket>,
        deadline: Instant,
    ) -> NextStep {
        let now = self.clock.now();
        let lab_duration = request.lab_duration.unwrap_or(self.settings.lab_duration);
        let holding = Holding {
            owner: request.owner.clone(),
            track_name: request.track_name.clone(),
            key: request.key.clone(),
            expires_at: now.plus(if request.standby { self.settings.standby_max } else { lab_duration }),
            lab: LabTime { lab_seconds: Some(lab_duration.as_secs()), standby: request.standby, activated_at: None },
        };
        let Ok((update, claim)) = candidate.sandbox().claim(holding, now) else {
            // Only available sandboxes enter the pool. If this one is not, the next refresh shows its state.
            candidate.unknown();
            return NextStep::TryNext;
        };
        candidate.sent();
        let sent = async {
            match ticket {
                Some(ticket) => self.store.grant(&update, &claim, ticket, now).await,
                None => self.store.claim(&update, &claim).await.map(GrantOutcome::Claim),
            }
        };
        let outcome = timeout_at(deadline, sent)
            .await
            .unwrap_or_else(|_| Err(StoreError::OutcomeUnknown(cause("the allocation's budget ran out"))));
        let outcome = match outcome {
            Ok(GrantOutcome::Claim(outcome)) => Ok(outcome),
            Ok(GrantOutcome::TicketGone) => {
                candidate.put_back();
                return NextStep::Answer(Err(AllocateError::Withdrawn));
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(ClaimOutcome::Claimed) => {
                candidate.consumed();
                self.timers.set(claim.clone());
                NextStep::Answer(Ok(Allocation { claim, replayed: false, waited: Duration::ZERO }))
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
                NextStep::Answer(Ok(Allocation { claim: held, replayed: false, waited: Duration::ZERO }))
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

/// One new claim from the quota of the caller, if it has one.
fn quota_permit(request: &AllocateRequest) -> Result<Option<QuotaPermit>, QuotaExceeded> {
    request.quota.as_ref().map(Quota::take).transpose()
}

/// Spends the permit if the answer may be that of a new claim. Otherwise it goes back.
fn spend_if_new(permit: Option<QuotaPermit>, answer: &Answer) {
    let may_be_new = match answer {
        Ok(allocation) => !allocation.replayed,
        Err(error) => matches!(error, AllocateError::Store(StoreError::OutcomeUnknown(_))),
    };
    if let (true, Some(permit)) = (may_be_new, permit) {
        permit.spend();
    }
}

/// The answer to a request whose key holds a sandbox already.
fn replay(held: Claim, request: &AllocateRequest) -> Answer {
    if !request.owner.proves(held.owner_proof.as_ref()) {
        return Err(AllocateError::NotOwner);
    }
    Ok(Allocation { claim: held, replayed: true, waited: Duration::ZERO })
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
