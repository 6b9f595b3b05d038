//! The queue before the engine's thread. What a client waits for goes first: while such calls come, the rest gets a bounded
//! share of the engine's time, so that a sync of a new pool does not slow claims down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Calls of one priority that may wait (I8). One more is throttled.
const MAX_QUEUED: usize = 4096;

/// While foreground calls come, a background call is followed by a pause of this many times its duration: a quarter of the
/// engine's time is left to background calls.
const PAUSE_BY_DURATION: u32 = 3;

/// Foreground calls come as long as the last one is no older than this.
const FOREGROUND_IDLE: Duration = Duration::from_millis(100);

/// A request to the engine.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: String,
    pub(super) body: Vec<u8>,
    pub(super) answer: oneshot::Sender<(u16, String)>,
}

impl Call {
    /// Whether a client waits for it: claims, releases and reads are transactions and single reads. Listings, counts,
    /// leases and the writes of a sync are not.
    fn is_foreground(&self) -> bool {
        matches!(self.operation.as_str(), "TransactWriteItems" | "GetItem" | "BatchGetItem")
    }
}

#[derive(Debug, Default)]
struct Calls {
    foreground: VecDeque<Call>,
    background: VecDeque<Call>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    calls: Mutex<Calls>,
    arrived: Condvar,
}

/// The sending end. The engine's thread ends when the last one is dropped.
#[derive(Debug)]
pub(super) struct Sender(Arc<Shared>);

/// The engine's end.
#[derive(Debug)]
pub(super) struct Receiver {
    shared: Arc<Shared>,
    schedule: Schedule,
}

/// Why a call was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

pub(super) fn queue() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(Arc::clone(&shared)), Receiver { shared, schedule: Schedule::default() })
}

impl Sender {
    pub(super) fn send(&self, call: Call) -> Result<(), Refused> {
        let mut calls = self.0.calls.lock();
        if calls.is_closed {
            return Err(Refused::Closed);
        }
        let queue = if call.is_foreground() { &mut calls.foreground } else { &mut calls.background };
        if queue.len() >= MAX_QUEUED {
            return Err(Refused::Full);
        }
        queue.push_back(call);
        self.0.arrived.notify_one();
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.calls.lock().is_closed = true;
        self.0.arrived.notify_one();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.calls.lock().is_closed = true;
    }
}

/// When a background call may be served. Pure: times are since the start of the engine.
#[derive(Debug, Default)]
struct Schedule {
    last_foreground: Option<Duration>,
    background_from: Duration,
}

impl Schedule {
    fn served(&mut self, is_foreground: bool, started: Duration, ended: Duration) {
        if is_foreground {
            self.last_foreground = Some(ended);
        } else {
            self.background_from = ended + (ended - started) * PAUSE_BY_DURATION;
        }
    }

    /// The earliest time for a background call. A foreground call that waits comes, however long the last one is ago: the
    /// engine may have been busy with a long background call.
    fn background_from(&self, now: Duration, is_foreground_waiting: bool) -> Duration {
        let is_idle = !is_foreground_waiting && self.last_foreground.is_none_or(|last| last + FOREGROUND_IDLE < now);
        if is_idle { now } else { self.background_from }
    }
}

impl Receiver {
    /// Serves calls until the sender is gone and none is left.
    pub(super) fn serve(mut self, mut answer: impl FnMut(Call)) {
        let epoch = tokio::time::Instant::now();
        while let Some(call) = self.next(epoch) {
            let is_foreground = call.is_foreground();
            let started = epoch.elapsed();
            answer(call);
            self.schedule.served(is_foreground, started, epoch.elapsed());
        }
    }

    fn next(&self, epoch: tokio::time::Instant) -> Option<Call> {
        let mut calls = self.shared.calls.lock();
        loop {
            let now = epoch.elapsed();
            let background_from = self.schedule.background_from(now, !calls.foreground.is_empty());
            if background_from <= now && !calls.background.is_empty() {
                return calls.background.pop_front();
            }
            if let Some(call) = calls.foreground.pop_front() {
                return Some(call);
            }
            if !calls.background.is_empty() {
                self.shared.arrived.wait_for(&mut calls, background_from - now);
            } else if calls.is_closed {
                return None;
            } else {
                self.shared.arrived.wait(&mut calls);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn background_calls_run_freely_while_none_waits_for_the_engine() {
        let mut schedule = Schedule::default();
        schedule.served(false, ms(0), ms(10));
        assert_eq!(schedule.background_from(ms(10), false), ms(10));
    }

    #[test]
    fn background_calls_get_a_quarter_of_the_time_while_foreground_calls_come() {
        let mut schedule = Schedule::default();
        schedule.served(true, ms(0), ms(1));
        schedule.served(false, ms(1), ms(3));
        assert_eq!(schedule.background_from(ms(3), false), ms(9));
        assert_eq!(schedule.background_from(ms(200), false), ms(200), "the last foreground call is long ago");
    }

    /// As during a sync of a new pool: calls of both kinds always wait.
    #[test]
    fn the_share_of_background_calls_is_bounded_however_long_they_take() {
        for (foreground, background) in [(1, 1), (1, 10), (5, 1), (1, 500)] {
            let (foreground, background) = (ms(foreground), ms(background));
            let mut schedule = Schedule::default();
            let (mut now, mut of_background, mut in_a_row) = (ms(0), ms(0), 0);
            while now < ms(60_000) {
                let is_foreground = schedule.background_from(now, true) > now;
                let ended = now + if is_foreground { foreground } else { background };
                schedule.served(is_foreground, now, ended);
                in_a_row = if is_foreground { 0 } else { in_a_row + 1 };
                assert!(in_a_row <= 1, "a foreground call waits for more than one background call");
                of_background += if is_foreground { ms(0) } else { ended - now };
                now = ended;
            }
            assert!(of_background <= now / 4 + background, "{of_background:?} of {now:?}");
            assert!(of_background >= now / 8, "background calls go on: {of_background:?} of {now:?}");
        }
    }

    #[test]
    fn the_engine_serves_all_calls_and_ends_with_the_sender() {
        let (sender, receiver) = queue();
        let mut answers = Vec::new();
        for operation in ["PutItem", "TransactWriteItems", "Query", "GetItem"] {
            let (answer, answered) = oneshot::channel();
            sender.send(Call { operation: operation.to_owned(), body: Vec::new(), answer }).unwrap();
            answers.push(answered);
        }
        drop(sender);
        receiver.serve(|call| drop(call.answer.send((200, call.operation))));
        let served: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap().1).collect();
        assert_eq!(served, ["PutItem", "TransactWriteItems", "Query", "GetItem"]);
    }

    #[test]
    fn a_full_queue_refuses_calls_of_its_priority_alone() {
        let (sender, _receiver) = queue();
        let call = |operation: &str| {
            let (answer, _) = oneshot::channel();
            Call { operation: operation.to_owned(), body: Vec::new(), answer }
        };
        for _ in 0..MAX_QUEUED {
            sender.send(call("PutItem")).unwrap();
        }
        assert_eq!(sender.send(call("Query")), Err(Refused::Full));
        assert_eq!(sender.send(call("TransactWriteItems")), Ok(()));
    }
}
