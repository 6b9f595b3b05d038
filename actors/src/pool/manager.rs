//! PoolManager: caches the available sandboxes and hands out candidates.
//!
//! The actor does no I/O. Callers hold a [`Pool`]; [`Pool::take`] returns a [`Candidate`], a guard that reports the
//! outcome to the actor, also when it is dropped early. The refresh loop (`refresh.rs`) reads the index and passes what
//! it lists to the actor.
//!
//! A request that finds no candidate waits in the actor, until one is put back or a refresh ends. "None" is the answer
//! only after a refresh of all shards that started after the request arrived, that listed nothing for it, and during
//! which no matching candidate was in flight, of unknown outcome or doubtful: then the pool was empty while the index was
//! read (I4).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cache::{Cache, CandidateOutcome, Listed, MAX_CACHED, Refresh, Scope, matches_prefix};
use super::refresh_requests::RefreshRequests;
use crate::liveness::LivenessGuard;
use crate::ports::StoreError;
use crate::sandbox::{ReplicaId, Sandbox, ShardCount};

/// Why no candidate was handed out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TakeError {
    /// The pool has no matching sandbox.
    #[error("the pool has no matching sandbox")]
    Empty,
    /// An operator paused the pool manager.
    #[error("the pool manager is paused")]
    Paused,
    /// The pool manager is gone.
    #[error("the pool manager is gone")]
    Gone,
    /// The refresh failed, so it is not known whether there is a matching sandbox.
    #[error("the pool refresh failed")]
    RefreshFailed(#[source] StoreError),
    /// The table holds more available sandboxes than the cache, so that it is not known whether one matches.
    #[error("the pool is too large to be read in full")]
    NotReadInFull,
}

/// The state of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PoolSnapshot {
    /// Candidates that may be handed out.
    pub cached: usize,
    /// Candidates in flight or of unknown outcome.
    pub in_flight: usize,
    /// Requests that wait for a candidate.
    pub waiting: usize,
    /// Seconds since the last refresh ended; `None` before the first.
    pub age_seconds: Option<u64>,
    /// Whether allocation is paused on this replica.
    pub paused: bool,
}

/// The pool manager's address.
#[derive(Clone, Debug)]
pub struct Pool {
    address: Addr<PoolManager>,
    requests: Arc<RefreshRequests>,
}

impl Pool {
    /// Starts the pool manager in `arbiter`. With fewer than `low_water` candidates it requests a refresh.
    pub fn start(
        arbiter: &ArbiterHandle,
        replica: ReplicaId,
        shards: ShardCount,
        low_water: usize,
        liveness: LivenessGuard,
    ) -> Self {
        let requests = Arc::new(RefreshRequests::default());
        let manager = PoolManager {
            cache: Cache::new(replica, shards),
            waiters: VecDeque::new(),
            paused: false,
            low_water,
            refreshed_at: None,
            requests: Arc::clone(&requests),
            _liveness: liveness,
        };
        Self { address: PoolManager::start_in_arbiter(arbiter, |_| manager), requests }
    }

    /// Takes a candidate whose name starts with `prefix`. Waits while one may still be put back: bound it with a timeout.
    /// Dropping the future gives up the place in the queue and loses no candidate.
    ///
    /// # Errors
    ///
    /// See [`TakeError`].
    pub async fn take(&self, prefix: Option<String>) -> Result<Candidate, TakeError> {
        let (reply, answer) = oneshot::channel();
        // `do_send` ignores the mailbox's capacity; the number of claims in flight is the bound.
        self.address.do_send(Take { prefix, reply });
        answer.await.map_err(|_| TakeError::Gone)?
    }

    /// Takes a candidate whose name starts with `prefix`, if one is free now.
    ///
    /// # Errors
    ///
    /// See [`TakeError`].
    pub async fn try_take(&self, prefix: Option<String>) -> Result<Option<Candidate>, TakeError> {
        self.address.send(TryTake { prefix }).await.map_err(|_| TakeError::Gone)?
    }

    /// The names of free sandboxes, each as often as it is free: for each prefix at most as many as its number.
    pub(crate) async fn free_names(&self, prefixes: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
        self.address.send(FreeNames(prefixes)).await.unwrap_or_default()
    }

    /// The state of the cache; `None` if the pool manager is gone.
    pub async fn snapshot(&self) -> Option<PoolSnapshot> {
        self.address.send(Snapshot).await.ok()
    }

    /// Requests a refresh of all shards.
    pub fn request_refresh(&self) {
        self.requests.add(Scope::All, true);
    }

    /// Requests a refresh of this replica's shards, because sandboxes became available.
    pub(crate) fn request_refresh_of_own(&self) {
        self.requests.add(Scope::Own, false);
    }

    pub(super) fn requests(&self) -> &RefreshRequests {
        &self.requests
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.address.do_send(SetPaused(paused));
    }

    pub(crate) fn set_replicas(&self, live: Vec<ReplicaId>) {
        self.address.do_send(SetReplicas(live));
    }

    pub(crate) async fn start_refresh(&self, scope: Scope) -> Result<Refresh, TakeError> {
        self.address.send(StartRefresh(scope)).await.map_err(|_| TakeError::Gone)
    }

