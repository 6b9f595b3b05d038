//! PoolManager: caches the available sandboxes and hands out candidates.
//!
//! The actor does no I/O. [`Pool`] is its address as callers see it: [`Pool::take`] yields a [`Candidate`], a guard
//! that tells the actor what became of it, also when its holder is dropped half-way. The first candidates lie ready for
//! takers (`prefetch.rs`), who ask the actor only when none of them fits. The refresh loop (`refresh.rs`) reads the index
//! and hands the actor what it found.
//!
//! A request that finds nothing waits in the actor: for a candidate that comes back, or for a refresh, whichever is
//! first. "None" is the answer only after a refresh that began after the request came, that found nothing for it (not
//! even what went to others who waited longer), and during which no fitting candidate was in flight or in doubt: then
//! the pool was empty while the index was read (I4).

mod cache;
mod prefetch;
mod walk;

use std::collections::VecDeque;
use std::sync::Arc;

use actix::prelude::*;
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(crate) use self::cache::MAX_CACHED;
use self::cache::{Cache, Fate, RefreshNumber, fits};
use self::prefetch::Prefetched;
use crate::ports::StoreError;
use crate::sandbox::{ReplicaId, Sandbox};
use crate::supervision::Vital;

/// Why no candidate was handed out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TakeError {
    /// There is none that fits.
    #[error("the pool has no sandbox that fits")]
    Empty,
    /// An operator has paused the pool manager.
    #[error("the pool manager is paused")]
    Paused,
    /// The pool manager is gone.
    #[error("the pool manager is gone")]
    Gone,
    /// The pool could not be refreshed, so whether there is one is not known.
    #[error("the pool could not be refreshed: {0}")]
    RefreshFailed(#[source] StoreError),
}

/// What the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PoolSnapshot {
    /// Candidates that may be handed out.
    pub cached: usize,
    /// Candidates handed out, or of unknown fate.
    pub in_flight: usize,
    /// Requests that wait for a candidate.
    pub waiting: usize,
    /// Seconds since the last refresh ended; `None` before the first.
    pub age_seconds: Option<u64>,
    /// Whether allocation is paused here.
    pub paused: bool,
}

/// The pool manager, for those who use it.
#[derive(Clone, Debug)]
pub struct Pool {
    address: Addr<PoolManager>,
    prefetched: Prefetched,
    refresh_wanted: Arc<Notify>,
}

impl Pool {
    /// Starts the pool manager in `arbiter`; `low_water` candidates or fewer make it ask for a refresh.
    pub fn start(arbiter: &ArbiterHandle, replica: ReplicaId, low_water: usize, vital: Vital) -> Self {
        let prefetched = Prefetched::default();
        let refresh_wanted = Arc::new(Notify::new());
        let manager = PoolManager {
            cache: Cache::new(replica),
            prefetched: prefetched.clone(),
            waiters: VecDeque::new(),
            paused: false,
            low_water,
            refreshed_at: None,
            refresh_wanted: Arc::clone(&refresh_wanted),
            _vital: vital,
        };
        Self { address: PoolManager::start_in_arbiter(arbiter, |_| manager), prefetched, refresh_wanted }
    }

    /// Hands out a candidate whose name starts with `prefix`. Waits while one might come back; bound it with a
    /// timeout. Dropping the future gives up the place in the queue and loses no candidate.
    pub async fn take(&self, prefix: Option<String>) -> Result<Candidate, TakeError> {
        if let Some(sandbox) = self.prefetched.take(prefix.as_deref()) {
            return Ok(Candidate::new(sandbox, self.address.clone()));
        }
        let (reply, answer) = oneshot::channel();
        // `do_send` ignores the mailbox's capacity; the bound is the number of claims that may be under way.
        self.address.do_send(Take { prefix, reply });
        answer.await.map_err(|_| TakeError::Gone)?
    }

    /// What the cache holds; `None` if the pool manager is gone.
    pub async fn snapshot(&self) -> Option<PoolSnapshot> {
        self.address.send(Snapshot).await.ok()
    }

    /// Asks for a refresh soon; many askers get one.
    pub fn want_refresh(&self) {
        self.refresh_wanted.notify_one();
    }

    /// Returns when somebody has asked for a refresh.
    pub(crate) async fn refresh_wanted(&self) {
        self.refresh_wanted.notified().await;
    }

