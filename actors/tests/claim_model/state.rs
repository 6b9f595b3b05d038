//! The bounds, the state and the actions of the model.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use broker_actors::sandbox::{Claim, ClaimKey, ConditionalUpdate, Sandbox, Status, Timestamp};
use broker_actors::testing::{PausedClock, Tables};

/// The lab duration: one tick of the clock. There is no grace period.
pub(crate) const LAB_DURATION: Duration = Duration::from_secs(100);

/// The protocol and its bounds.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    /// The clients. Two of the same track are duplicates.
    pub(crate) clients: Vec<ClientSpec>,
    pub(crate) sandboxes: u32,
    pub(crate) replicas: usize,
    pub(crate) crashes: u8,
    /// Lost or late requests, lost responses and failed reads.
    pub(crate) losses: u8,
    /// Ticks of the clock.
    pub(crate) ticks: u8,
    /// Retries of a client whose request was indeterminate.
    pub(crate) retries: u8,
    /// Whether clients release.
    pub(crate) releases: bool,
    /// Whether clients renew.
    pub(crate) renews: bool,
    /// Whether the index may lag.
    pub(crate) lags: bool,
    pub(crate) variant: Variant,
}

/// A client sends one request, first to this replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSpec {
    pub(crate) track: u8,
    pub(crate) replica: usize,
}

/// The correct protocol, or one with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Correct,
    /// Reads the key, then claims without a condition on it.
    ReadThenWrite,
    /// Ends holdings without a condition on the sandbox.
    UnfencedEnd,
    /// Treats an unknown outcome as success.
    UnknownIsSuccess,
    /// Puts a candidate of unknown outcome back into the pool at once.
    UnknownPutBack,
    /// Answers "none available" as soon as no candidate is free.
    NoneAtOnce,
    /// Answers "none available" after a refresh although it gave candidates to other clients.
    ServedIgnored,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) tables: Arc<Tables>,
    /// The contents of the index while it lags.
    pub(crate) index: Option<Arc<Tables>>,
    pub(crate) clients: Vec<Client>,
    /// The pool of each replica: one slot for each sandbox.
    pub(crate) pools: Vec<Vec<Slot>>,
    /// The messages whose responses are not awaited, in a canonical order.
    pub(crate) in_network: Vec<Arc<Message>>,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) ticks: u8,
    /// Whether a write changed a sandbox although its condition was not met.
    pub(crate) has_unfenced_write: bool,
    /// Whether an expiry ended a holding before it was due.
    pub(crate) has_ended_early: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) replica: usize,
    pub(crate) stage: Stage,
    pub(crate) retries: u8,
    pub(crate) has_released: bool,
    pub(crate) has_renewed: bool,
    /// Whether the index showed no available sandbox at some moment of the request.
    pub(crate) saw_none: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The request is not sent yet.
    Idle,
    /// The request waits for a candidate.
    Waiting,
    /// The claim is in flight.
    Claiming(Arc<Message>),
    /// The outcome of the claim is unknown; the next step reads the key.
    Resolving(Arc<Claim>),
    /// The key holds an expired sandbox; the next step ends that holding.
    Ending(Arc<Message>),
    /// There is no candidate; the next step reads the key.
    ConfirmingNone,
    /// The answer is this claim.
    Holds { claim: Arc<Claim>, is_new: bool },
    /// The answer is "none available".
    NoneAvailable,
    /// The answer is an error, or the replica has crashed.
    Indeterminate,
}

/// What a pool knows of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    Absent,
    Free,
    InFlight,
    Unknown,
    Consumed,
}

/// A write to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Claim(ConditionalUpdate, Claim),
    Release(ConditionalUpdate, ClaimKey),
    Expire(ConditionalUpdate, ClaimKey),
    Renew(ConditionalUpdate, Claim),
}

/// One step. The numbers are those of a client, a replica, a sandbox, or a message in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send(usize),
    Retry(usize),
    /// The client takes the sandbox as its candidate.
    Take(usize, usize),
    /// The client's write takes effect and its response arrives.
    Execute(usize),
    /// The client's write takes effect and its response is lost.
    LoseResponse(usize),
    /// The client's write times out. It may take effect later, or never.
    TimeOut(usize),
    ReadKey(usize),
    FailRead(usize),
    Release(usize),
    Renew(usize),
    /// The expiry timer of the client's holding fires.
    FireTimer(usize),
    /// The sweep of the reaper finds this sandbox overdue.
    Sweep(usize),
    /// The message in the network takes effect.
    Deliver(usize),
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
        self.tables.sandboxes().nth(number).expect("the sandbox exists")
    }

    /// Whether the index shows this sandbox as available.
    pub(crate) fn is_indexed(&self, number: usize) -> bool {
        let index = self.index.as_ref().unwrap_or(&self.tables);
        index.sandboxes().nth(number).is_some_and(|sandbox| sandbox.status == Status::Available)
    }

    pub(crate) fn send(&mut self, message: Arc<Message>) {
        if !self.in_network.contains(&message) {
            self.in_network.push(message);
            self.in_network.sort_by_cached_key(|message| {
                let mut hasher = DefaultHasher::new();
                message.hash(&mut hasher);
                hasher.finish()
            });
        }
    }

    /// Updates `saw_none` of all clients with a request in flight.
    pub(crate) fn observe_emptiness(&mut self) {
        let count = self.pools.first().map_or(0, Vec::len);
        let is_available = |number| self.is_indexed(number) && self.sandbox(number).status == Status::Available;
        let is_empty = !(0..count).any(is_available);
        for client in &mut self.clients {
            let is_in_flight = !matches!(
                client.stage,
                Stage::Idle | Stage::Holds { .. } | Stage::NoneAvailable | Stage::Indeterminate
            );
            client.saw_none |= is_empty && is_in_flight;
        }
    }
}
