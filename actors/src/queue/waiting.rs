//! The waiters of this replica, and the loop that gives them their turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::order::{classes, turns};
use super::supply::Supply;
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::pool::Pool;
use crate::ports::{Clock, ClusterState, SandboxStore, StoreError, StoredQueue, Ticket};
use crate::sandbox::{ClaimKey, Timestamp, UnixMillis};

/// How far ahead of now an open request keeps its ticket open.
pub(super) const OPEN_FOR: Duration = Duration::from_secs(15);

/// The time from one read of the tickets to the next, while this replica has waiters.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The time from one announcement that the queue stands to the next, and how long one holds.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(5);
const ANNOUNCED_FOR: Duration = Duration::from_secs(12);

/// The shortest and the longest `Retry-After` of those who wait.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 2..=30;

/// The parameters of the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueSettings {
    /// The most keys that wait, over all replicas.
    pub max_waiting: usize,
    /// After this time without a new sandbox nothing is coming.
    pub no_supply_after: Duration,
}

/// The queue, as the last read of its tickets showed it.
#[derive(Clone, Debug, Default)]
pub struct QueueView {
    /// The tickets with an open request, in the order of the queue.
    pub open: Vec<Ticket>,
    /// The live tickets without one.
    pub absent: Vec<Ticket>,
}

/// The place of a waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its position, from 1.
    pub position: usize,
    /// The number of those who wait.
    pub of: usize,
    /// When the supply of the last minutes reaches it; `None` rather than a guess.
    pub eta: Option<Duration>,
    /// When its ticket expires unless it asks again.
    pub ticket_expires_at: Timestamp,
    /// When to ask again.
    pub retry_after: Duration,
}