    /// Stops or goes on handing out.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.address.do_send(SetPaused(paused));
    }

    pub(crate) fn set_replicas(&self, live: Vec<ReplicaId>) {
        self.address.do_send(SetReplicas(live));
    }

    pub(crate) async fn begin_refresh(&self) -> Result<RefreshNumber, TakeError> {
        self.address.send(BeginRefresh).await.map_err(|_| TakeError::Gone)
    }

    /// Hands over what the refresh `number` read, or why it failed.
    pub(crate) async fn end_refresh(
        &self,
        number: RefreshNumber,
        listed: Result<Vec<Sandbox>, StoreError>,
    ) -> Result<(), TakeError> {
        self.address.send(EndRefresh { number, listed }).await.map_err(|_| TakeError::Gone)
    }
}

/// A candidate that was handed out. Whoever holds it says what became of it; if it is dropped before that, the pool
/// takes it back if no request went out for it, and else waits for the next refresh to show its true state.
#[derive(Debug)]
pub struct Candidate {
    sandbox: Arc<Sandbox>,
    manager: Addr<PoolManager>,
    fate_if_dropped: Option<Fate>,
}

impl Candidate {
    fn new(sandbox: Arc<Sandbox>, manager: Addr<PoolManager>) -> Self {
        Self { sandbox, manager, fate_if_dropped: Some(Fate::Untouched) }
    }

    /// The sandbox as the pool knows it.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// A request that may change the sandbox goes out now.
    pub fn sent(&mut self) {
        self.fate_if_dropped = Some(Fate::Unknown);
    }

    /// Nothing was written: the next one may have it.
    pub fn put_back(self) {
        self.settle(Fate::Untouched);
    }

    /// It was claimed.
    pub fn consumed(self) {
        self.settle(Fate::Consumed);
    }

    /// It was not as expected; `found` is what is there.
    pub fn moved(self, found: Option<Sandbox>) {
        self.settle(Fate::Found(found.map(Box::new)));
    }

    /// Whether it was claimed is not known.
    pub fn unknown(self) {
        self.settle(Fate::Unknown);
    }

    fn settle(mut self, fate: Fate) {
        self.fate_if_dropped = Some(fate);
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(fate) = self.fate_if_dropped.take() {
            self.manager.do_send(Settle { candidate: Arc::clone(&self.sandbox), fate });
        }
    }
}

type TakeReply = oneshot::Sender<Result<Candidate, TakeError>>;

/// The actor.
#[derive(Debug)]
pub struct PoolManager {
    cache: Cache,
    prefetched: Prefetched,
    /// Requests that found nothing, oldest first. No more than claims may be under way.
    waiters: VecDeque<Waiter>,
    paused: bool,
    low_water: usize,
    refreshed_at: Option<Instant>,
    refresh_wanted: Arc<Notify>,
    _vital: Vital,
}

#[derive(Debug)]
struct Waiter {
    prefix: Option<String>,
    reply: TakeReply,
    /// The last refresh that had begun when the request came; only a later one tells it that the pool is empty.
    last_begun: RefreshNumber,
}

impl PoolManager {
    fn hand_out(&self, sandbox: Arc<Sandbox>, manager: Addr<Self>, reply: TakeReply) {
        // If the taker is gone, the candidate is dropped here and so comes back as a message.
        let _ = reply.send(Ok(Candidate::new(sandbox, manager)));
    }

    fn take(&mut self, prefix: Option<&str>) -> Option<Arc<Sandbox>> {
        self.prefetched.take(prefix).or_else(|| self.cache.take(prefix))
    }

    /// Lays out candidates for those to come; whoever waits is served before.
    fn replenish(&mut self) {
        if !self.paused {
            self.prefetched.fill(|| self.cache.take(None));
        }
    }

    /// Asks for a refresh if few are left to hand out.
    fn refresh_if_low(&self) {
        if self.cached() < self.low_water {
            self.refresh_wanted.notify_one();
        }
    }

    /// Takes candidates back that lie ready, because something is to be decided about all that are free.
    fn recall(&mut self, now: Instant) {
        for sandbox in self.prefetched.recall() {
            self.cache.settle(&sandbox, Fate::Untouched, now);
        }
    }

    /// How many may be handed out.
    fn cached(&self) -> usize {
        self.cache.free_count() + self.prefetched.count()
    }

    /// After a refill: serves whoever can be served, in order of arrival.
    fn serve_waiters(&mut self, manager: &Addr<Self>) {
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.reply.is_closed() {
                continue;
            }
            match self.take(waiter.prefix.as_deref()) {
                Some(sandbox) => self.hand_out(sandbox, manager.clone(), waiter.reply),
                None => self.waiters.push_back(waiter),
            }
        }
    }

    /// After one sandbox came back: hands it to the oldest waiter that it fits.
    fn serve_waiter_of(&mut self, returned: &Sandbox, manager: &Addr<Self>) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let Some(index) = self.waiters.iter().position(|waiter| fits(returned, waiter.prefix.as_deref())) else {
            return;
        };
        let prefix = self.waiters[index].prefix.clone();
        let Some(sandbox) = self.take(prefix.as_deref()) else { return };
        if let Some(waiter) = self.waiters.remove(index) {
            self.hand_out(sandbox, manager.clone(), waiter.reply);
        }
    }
}

