//! Timers for the holdings that this replica allocated or renewed, so that they end on time.
//!
//! The timers run beside the pool manager: each claim has news for both, and so wakes one thread instead of two. Due
//! holdings are ended in the background, a few at a time. One that cannot be ended gets its timer back, with a wait.

use std::collections::HashMap;
use std::time::Duration;

use actix::ArbiterHandle;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use super::expiry_reaper::{CONCURRENCY, Reaper};
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::retry::{Jitter, RetryPolicy};
use crate::sandbox::{Claim, SandboxId};

/// The most timers (I8). The sweep ends other holdings.
const MAX_TIMERS: usize = 100_000;

/// The longest wait of one timer, which `DelayQueue` bounds at two years. A longer one is set again when it fires.
const MAX_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// The waits after failed attempts to end a holding.
const RETRIES: RetryPolicy = RetryPolicy { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// The timers' address.
#[derive(Clone, Debug)]
pub struct ExpiryTimers(UnboundedSender<Command>);

#[derive(Debug)]
enum Command {
    Set(Claim),
    Cancel(SandboxId),
    SetPaused(bool),
    /// This holding could not be ended.
    Retry(Due),
}

/// A holding with a timer.
#[derive(Clone, Debug)]
struct Due {
    claim: Claim,
    /// The failed attempts to end it.
    failures: u32,
}

impl ExpiryTimers {
    /// Starts the timers in `pool_arbiter`. Due holdings are ended in `background`.
    pub(crate) fn start(
        pool_arbiter: &ArbiterHandle,
        background: &ArbiterHandle,
        reaper: Reaper,
        jitter: Jitter,
        liveness: LivenessGuard,
    ) -> Self {
        // The number of claims in flight bounds the commands in the channel, the number of timers the due holdings.
        let (sender, commands) = mpsc::unbounded_channel();
        let (due_sender, due) = mpsc::unbounded_channel();
        let timers = Timers {
            reaper: reaper.clone(),
            due: due_sender,
            jitter,
            keys: HashMap::new(),
            paused: false,
            _liveness: liveness,
        };
        pool_arbiter.spawn(timers.run(commands));
        background.spawn(end_all(reaper, due, sender.downgrade()));
        Self(sender)
    }

    /// Ends this holding when it is due.
    pub(crate) fn set(&self, claim: Claim) {
        self.send(Command::Set(claim));
    }

    /// The holding ended otherwise.
    pub(crate) fn cancel(&self, sandbox_id: &SandboxId) {
        self.send(Command::Cancel(sandbox_id.clone()));
    }

    /// While paused, due holdings are left to the sweep after the resume.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.send(Command::SetPaused(paused));
    }

    fn send(&self, command: Command) {
        // Fails only after the timers died, which their liveness guard reports.
        let _ = self.0.send(command);
    }
}

struct Timers {
    reaper: Reaper,
    /// Takes the holdings that are to be ended now.
    due: UnboundedSender<Due>,
    jitter: Jitter,
    /// The timer of each sandbox.
    keys: HashMap<SandboxId, Key>,
    paused: bool,
    _liveness: LivenessGuard,
}

impl Timers {
    async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let mut queue = DelayQueue::new();
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Set(claim)) => self.set(Due { claim, failures: 0 }, &mut queue),
                    Some(Command::Retry(due)) => self.retry(due, &mut queue),
                    Some(Command::Cancel(sandbox_id)) => self.cancel(&sandbox_id, &mut queue),
                    Some(Command::SetPaused(paused)) => self.paused = paused,
                    None => return,
                },
                Some(expired) = queue.next() => self.fire(expired.into_inner(), &mut queue),
            }
        }
    }

    fn set(&mut self, due: Due, queue: &mut DelayQueue<Due>) {
        let wait = self.reaper.due(due.claim.expires_at).since(self.reaper.clock.now());
        self.insert(due, wait.min(MAX_WAIT), queue);
    }

    fn retry(&mut self, due: Due, queue: &mut DelayQueue<Due>) {
        // A newer claim of the sandbox may have its own timer by now.
        if !self.keys.contains_key(&due.claim.sandbox_id) {
            let wait = RETRIES.wait_after(due.failures, &self.jitter);
            self.insert(due, wait, queue);
        }
    }

    fn insert(&mut self, due: Due, wait: Duration, queue: &mut DelayQueue<Due>) {
        self.cancel(&due.claim.sandbox_id, queue);
        if self.keys.len() >= MAX_TIMERS {
            metrics::counter!("broker_expiry_timers_left_out_total").increment(1);
            return;
        }
        let sandbox_id = due.claim.sandbox_id.clone();
        self.keys.insert(sandbox_id, queue.insert(due, wait));
    }

    fn cancel(&mut self, sandbox_id: &SandboxId, queue: &mut DelayQueue<Due>) {
        if let Some(key) = self.keys.remove(sandbox_id) {
            queue.remove(&key);
        }
    }

    fn fire(&mut self, due: Due, queue: &mut DelayQueue<Due>) {
        self.keys.remove(&due.claim.sandbox_id);
        if !self.reaper.is_overdue(&due.claim) {
            self.set(due, queue);
        } else if !self.paused {
            // Fails only while the broker is stopping; the sweep ends the holding.
            let _ = self.due.send(due);
        }
    }
}

/// Ends due holdings until the timers are gone.
async fn end_all(reaper: Reaper, due: UnboundedReceiver<Due>, timers: mpsc::WeakUnboundedSender<Command>) {
    let due = stream::unfold(due, |mut due| async { due.recv().await.map(|next| (next, due)) });
    let end = |mut due: Due| {
        let (reaper, timers) = (&reaper, &timers);
        async move {
            let Err(error) = reaper.expire(&due.claim).await else { return };
            due.failures = due.failures.saturating_add(1);
            if due.failures == 1 {
                let (sandbox_id, error) = (&due.claim.sandbox_id, Chain(&error));
                tracing::warn!(event = "expiry_failed", %sandbox_id, %error, "a holding was not ended on time; retrying");
            }
            if let Some(timers) = timers.upgrade() {
                let _ = timers.send(Command::Retry(due));
            }
        }
    };
    due.for_each_concurrent(CONCURRENCY, end).await;
}