/// Why a key was not queued.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JoinError {
    /// The key's ticket belongs to an owner with another secret (I10).
    #[error("this key waits for an owner with another secret")]
    NotOwner,
    /// As many wait as may.
    #[error("{limit} wait already")]
    Full {
        /// The most that may wait.
        limit: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The queue.
#[derive(Clone)]
pub struct Queue(pub(super) Arc<Shared>);

/// No one takes a second of these locks while it holds one: HTTP workers and the loop take them at the same time.
pub(super) struct Shared {
    pub(super) store: Arc<dyn SandboxStore>,
    pub(super) clock: Arc<dyn Clock>,
    pool: Pool,
    pub(super) settings: QueueSettings,
    /// The keys that wait on this replica. An entry exists as long as a request of its key is open here.
    pub(super) local: Mutex<BTreeMap<ClaimKey, Local>>,
    /// The last read of the tickets, and when it started.
    view: Mutex<(Option<Instant>, Arc<QueueView>)>,
    /// What other replicas announced last.
    announced: Mutex<StoredQueue>,
    supply: Mutex<Supply>,
    pending_deletion: AtomicU64,
    /// Allocations past the queue since the last look at what other replicas announced.
    unqueued: AtomicU64,
    /// Wakes the loop: a waiter came, or one that had its turn waits again.
    pub(super) joined: Notify,
    pub(super) closing: CancellationToken,
}

pub(super) struct Local {
    pub(super) ticket: Ticket,
    pub(super) signal: watch::Sender<Signal>,
    pub(super) requests: usize,
    /// It has its turn. It gets no other one before this one has ended.
    pub(super) is_claiming: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signal {
    turns: u64,
    pub(super) is_gone: bool,
}

impl Queue {
    pub(crate) fn new(
        store: Arc<dyn SandboxStore>,
        clock: Arc<dyn Clock>,
        pool: Pool,
        settings: QueueSettings,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            clock,
            pool,
            settings,
            local: Mutex::default(),
            view: Mutex::default(),
            announced: Mutex::default(),
            supply: Mutex::new(Supply::new(Instant::now())),
            pending_deletion: AtomicU64::new(0),
            unqueued: AtomicU64::new(0),
            joined: Notify::new(),
            closing: CancellationToken::new(),
        }))
    }

    /// Takes over what all replicas read every few seconds. Returns whether sandboxes came since the last look.
    pub(crate) fn apply(&self, state: &ClusterState) -> bool {
        let was_standing = self.stands();
        *self.0.announced.lock() = state.queue;
        self.0.pending_deletion.store(state.stats.stats.pending_deletion, Ordering::Relaxed);
        let unqueued = self.0.unqueued.swap(0, Ordering::Relaxed);
        if !was_standing && self.stands() {
            // Some of these may have come before the first waiter: the number is an upper bound.
            metrics::counter!("broker_queue_overtakes_total").increment(unqueued);
        }
        self.0.supply.lock().look(state.stats.supply, Instant::now())
    }

    /// Whether some wait, as far as this replica knows.
    pub fn stands(&self) -> bool {
        let announced_until = self.0.announced.lock().until;
        announced_until > self.0.clock.now() || self.has_local()
    }

    /// Whether a newcomer has to wait behind others: unless more is free than they need.
    pub(crate) async fn is_ahead_of_newcomers(&self) -> bool {
        if !self.stands() {
            return false;
        }
        let free = self.0.pool.snapshot().await.map_or(0, |snapshot| snapshot.cached);
        free <= self.waiting()
    }

    /// An allocation was made past the queue.
    pub(crate) fn count_unqueued(&self) {
        self.0.unqueued.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of those who wait, as far as this replica knows.
    pub fn waiting(&self) -> usize {
        let seen = self.0.view.lock().1.open.len();
        let seen = seen.max(self.0.local.lock().len());
        let announced = *self.0.announced.lock();
        let is_announced = announced.until > self.0.clock.now();
        seen.max(if is_announced { usize::try_from(announced.waiting).unwrap_or(usize::MAX) } else { 0 })
    }

    /// Whether nothing is coming: no new sandbox for a long time, and none that the CSP replaces after its deletion.
    pub fn is_hopeless(&self) -> bool {
        let is_dry = self.0.supply.lock().is_dry(self.0.settings.no_supply_after, Instant::now());
        is_dry && self.0.pending_deletion.load(Ordering::Relaxed) == 0
    }

    /// When the supply of the last minutes reaches this position.
    pub fn eta(&self, position: usize) -> Option<Duration> {
        self.0.supply.lock().eta(position, Instant::now())
    }

    /// The place of a ticket.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn standing(&self, ticket: &Ticket) -> Result<Standing, StoreError> {
        let view = self.view().await?;
        let ahead = view.open.iter().filter(|other| other.rank() < ticket.rank()).count();
        let position = ahead + 1;
        Ok(Standing {
            position,
            of: view.open.len().max(position),
            eta: self.eta(position),
            ticket_expires_at: ticket.expires_at(),
            retry_after: retry_after(&ticket.claim_key),
        })
    }

    /// The queue now, at most a second old.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn view(&self) -> Result<Arc<QueueView>, StoreError> {
        let (read_at, view) = self.0.view.lock().clone();
        if read_at.is_some_and(|read_at| read_at.elapsed() <= READ_INTERVAL) {
            return Ok(view);
        }
        let started = Instant::now();
        let tickets = self.0.store.tickets().await?;
        Ok(self.set_view(started, tickets))
    }

    /// Removes a key's ticket, if it has one.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn drop_ticket(&self, claim_key: &ClaimKey) -> Result<bool, StoreError> {
        match self.0.store.find_held(claim_key).await?.1 {
            Some(ticket) => self.0.store.withdraw_ticket(&ticket).await,
            None => Ok(false),
        }
    }

    /// All who wait are told that this replica is stopping. Their tickets stay.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    fn has_local(&self) -> bool {
        !self.0.local.lock().is_empty()
    }

    fn set_view(&self, started: Instant, mut tickets: Vec<Ticket>) -> Arc<QueueView> {
        let now = self.0.clock.now();
        tickets.sort_unstable_by(|one, other| one.rank().cmp(&other.rank()));
        tickets.retain(|ticket| ticket.is_live(now));
        let (open, absent): (Vec<_>, Vec<_>) = {
            let local = self.0.local.lock();
            tickets.into_iter().partition(|ticket| ticket.is_open(now) || local.contains_key(&ticket.claim_key))
        };
        let view = Arc::new(QueueView { open, absent });
        *self.0.view.lock() = (Some(started), Arc::clone(&view));
        view
    }

    /// Gives turns while some wait here, until the broker stops.
    pub(crate) async fn run(
        self,
        mut refreshes: watch::Receiver<u64>,
        stop: CancellationToken,
        _liveness: LivenessGuard,
    ) {
        let mut announce_at = Instant::now();
        loop {
            if !self.has_local() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.0.joined.notified() => continue,
                }
            }
            let read_at = Instant::now();
            let is_announced = announce_at > read_at;
            let cycle = async {
                let is_read = self.read_and_announce(is_announced).await;
                // What was read may give someone a turn.
                self.0.joined.notify_one();
                sleep_until(read_at + READ_INTERVAL.max(read_at.elapsed() * 2)).await;
                is_read
            };
            tokio::pin!(cycle);
            // A long queue takes a while to read. That delays no turn.
            let is_read = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    is_read = &mut cycle => break is_read,
                    () = self.0.joined.notified() => {}
                    // The pool manager is gone if there are no more refreshes. The broker ends then.
                    changed = refreshes.changed() => if changed.is_err() { return },
                }
                self.give_turns().await;
            };
            if is_read && !is_announced {
                announce_at = read_at + ANNOUNCE_INTERVAL;
            }
        }
    }

    /// Reads the queue and announces it, unless that was done lately. Returns whether it was read.
    async fn read_and_announce(&self, is_announced: bool) -> bool {
        if let Err(error) = self.read().await {
            tracing::warn!(event = "queue_unreadable", error = %Chain(&error), "the queue was not read");
            return false;
        }
        if !is_announced {
            self.announce().await;
        }
        true
    }

    /// Reads tickets and supply. A waiter whose ticket is gone is told; a pool that has nothing is read again.
    async fn read(&self) -> Result<(), StoreError> {
        let started = Instant::now();
        let waiting: Vec<(ClaimKey, UnixMillis)> =
            self.0.local.lock().iter().map(|(key, local)| (key.clone(), local.ticket.enqueued_at)).collect();
        let tickets = async {
            let tickets = self.0.store.tickets().await?;
            self.tell_gone(&waiting, &tickets);
            self.set_view(started, tickets);
            Ok(())
        };
        // The supply is known before a long queue is read.
        let supply = async {
            let came = self.apply(&self.0.store.cluster_state().await?);
            let is_empty = self.0.pool.snapshot().await.is_none_or(|snapshot| snapshot.cached == 0);
            if came || is_empty {
                self.0.pool.request_refresh();
            }
            Ok(())
        };
        try_join(tickets, supply).await.map(|((), ())| ())
    }

    /// Tells those of `waiting` whose ticket is not among `tickets`, which were read later.
    fn tell_gone(&self, waiting: &[(ClaimKey, UnixMillis)], tickets: &[Ticket]) {
        let stored: BTreeMap<_, _> = tickets.iter().map(|ticket| (&ticket.claim_key, ticket.enqueued_at)).collect();
        let mut local = self.0.local.lock();
        for (key, enqueued_at) in waiting.iter().filter(|(key, enqueued_at)| stored.get(key) != Some(enqueued_at)) {
            if let Some(local) = local.get_mut(key).filter(|local| local.ticket.enqueued_at == *enqueued_at) {
                local.signal.send_modify(|signal| signal.is_gone = true);
            }
        }
    }

    async fn announce(&self) {
        let waiting = self.0.view.lock().1.open.len() as u64;
        let until = self.0.clock.now().plus(ANNOUNCED_FOR);
        if let Err(error) = self.0.store.announce_queue(until, waiting).await {
            tracing::warn!(event = "queue_unannounced", error = %Chain(&error), "other replicas do not know the queue");
        }
    }

    /// Lets those claim who are next in the order of all tickets.
    async fn give_turns(&self) {
        let is_empty = self.0.pool.snapshot().await.is_none_or(|snapshot| snapshot.cached == 0);
        if is_empty {
            return;
        }
        let view = Arc::clone(&self.0.view.lock().1);
        let mut tickets: Vec<Ticket> = {
            let local = self.0.local.lock();
            let remote = view.open.iter().filter(|ticket| !local.contains_key(&ticket.claim_key));
            remote.chain(local.values().map(|local| &local.ticket)).cloned().collect()
        };
        tickets.sort_unstable_by(|one, other| one.rank().cmp(&other.rank()));
        let free = self.0.pool.free_names(classes(&tickets)).await;
        let mut local = self.0.local.lock();
        for key in turns(&tickets, free) {
            if let Some(local) = local.get_mut(key).filter(|local| !local.is_claiming) {
                local.is_claiming = true;
                local.signal.send_modify(|signal| signal.turns += 1);
            }
        }
    }
}