    /// Passes on what a refresh listed, or why it failed.
    pub(crate) async fn end_refresh(
        &self,
        refresh: Refresh,
        listed: Result<Listed, StoreError>,
    ) -> Result<(), TakeError> {
        self.address.send(EndRefresh { refresh, listed }).await.map_err(|_| TakeError::Gone)
    }
}

/// A candidate that was handed out. Its holder reports the outcome. If it is dropped before that, the pool takes it back
/// if no request was sent for it; otherwise the next refresh shows its state.
#[derive(Debug)]
pub struct Candidate {
    sandbox: Arc<Sandbox>,
    manager: Addr<PoolManager>,
    outcome_if_dropped: Option<CandidateOutcome>,
}

impl Candidate {
    fn new(sandbox: Arc<Sandbox>, manager: Addr<PoolManager>) -> Self {
        Self { sandbox, manager, outcome_if_dropped: Some(CandidateOutcome::Untouched) }
    }

    /// The sandbox, as the pool knows it.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// A request that may change the sandbox is about to be sent.
    pub fn sent(&mut self) {
        self.outcome_if_dropped = Some(CandidateOutcome::Unknown);
    }

    /// Nothing was written.
    pub fn put_back(self) {
        self.complete(CandidateOutcome::Untouched);
    }

    /// The claim succeeded.
    pub fn consumed(self) {
        self.complete(CandidateOutcome::Consumed);
    }

    /// The sandbox was not as expected; `current` is its record now.
    pub fn changed(self, current: Option<Sandbox>) {
        self.complete(CandidateOutcome::Found(current.map(Box::new)));
    }

    /// It is not known whether the claim succeeded.
    pub fn unknown(self) {
        self.complete(CandidateOutcome::Unknown);
    }

    fn complete(mut self, outcome: CandidateOutcome) {
        self.outcome_if_dropped = Some(outcome);
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome_if_dropped.take() {
            self.manager.do_send(Complete { candidate: Arc::clone(&self.sandbox), outcome });
        }
    }
}

type TakeReply = oneshot::Sender<Result<Candidate, TakeError>>;

/// The actor.
#[derive(Debug)]
pub struct PoolManager {
    cache: Cache,
    /// Requests without a candidate, oldest first. At most as many as claims in flight.
    waiters: VecDeque<Waiter>,
    paused: bool,
    low_water: usize,
    refreshed_at: Option<Instant>,
    requests: Arc<RefreshRequests>,
    _liveness: LivenessGuard,
}

#[derive(Debug)]
struct Waiter {
    prefix: Option<String>,
    reply: TakeReply,
    /// The last refresh that started before the request arrived. Only a later one can prove that the pool is empty.
    last_started: u64,
}

impl PoolManager {
    fn hand_out(&self, sandbox: Arc<Sandbox>, manager: Addr<Self>, reply: TakeReply) {
        // If the taker is gone, the candidate is dropped here and comes back as a message.
        let _ = reply.send(Ok(Candidate::new(sandbox, manager)));
    }

    /// This replica's shards are low: those of others may have more.
    fn request_refresh_if_low(&self) {
        if self.cache.free_count() < self.low_water {
            self.requests.add(Scope::All, false);
        }
    }

    fn request_refresh_of_unknown(&self) {
        if let Some(scope) = self.cache.scope_of_unknown() {
            self.requests.add(scope, false);
        }
    }

    /// After a refill: serves the waiters in order of arrival.
    fn serve_waiters(&mut self, manager: &Addr<Self>) {
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.reply.is_closed() {
                continue;
            }
            match self.cache.take(waiter.prefix.as_deref()) {
                Some(sandbox) => self.hand_out(sandbox, manager.clone(), waiter.reply),
                None => self.waiters.push_back(waiter),
            }
        }
    }

    /// After one sandbox came back: serves the oldest waiter that it matches.
    fn serve_waiter_of(&mut self, returned: &Sandbox, manager: &Addr<Self>) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let is_match = |waiter: &Waiter| matches_prefix(returned, waiter.prefix.as_deref());
        let Some(index) = self.waiters.iter().position(is_match) else { return };
        let Some(sandbox) = self.cache.take(self.waiters[index].prefix.as_deref()) else { return };
        if let Some(waiter) = self.waiters.remove(index) {
            self.hand_out(sandbox, manager.clone(), waiter.reply);
        }
    }
}

/// Answers the waiters that `is_concerned` selects with `reason`.
fn dismiss(waiters: &mut VecDeque<Waiter>, reason: &TakeError, is_concerned: impl Fn(&Waiter) -> bool) {
    let (dismissed, kept): (VecDeque<_>, _) = std::mem::take(waiters).into_iter().partition(is_concerned);
    *waiters = kept;
    for waiter in dismissed {
        let _ = waiter.reply.send(Err(reason.clone()));
    }
}

impl Actor for PoolManager {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Take {
    prefix: Option<String>,
    reply: TakeReply,
}

impl Handler<Take> for PoolManager {
    type Result = ();

