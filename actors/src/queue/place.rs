//! The place of one waiting request.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::waiting::{JoinError, Local, OPEN_FOR, Queue, Shared, Signal, set_waiting};
use crate::ports::Ticket;
use crate::sandbox::{ClaimKey, Owner};

/// The time from one renewal of an open ticket to the next.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// The time to the next renewal after one that failed.
const RENEW_AGAIN: Duration = Duration::from_secs(2);

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A sandbox that fits should be free: claim it.
    Claim,
    /// The ticket is gone: its key holds a sandbox, or it was withdrawn.
    Gone,
    /// This replica is stopping. The ticket stays.
    Stopping,
}

/// The place of one open request in the queue. When it is dropped, the ticket stays, and is granted no more.
pub struct Place {
    shared: Arc<Shared>,
    ticket: Ticket,
    signal: watch::Receiver<Signal>,
    renew_at: Instant,
    end: End,
}

/// What becomes of the ticket when its request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It stays, and others pass it over.
    Absent,
    /// A grant has removed it.
    Granted,
    /// Its key holds a sandbox without it. It must not take the turn of another.
    Needless,
}

impl Queue {
    /// Queues a key, or continues at the rank that it has.
    ///
    /// # Errors
    ///
    /// See [`JoinError`].
    pub async fn join(
        &self,
        claim_key: ClaimKey,
        owner: &Owner,
        name_prefix: Option<String>,
        track_name: Option<String>,
    ) -> Result<Place, JoinError> {
        let limit = self.0.settings.max_waiting;
        if self.waiting() >= limit {
            return Err(JoinError::Full { limit });
        }
        let now = self.0.clock.now();
        let ticket = Ticket {
            claim_key: claim_key.clone(),
            owner_proof: owner.proof.clone(),
            enqueued_at: self.0.clock.now_millis(),
            name_prefix,
            track_name,
            open_until: now.plus(OPEN_FOR),
            seen_at: now,
        };
        let ticket = self.0.store.open_ticket(&ticket).await?.ok_or(JoinError::NotOwner)?;
        let signal = {
            let mut local = self.0.local.lock();
            let entry = local.entry(claim_key).or_insert_with(|| Local {
                ticket: ticket.clone(),
                signal: watch::Sender::default(),
                requests: 0,
                is_claiming: false,
            });
            entry.requests += 1;
            entry.ticket = ticket.clone();
            let signal = entry.signal.subscribe();
            set_waiting(&local);
            signal
        };
        self.0.joined.notify_one();
        let renew_at = Instant::now() + RENEW_INTERVAL;
        Ok(Place { shared: Arc::clone(&self.0), ticket, signal, renew_at, end: End::Absent })
    }
}

impl Place {
    /// The ticket.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for the next turn. Keeps the ticket open meanwhile.
    pub async fn turn(&mut self) -> Turn {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => return Turn::Stopping,
                changed = self.signal.changed() => {
                    let is_gone = changed.is_err() || self.signal.borrow_and_update().is_gone;
                    return if is_gone { Turn::Gone } else { Turn::Claim };
                }
                () = sleep_until(self.renew_at) => {
                    if !self.renew().await {
                        return Turn::Gone;
                    }
                }
            }
        }
    }

    /// The turn brought nothing: it waits for the next one.
    pub fn missed(&self) {
        if let Some(local) = self.shared.local.lock().get_mut(&self.ticket.claim_key) {
            local.is_claiming = false;
        }
        self.shared.joined.notify_one();
    }

    /// The turn brought a sandbox, and the ticket is gone.
    pub fn granted(mut self) {
        self.end = End::Granted;
    }

    /// The key holds a sandbox that this ticket was not granted: its twin's, or one that was free when another request
    /// of it came.
    pub fn needless(mut self) {
        self.end = End::Needless;
    }

    /// Whether the ticket is still there.
    async fn renew(&mut self) -> bool {
        let now = self.shared.clock.now();
        let renewed = Ticket { open_until: now.plus(OPEN_FOR), seen_at: now, ..self.ticket.clone() };
        match self.shared.store.renew_ticket(&renewed).await {
            Ok(true) => {
                self.renew_at = Instant::now() + RENEW_INTERVAL;
                self.ticket = renewed;
                true
            }
            Ok(false) => false,
            Err(_) => {
                self.renew_at = Instant::now() + RENEW_AGAIN;
                true
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut local = self.shared.local.lock();
        let key = &self.ticket.claim_key;
        let is_last = local.get_mut(key).is_none_or(|local| {
            local.requests -= 1;
            local.is_claiming = false;
            local.requests == 0
        });
        if !is_last {
            return;
        }
        local.remove(key);
        set_waiting(&local);
        drop(local);
        let Ok(runtime) = Handle::try_current() else { return };
        let (shared, mut ticket) = (Arc::clone(&self.shared), self.ticket.clone());
        match self.end {
            End::Granted => {}
            End::Needless => drop(runtime.spawn(async move { shared.store.withdraw_ticket(&ticket).await })),
            End::Absent => {
                // Others pass the ticket over at once, not only when its time has passed.
                let now = shared.clock.now();
                (ticket.seen_at, ticket.open_until) = (now, now);
                drop(runtime.spawn(async move { shared.store.renew_ticket(&ticket).await }));
            }
        }
    }
}