/// Tells these waiters that they get nothing, and why.
fn dismiss(waiters: &mut VecDeque<Waiter>, reason: &TakeError, concerned: impl Fn(&Waiter) -> bool) {
    let (dismissed, kept): (VecDeque<_>, _) = std::mem::take(waiters).into_iter().partition(concerned);
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
        match self.take(take.prefix.as_deref()) {
            Some(sandbox) => self.hand_out(sandbox, context.address(), take.reply),
            None => {
                self.refresh_wanted.notify_one();
                let last_begun = self.cache.last_begun();
                self.waiters.push_back(Waiter { prefix: take.prefix, reply: take.reply, last_begun });
            }
        }
        self.replenish();
        self.refresh_if_low();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Settle {
    candidate: Arc<Sandbox>,
    fate: Fate,
}

impl Handler<Settle> for PoolManager {
    type Result = ();

    fn handle(&mut self, settle: Settle, context: &mut Self::Context) {
        if matches!(settle.fate, Fate::Found(_) | Fate::Unknown) {
            self.refresh_wanted.notify_one();
        }
        self.cache.settle(&settle.candidate, settle.fate, Instant::now());
        if !self.waiters.is_empty() {
            self.serve_waiter_of(&settle.candidate, &context.address());
        }
        self.replenish();
        self.refresh_if_low();
    }
}

#[derive(Message)]
#[rtype(result = "RefreshNumber")]
struct BeginRefresh;

impl Handler<BeginRefresh> for PoolManager {
    type Result = RefreshNumber;

    fn handle(&mut self, _: BeginRefresh, _: &mut Self::Context) -> RefreshNumber {
        self.cache.begin_refresh()
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct EndRefresh {
    number: RefreshNumber,
    listed: Result<Vec<Sandbox>, StoreError>,
}

impl Handler<EndRefresh> for PoolManager {
    type Result = ();

    fn handle(&mut self, refresh: EndRefresh, context: &mut Self::Context) {
        let number = refresh.number;
        let listed = match refresh.listed {
            Ok(listed) => listed,
            Err(error) => {
                self.cache.end_refresh();
                let reason = TakeError::RefreshFailed(error);
                dismiss(&mut self.waiters, &reason, |waiter| waiter.last_begun < number);
                return;
            }
        };
        let now = Instant::now();
        self.recall(now);
        let left_out = self.cache.refill(number, listed, now);
        self.refreshed_at = Some(now);
        if left_out > 0 {
            tracing::warn!(left_out, limit = cache::MAX_CACHED, "the pool cache is full; sandboxes were left out");
        }
        self.serve_waiters(&context.address());
        let Self { cache, waiters, .. } = self;
        let is_hopeless = |waiter: &Waiter| waiter.last_begun < number && cache.shows_none(waiter.prefix.as_deref());
        dismiss(waiters, &TakeError::Empty, is_hopeless);
        cache.end_refresh();
        if !self.waiters.is_empty() || self.cache.has_unknown_after(number) {
            self.refresh_wanted.notify_one();
        }
        self.replenish();
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
            self.recall(Instant::now());
            dismiss(&mut self.waiters, &TakeError::Paused, |_| true);
        }
        self.replenish();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct SetReplicas(Vec<ReplicaId>);

impl Handler<SetReplicas> for PoolManager {
    type Result = ();

    fn handle(&mut self, message: SetReplicas, _: &mut Self::Context) {
        self.recall(Instant::now());
        self.cache.set_replicas(message.0);
        self.replenish();
    }
}

#[derive(Message)]
#[rtype(result = "PoolSnapshot")]
struct Snapshot;

impl Handler<Snapshot> for PoolManager {
    type Result = MessageResult<Snapshot>;

    fn handle(&mut self, _: Snapshot, _: &mut Self::Context) -> Self::Result {
        MessageResult(PoolSnapshot {
            cached: self.cached(),
            in_flight: self.cache.unsettled_count() - self.prefetched.count(),
            waiting: self.waiters.len(),
            age_seconds: self.refreshed_at.map(|at| Instant::now().duration_since(at).as_secs()),
            paused: self.paused,
        })
    }
}
