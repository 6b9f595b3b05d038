//! Timers for the holdings that this replica allocated or renewed, so that they end on time.

use std::collections::HashMap;
use std::time::Duration;

use actix::ArbiterHandle;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use super::expiry_reaper::{ExpiryReport, Reaper};
use crate::error::Chain;
use crate::liveness::LivenessGuard;
use crate::sandbox::{Claim, SandboxId};

/// The most timers (I8). The sweep ends other holdings.
const MAX_TIMERS: usize = 100_000;

/// The longest wait of one timer, which `DelayQueue` bounds at two years. A longer one is set again when it fires.
const MAX_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// The timers' address.
#[derive(Clone, Debug)]
pub struct ExpiryTimers(mpsc::UnboundedSender<Command>);

#[derive(Debug)]
enum Command {
    Set(Claim),
    Cancel(SandboxId),
    SetPaused(bool),
}

impl ExpiryTimers {
    /// Starts the timers in `pool_arbiter`: each claim has news for the pool manager and for them, and so wakes one
    /// thread instead of two. Due holdings are ended in `background`.
    pub(crate) fn start(
        pool_arbiter: &ArbiterHandle,
        background: ArbiterHandle,
        reaper: Reaper,
        liveness: LivenessGuard,
    ) -> Self {
        // The number of claims in flight bounds the commands in the channel.
        let (sender, commands) = mpsc::unbounded_channel();
        let timers = Timers { reaper, background, keys: HashMap::new(), paused: false, _liveness: liveness };
        pool_arbiter.spawn(timers.run(commands));
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
    background: ArbiterHandle,
    /// The timer of each sandbox.
    keys: HashMap<SandboxId, Key>,
    paused: bool,
    _liveness: LivenessGuard,
}

impl Timers {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut queue = DelayQueue::new();
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Set(claim)) => self.set(claim, &mut queue),
                    Some(Command::Cancel(sandbox_id)) => self.cancel(&sandbox_id, &mut queue),
                    Some(Command::SetPaused(paused)) => self.paused = paused,
                    None => return,
                },
                Some(due) = queue.next() => self.fire(due.into_inner(), &mut queue),
            }
        }
    }

    fn set(&mut self, claim: Claim, queue: &mut DelayQueue<Claim>) {
        self.cancel(&claim.sandbox_id, queue);
        if self.keys.len() >= MAX_TIMERS {
            metrics::counter!("broker_expiry_timers_left_out_total").increment(1);
            return;
        }
        let wait = self.reaper.due(claim.expires_at).since(self.reaper.clock.now());
        let sandbox_id = claim.sandbox_id.clone();
        self.keys.insert(sandbox_id, queue.insert(claim, wait.min(MAX_WAIT)));
    }

    fn cancel(&mut self, sandbox_id: &SandboxId, queue: &mut DelayQueue<Claim>) {
        if let Some(key) = self.keys.remove(sandbox_id) {
            queue.remove(&key);
        }
    }

    fn fire(&mut self, claim: Claim, queue: &mut DelayQueue<Claim>) {
        self.keys.remove(&claim.sandbox_id);
        if !self.reaper.is_overdue(&claim) {
            return self.set(claim, queue);
        }
        if self.paused {
            return;
        }
        let reaper = self.reaper.clone();
        // Fails only while the broker is stopping; the sweep of another replica or after the next start ends the holding.
        let _ = self.background.spawn(async move {
            let (mut report, never) = (ExpiryReport::default(), CancellationToken::new());
            if let Err(error) = reaper.expire_all(vec![claim], &mut report, &never).await {
                let error = Chain(&error);
                tracing::warn!(event = "expiry_failed", %error, "a holding was not ended on time; the next sweep ends it");
            }
        });
    }
}
