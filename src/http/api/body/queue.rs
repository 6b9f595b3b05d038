//! The queue of those who wait for a sandbox.

use std::time::Duration;

use broker_actors::allocation::held;
use broker_actors::ports;
use broker_actors::queue::{QueueView, Standing};
use serde::Serialize;
use utoipa::ToSchema;

use super::sandbox::OwnSandbox;
use super::values::{IdempotencyKey, Timestamp, TrackId};

/// What a key has: its sandbox, or its place in the queue
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "it is written out at once")]
pub(crate) enum Held {
    /// A sandbox
    Sandbox(OwnSandbox),
    /// A place in the queue
    Waiting(Waiting),
}

impl From<held::Held> for Held {
    fn from(held: held::Held) -> Self {
        match held {
            held::Held::Sandbox(claim) => Self::Sandbox(claim.into()),
            held::Held::Place(standing) => Self::Waiting(standing.into()),
        }
    }
}

impl Held {
    pub(crate) fn example() -> Self {
        Self::Sandbox(OwnSandbox::example())
    }
}

/// A place in the queue
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    /// Always `waiting`
    state: &'static str,
    /// The position, from 1
    position: usize,
    /// The number of those who wait
    of: usize,
    /// Estimated seconds until it gets a sandbox, from the supply of the last minutes; null if none came
    eta_seconds: Option<u64>,
    /// When the place is lost unless the track asks again
    ticket_expires_at: Timestamp,
}

impl From<Standing> for Waiting {
    fn from(standing: Standing) -> Self {
        Self {
            state: "waiting",
            position: standing.position,
            of: standing.of,
            eta_seconds: standing.eta.map(|eta| eta.as_secs()),
            ticket_expires_at: standing.ticket_expires_at.into(),
        }
    }
}

/// The most tickets that one answer lists.
const MAX_LISTED: usize = 1000;

/// Who waits for a sandbox
#[derive(Serialize, ToSchema)]
pub(crate) struct Queue {
    /// The number of those who wait
    waiting: usize,
    /// The number of those who keep a place, but have no open request
    absent: usize,
    /// Estimated seconds until the last one gets a sandbox, from the supply of the last minutes; null if none came
    eta_seconds: Option<u64>,
    /// The tickets, in the order of the queue, the absent ones last; at most 1000
    tickets: Vec<Ticket>,
}

/// The place of one key
#[derive(Serialize, ToSchema)]
pub(crate) struct Ticket {
    /// The position, from 1; null for an absent one
    position: Option<usize>,
    track_id: TrackId,
    idempotency_key: IdempotencyKey,
    /// Only sandboxes whose name starts with this
    name_prefix: Option<String>,
    /// The lab's slug
    track_name: Option<String>,
    /// Since when it waits
    enqueued_at: Timestamp,
    /// When its owner was last seen
    seen_at: Timestamp,
    /// When it expires unless its owner asks again
    expires_at: Timestamp,
}

impl Ticket {
    fn new(ticket: &ports::Ticket, position: Option<usize>) -> Self {
        Self {
            position,
            track_id: ticket.claim_key.track.clone().into(),
            idempotency_key: ticket.claim_key.key.clone().into(),
            name_prefix: ticket.name_prefix.clone(),
            track_name: ticket.track_name.clone(),
            enqueued_at: ticket.enqueued_at.seconds().into(),
            seen_at: ticket.seen_at.into(),
            expires_at: ticket.expires_at().into(),
        }
    }
}

impl Queue {
    pub(crate) fn new(view: &QueueView, eta: Option<Duration>) -> Self {
        let open = view.open.iter().zip(1..).map(|(ticket, position)| Ticket::new(ticket, Some(position)));
        let absent = view.absent.iter().map(|ticket| Ticket::new(ticket, None));
        Self {
            waiting: view.open.len(),
            absent: view.absent.len(),
            eta_seconds: eta.map(|eta| eta.as_secs()),
            tickets: open.chain(absent).take(MAX_LISTED).collect(),
        }
    }

    pub(crate) fn example() -> Self {
        Self { waiting: 0, absent: 0, eta_seconds: None, tickets: Vec::new() }
    }
}

/// A ticket that an operator dropped
#[derive(Serialize, ToSchema)]
pub(crate) struct Dropped {
    /// Whether there was one
    pub(crate) dropped: bool,
}

/// Whether a class would get its sandboxes
#[derive(Serialize, ToSchema)]
pub(crate) struct Preflight {
    /// `allocate`: at once. `wait`: not all at once, but more may come. `fail`: nothing is coming, or a setting forbids it
    pub(crate) would: &'static str,
    /// Free sandboxes that match
    pub(crate) available: usize,
    /// Sandboxes that match and are not old enough yet
    pub(crate) warming: usize,
    /// Those who wait already
    pub(crate) waiting: usize,
    /// Estimated seconds until the last student gets a sandbox, from the supply of the last minutes; null if none came,
    /// or none is needed
    pub(crate) eta_seconds: Option<u64>,
    /// Always `track`: the caller's token is a valid track token
    pub(crate) token: &'static str,
    /// Why not at once
    pub(crate) reasons: Vec<String>,
}

impl Preflight {
    pub(crate) fn example() -> Self {
        Self {
            would: "wait",
            available: 80,
            warming: 0,
            waiting: 0,
            eta_seconds: Some(600),
            token: "track",
            reasons: vec!["80 of 120 sandboxes are free".to_owned()],
        }
    }
}