pub(super) fn set_waiting(local: &BTreeMap<ClaimKey, Local>) {
    metrics::gauge!("broker_queue_waiting").set(local.len() as f64);
}

/// When to ask again: spread, so that a class does not come back together.
pub(crate) fn retry_after(claim_key: &ClaimKey) -> Duration {
    let (first, last) = RETRY_AFTER_SECONDS.into_inner();
    Duration::from_secs(first + claim_key.hash() % (last - first + 1))
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Queue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::liveness::LivenessMonitor;
    use crate::sandbox::{ReplicaId, ShardCount};
    use crate::testing::{ModelStore, PausedClock};

    /// HTTP workers and the loop take the locks at the same time.
    #[actix::test]
    async fn no_two_locks_are_taken_in_both_orders() {
        let monitor = LivenessMonitor::default();
        let here = actix::Arbiter::current();
        let pool = Pool::start(&here, ReplicaId::new("r"), ShardCount::default(), 0, monitor.guard("pool-manager"));
        let settings = QueueSettings { max_waiting: 1, no_supply_after: Duration::ZERO };
        let queue = Queue::new(Arc::new(ModelStore::default()), Arc::new(PausedClock::new()), pool, settings);
        let (sender, done) = channel();
        let works: [fn(&Queue); 3] = [
            |queue| drop(queue.set_view(Instant::now(), Vec::new())),
            |queue| _ = queue.waiting(),
            |queue| _ = queue.apply(&ClusterState::default()),
        ];
        for work in works {
            let (queue, sender) = (queue.clone(), sender.clone());
            thread::spawn(move || {
                (0..200_000).for_each(|_| work(&queue));
                sender.send(())
            });
        }
        for _ in works {
            done.recv_timeout(Duration::from_secs(60)).expect("no thread waits for another for ever");
        }
    }
}
