//! What the model is made of: its bounds, its state, and the steps that there are.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use broker_actors::sandbox::{Claim, ClaimKey, ConditionalUpdate, Sandbox, Status, Timestamp};
use broker_actors::testing::{PausedClock, Tables};

/// How long a holding lasts: one tick of the clock. There is no grace.
pub(crate) const LAB_DURATION: Duration = Duration::from_secs(100);

/// The protocol within these bounds.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    /// Who asks where first; the same track twice is a pair of twins.
    pub(crate) asks: Vec<Ask>,
    pub(crate) sandboxes: u32,
    pub(crate) replicas: usize,
    pub(crate) crashes: u8,
    /// So many answers or requests are lost or late.
    pub(crate) losses: u8,
    /// So many times may pass.
    pub(crate) ticks: u8,
    /// So often an asker whose replica died, or who was told that the outcome is unknown, asks again.
    pub(crate) retries: u8,
    /// Whether askers give back what they got.
    pub(crate) releases: bool,
    /// Whether askers renew what they got.
    pub(crate) renews: bool,
    /// Whether the index may lag.
    pub(crate) lags: bool,
    pub(crate) variant: Variant,
}

/// One asker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) track: u8,
    pub(crate) replica: usize,
}

/// The protocol as it is, or one of those it must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Sound,
    /// Reads the key, then claims without a condition on it.
    ReadThenWrite,
    /// Ends holdings without a condition on the sandbox.
    UnfencedEnd,
    /// Takes an unknown outcome for a success.
    UnknownIsSuccess,
    /// Puts a candidate of unknown fate back into the pool at once.
    UnknownPutBack,
    /// Says "none" as soon as no candidate is free.
    NoneAtOnce,
    /// Says "none" after a refresh whose finds went to others who waited.
    FindsForgotten,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) tables: Arc<Tables>,
    /// What the index shows while it lags.
    pub(crate) index: Option<Arc<Tables>>,
    pub(crate) askers: Vec<Asker>,
    /// By replica and sandbox: what the pool of the replica knows.
    pub(crate) pools: Vec<Vec<Slot>>,
    /// Requests under way that nobody waits for, in a fixed order.
    pub(crate) late: Vec<Arc<Message>>,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) ticks: u8,
    /// A write changed a sandbox that was not as its author had seen it.
    pub(crate) is_unfenced: bool,
    /// A holding that nobody gave back ended before its time.
    pub(crate) has_ended_early: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    pub(crate) replica: usize,
    pub(crate) stage: Stage,
    pub(crate) retries: u8,
    pub(crate) has_released: bool,
    pub(crate) has_renewed: bool,
    /// Whether the pool was empty at some moment of the request, as far as the index shows.
    pub(crate) saw_none: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Has not asked yet.
    Idle,
    /// Waits for a candidate.
    Seeking,
    /// Its claim is under way.
    Claiming(Arc<Message>),
    /// The outcome of its claim is unknown; the key is about to be read.
    Resolving(Arc<Claim>),
    /// Its key holds what should have ended; that is about to be ended.
    Ending(Arc<Message>),
    /// There is no candidate; the key is about to be read before that is said.
    Doubting,
    /// Was told that it holds this, and whether that is new.
    Told {
        claim: Arc<Claim>,
        is_new: bool,
    },
    ToldNone,
    /// Was told that the outcome is unknown, or its replica died.
    Unanswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    Absent,
    Free,
    InFlight,
    Unknown,
    Consumed,
}

/// A write on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Claim(ConditionalUpdate, Claim),
    Release(ConditionalUpdate, ClaimKey),
    Expire(ConditionalUpdate, ClaimKey),
    Renew(ConditionalUpdate, Claim),
}

/// One step of somebody; numbers are those of the asker, replica, sandbox or late message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Ask(usize),
    AskAgain(usize),
    Take(usize, usize),
    /// The asker's request is carried out, and answered.
    CarryOut(usize),
    /// It is carried out, and the answer is lost.
    LoseAnswer(usize),
    /// It is given up; it may arrive at any time, or never.
    GiveUp(usize),
    ReadKey(usize),
    /// The read of the key fails.
    FailRead(usize),
    Release(usize),
    Renew(usize),
    /// The timer that was set when the asker was answered fires.
    FireTimer(usize),
    /// The reaper's sweep finds this sandbox overdue.
    Sweep(usize),
    CarryOutLate(usize),
    Refresh(usize),
    Crash(usize),
    Tick,
    FreezeIndex,
    ThawIndex,
}

impl State {
    pub(crate) fn now(&self) -> Timestamp {
        PausedClock::BEGIN.plus(LAB_DURATION * u32::from(self.ticks))
    }

    pub(crate) fn sandbox(&self, number: usize) -> &Sandbox {
        self.tables.sandboxes().nth(number).expect("it is one")
    }

    pub(crate) fn shows(&self, number: usize) -> bool {
        let shown = self.index.as_ref().unwrap_or(&self.tables);
        shown.sandboxes().nth(number).is_some_and(|sandbox| sandbox.status == Status::Available)
    }

    pub(crate) fn send_late(&mut self, message: Arc<Message>) {
        if !self.late.contains(&message) {
            self.late.push(message);
            self.late.sort_by_cached_key(|message| {
                let mut hasher = DefaultHasher::new();
                message.hash(&mut hasher);
                hasher.finish()
            });
        }
    }

    pub(crate) fn note_emptiness(&mut self) {
        let count = self.pools.first().map_or(0, Vec::len);
        let is_empty = (0..count).all(|number| !self.shows(number) || self.sandbox(number).status != Status::Available);
        for asker in &mut self.askers {
            let is_asking =
                !matches!(asker.stage, Stage::Idle | Stage::Told { .. } | Stage::ToldNone | Stage::Unanswered);
            asker.saw_none |= is_empty && is_asking;
        }
    }
}