    fn handle(&mut self, take: Take, context: &mut Self::Context) {
        if self.paused {
            let _ = take.reply.send(Err(TakeError::Paused));
            return;
        }
        match self.cache.take(take.prefix.as_deref()) {
            Some(sandbox) => self.hand_out(sandbox, context.address(), take.reply),
            None => {
                self.requests.add(Scope::All, true);
                let last_started = self.cache.last_started();
                self.waiters.push_back(Waiter { prefix: take.prefix, reply: take.reply, last_started });
            }
        }
        self.request_refresh_if_low();
    }
}

#[derive(Message)]
#[rtype(result = "Result<Option<Candidate>, TakeError>")]
struct TryTake {
    prefix: Option<String>,
}

impl Handler<TryTake> for PoolManager {
    type Result = Result<Option<Candidate>, TakeError>;

    fn handle(&mut self, take: TryTake, context: &mut Self::Context) -> Self::Result {
        if self.paused {
            return Err(TakeError::Paused);
        }
        let taken = self.cache.take(take.prefix.as_deref());
        self.request_refresh_if_low();
        Ok(taken.map(|sandbox| Candidate::new(sandbox, context.address())))
    }
}

#[derive(Message)]
#[rtype(result = "BTreeMap<String, usize>")]
struct FreeNames(BTreeMap<String, usize>);

impl Handler<FreeNames> for PoolManager {
    type Result = MessageResult<FreeNames>;

    fn handle(&mut self, FreeNames(prefixes): FreeNames, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.cache.free_names(&prefixes))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Complete {
    candidate: Arc<Sandbox>,
    outcome: CandidateOutcome,
}

impl Handler<Complete> for PoolManager {
    type Result = ();

    fn handle(&mut self, message: Complete, context: &mut Self::Context) {
        self.cache.complete(&message.candidate, message.outcome, Instant::now());
        self.request_refresh_of_unknown();
        if !self.waiters.is_empty() {
            self.serve_waiter_of(&message.candidate, &context.address());
        }
        self.request_refresh_if_low();
    }
}

#[derive(Message)]
#[rtype(result = "Refresh")]
struct StartRefresh(Scope);

impl Handler<StartRefresh> for PoolManager {
    type Result = MessageResult<StartRefresh>;

    fn handle(&mut self, StartRefresh(scope): StartRefresh, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.cache.start_refresh(scope))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct EndRefresh {
    refresh: Refresh,
    listed: Result<Listed, StoreError>,
}

impl Handler<EndRefresh> for PoolManager {
    type Result = ();

    fn handle(&mut self, message: EndRefresh, context: &mut Self::Context) {
        let EndRefresh { refresh, listed } = message;
        let is_of_all = refresh.scope == Scope::All;
        // Only a refresh of all shards that started later than a request answers it.
        let is_answered = |waiter: &Waiter| is_of_all && waiter.last_started < refresh.number;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.cache.end_refresh();
                dismiss(&mut self.waiters, &TakeError::RefreshFailed(error), is_answered);
                return;
            }
        };
        let now = Instant::now();
        let is_complete = self.cache.refill(&refresh, listed, now);
        self.refreshed_at = Some(now);
        self.serve_waiters(&context.address());
        let Self { cache, waiters, .. } = self;
        if is_complete || !is_of_all {
            let has_none = |waiter: &Waiter| is_answered(waiter) && cache.shows_none(waiter.prefix.as_deref());
            dismiss(waiters, &TakeError::Empty, has_none);
        } else {
            let limit = MAX_CACHED;
            tracing::warn!(event = "pool_cache_full", limit, "the pool cache is full; sandboxes were left out");
            dismiss(waiters, &TakeError::NotReadInFull, is_answered);
        }
        cache.end_refresh();
        if !self.waiters.is_empty() {
            self.requests.add(Scope::All, true);
        }
        self.request_refresh_of_unknown();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct SetPaused(bool);

impl Handler<SetPaused> for PoolManager {
    type Result = ();

    fn handle(&mut self, message: SetPaused, _: &mut Self::Context) {
        self.paused = message.0;
        if self.paused {
            dismiss(&mut self.waiters, &TakeError::Paused, |_| true);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct SetReplicas(Vec<ReplicaId>);

impl Handler<SetReplicas> for PoolManager {
    type Result = ();

    fn handle(&mut self, message: SetReplicas, _: &mut Self::Context) {
        if self.cache.set_replicas(message.0) {
            self.requests.add(Scope::Own, false);
        }
    }
}

#[derive(Message)]
#[rtype(result = "PoolSnapshot")]
struct Snapshot;

impl Handler<Snapshot> for PoolManager {
    type Result = MessageResult<Snapshot>;

    fn handle(&mut self, _: Snapshot, _: &mut Self::Context) -> Self::Result {
        MessageResult(PoolSnapshot {
            cached: self.cache.free_count(),
            in_flight: self.cache.outstanding_count(),
            waiting: self.waiters.len(),
            age_seconds: self.refreshed_at.map(|at| Instant::now().duration_since(at).as_secs()),
            paused: self.paused,
        })
    }
}
