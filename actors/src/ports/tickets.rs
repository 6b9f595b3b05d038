//! The part of the table that the queue is kept in: one ticket for each key that waits.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use super::outcome::ClaimOutcome;
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, Owner, OwnerProof, Timestamp, UnixMillis};

/// How long a ticket lives after its owner was last seen.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(90);

/// The place of one key in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The key that waits.
    pub claim_key: ClaimKey,
    /// The proof of the owner's secret, if it sent one.
    pub owner_proof: Option<OwnerProof>,
    /// Since when it waits: its rank.
    pub enqueued_at: UnixMillis,
    /// Only sandboxes whose name starts with this.
    pub name_prefix: Option<String>,
    /// The lab's slug.
    pub track_name: Option<String>,
    /// A request of the owner waits until then at least.
    pub open_until: Timestamp,
    /// When the owner was last seen.
    pub seen_at: Timestamp,
}

impl Ticket {
    /// Whether it has not expired.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at() > now
    }

    /// Whether a request of its owner waits. An absent owner keeps its rank and is passed over.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.is_live(now) && self.open_until > now
    }

    /// When it expires unless its owner is seen again.
    pub fn expires_at(&self) -> Timestamp {
        self.seen_at.plus(TICKET_LIFETIME)
    }

    /// What the queue is sorted by.
    pub fn rank(&self) -> (UnixMillis, &ClaimKey) {
        (self.enqueued_at, &self.claim_key)
    }

    /// Who waits, as the holding of its key would name it.
    pub fn owner(&self) -> Owner {
        Owner { track: self.claim_key.track.clone(), proof: self.owner_proof.clone() }
    }
}

/// The outcome of a claim by a waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it is matched at once; a box would cost an allocation")]
pub enum GrantOutcome {
    /// As without a ticket. [`ClaimOutcome::Claimed`] has removed the ticket.
    Claim(ClaimOutcome),
    /// The ticket is gone or expired, and its key holds nothing. Nothing was written.
    TicketGone,
}

/// The tickets. One request for each method unless it says otherwise.
#[async_trait]
pub trait Tickets: Send + Sync + 'static {
    /// Stores the ticket. If its key has a live one, that one keeps its rank and takes over the rest. `None` if the live
    /// one belongs to an owner with another secret. Up to three requests.
    async fn open_ticket(&self, ticket: &Ticket) -> Result<Option<Ticket>, StoreError>;

    /// Stores `open_until` and `seen_at`; `false` if the ticket is gone.
    async fn renew_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError>;

    /// Removes the ticket; `false` if it was gone.
    async fn withdraw_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError>;

    /// Reads all tickets, expired ones too, consistently. One request for each shard.
    async fn tickets(&self) -> Result<Vec<Ticket>, StoreError>;

    /// Reads what a key holds and its ticket, consistently.
    async fn find_held(&self, claim_key: &ClaimKey) -> Result<(Option<Claim>, Option<Ticket>), StoreError>;

    /// Creates the claim, allocates the candidate and removes the ticket, all or none. The ticket must be live at `now`.
    async fn grant(
        &self,
        update: &ConditionalUpdate,
        claim: &Claim,
        ticket: &Ticket,
        now: Timestamp,
    ) -> Result<GrantOutcome, StoreError>;

    /// Tells all replicas, through the items that they read every few seconds, that `waiting` owners wait until then at
    /// least.
    async fn announce_queue(&self, until: Timestamp, waiting: u64) -> Result<(), StoreError>;
}
