use std::collections::BTreeMap;
use std::time::Duration;

use super::{FakeCsp, PausedClock};
use crate::ports::{ClaimOutcome, GrantOutcome, Ticket, WriteOutcome};
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, Sandbox, SandboxId, Status, Timestamp, UnixMillis};

/// The sandbox and claim items as a plain value with the conditional writes. The model store adds faults to it; the model
/// of the claim protocol explores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tables {
    pub(super) sandboxes: BTreeMap<SandboxId, Sandbox>,
    pub(super) claims: BTreeMap<ClaimKey, Claim>,
    pub(super) tickets: BTreeMap<ClaimKey, Ticket>,
    /// Grants without a live ticket (I11).
    pub(super) unticketed_grants: u32,
    /// Live tickets that lost their rank (I11).
    pub(super) lost_ranks: u32,
    /// An intended error in the writes.
    pub flaw: Option<Flaw>,
}

/// A missing condition or a missing write, for tests that show that the checks detect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A claim does not check whether its key already holds a sandbox.
    HeldKeyIgnored,
    /// A write does not check whether the sandbox has changed since it was read.
    ViewIgnored,
    /// A claim succeeds without a write.
    ClaimForgotten,
    /// A grant does not check whether its ticket is still there.
    TicketIgnored,
    /// A ticket that is opened again gets a new rank.
    RankForgotten,
    /// Who comes last is first.
    RankReversed,
    /// No grant succeeds.
    GrantRefused,
    /// A tombstone is not kept longer, whatever a write says.
    TombstoneForgotten,
    /// A claim does not store the proof of its owner's secret, so no later call is compared with it.
    ProofForgotten,
}

impl Tables {
    /// These sandboxes are available: `lab-00001` to `lab-{n}`.
    pub fn with_sandboxes(n: u32) -> Self {
        let sandboxes = (1..=n).map(Self::sandbox).map(|sandbox| (sandbox.sandbox_id.clone(), sandbox));
        Self { sandboxes: sandboxes.collect(), ..Self::default() }
    }

    /// The available sandbox with this number.
    pub fn sandbox(number: u32) -> Sandbox {
        Sandbox::discovered(&FakeCsp::account(number), Duration::ZERO, PausedClock::BEGIN_MILLIS)
    }

    /// All sandboxes, by id.
    pub fn sandboxes(&self) -> impl Iterator<Item = &Sandbox> {
        self.sandboxes.values()
    }

    /// The sandbox with this id.
    pub fn get(&self, sandbox_id: &SandboxId) -> Option<&Sandbox> {
        self.sandboxes.get(sandbox_id)
    }

    /// All claims, by key.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values()
    }

    /// The claim under this key.
    pub fn find_claim(&self, claim_key: &ClaimKey) -> Option<&Claim> {
        self.claims.get(claim_key)
    }

    /// See [`crate::ports::SandboxStore::claim`].
    pub fn claim(&mut self, write: &ConditionalUpdate, claim: &Claim) -> ClaimOutcome {
        if let Some(held) = self.claims.get(&claim.claim_key)
            && self.flaw != Some(Flaw::HeldKeyIgnored)
        {
            return ClaimOutcome::AlreadyHeld(held.clone());
        }
        if self.flaw == Some(Flaw::ClaimForgotten) {
            return ClaimOutcome::Claimed;
        }
        if let WriteOutcome::PreconditionFailed { current } = self.update(write) {
            return ClaimOutcome::CandidateChanged { current };
        }
        let mut claim = claim.clone();
        if self.flaw == Some(Flaw::ProofForgotten) {
            claim.owner_proof = None;
            self.sandboxes.entry(claim.sandbox_id.clone()).and_modify(|sandbox| sandbox.owner_proof = None);
        }
        self.claims.insert(claim.claim_key.clone(), claim);
        ClaimOutcome::Claimed
    }

    /// The ticket of this key.
    pub fn ticket(&self, claim_key: &ClaimKey) -> Option<&Ticket> {
        self.tickets.get(claim_key)
    }

    /// See [`crate::ports::Tickets::open_ticket`].
    pub fn open_ticket(&mut self, ticket: &Ticket) -> Option<Ticket> {
        let live = self.tickets.get(&ticket.claim_key).filter(|stored| stored.is_live(ticket.seen_at));
        if live.is_some_and(|stored| !ticket.owner().proves(stored.owner_proof.as_ref())) {
            return None;
        }
        let opened = match live {
            Some(stored) if self.flaw != Some(Flaw::RankForgotten) => {
                Ticket { enqueued_at: stored.enqueued_at, owner_proof: stored.owner_proof.clone(), ..ticket.clone() }
            }
            None if self.flaw == Some(Flaw::RankReversed) => {
                Ticket { enqueued_at: UnixMillis(u64::MAX - ticket.enqueued_at.0), ..ticket.clone() }
            }
            _ => ticket.clone(),
        };
        self.lost_ranks += u32::from(live.is_some_and(|stored| stored.enqueued_at != opened.enqueued_at));
        self.tickets.insert(opened.claim_key.clone(), opened.clone());
        Some(opened)
    }

    /// See [`crate::ports::Tickets::renew_ticket`].
    pub fn renew_ticket(&mut self, ticket: &Ticket) -> bool {
        let stored = self.tickets.get_mut(&ticket.claim_key).filter(|stored| stored.enqueued_at == ticket.enqueued_at);
        let is_there = stored.is_some();
        if let Some(stored) = stored {
            (stored.open_until, stored.seen_at) = (ticket.open_until, ticket.seen_at);
        }
        is_there
    }

    /// See [`crate::ports::Tickets::withdraw_ticket`].
    pub fn withdraw_ticket(&mut self, ticket: &Ticket) -> bool {
        let is_same = |stored: &Ticket| stored.enqueued_at == ticket.enqueued_at;
        let is_there = self.tickets.get(&ticket.claim_key).is_some_and(is_same);
        if is_there {
            self.tickets.remove(&ticket.claim_key);
        }
        is_there
    }

    /// See [`crate::ports::Tickets::grant`].
    pub fn grant(&mut self, write: &ConditionalUpdate, claim: &Claim, ticket: &Ticket, now: Timestamp) -> GrantOutcome {
        let is_same = |stored: &&Ticket| stored.enqueued_at == ticket.enqueued_at && stored.is_live(now);
        let is_there = self.tickets.get(&ticket.claim_key).filter(is_same).is_some();
        if !is_there && !self.claims.contains_key(&claim.claim_key) && self.flaw != Some(Flaw::TicketIgnored) {
            return GrantOutcome::TicketGone;
        }
        if self.flaw == Some(Flaw::GrantRefused) {
            return GrantOutcome::Claim(ClaimOutcome::CandidateConflict);
        }
        let outcome = self.claim(write, claim);
        if outcome == ClaimOutcome::Claimed {
            self.unticketed_grants += u32::from(!is_there);
            self.tickets.remove(&ticket.claim_key);
        }
        GrantOutcome::Claim(outcome)
    }

    /// See [`crate::ports::SandboxStore::end_claim`].
    pub fn end_claim(&mut self, write: &ConditionalUpdate, claim_key: &ClaimKey) -> WriteOutcome {
        let outcome = self.change_with_claim(write, claim_key, true);
        if outcome == WriteOutcome::Done {
            self.claims.remove(claim_key);
        }
        outcome
    }

    /// See [`crate::ports::SandboxStore::renew_claim`].
    pub fn renew_claim(&mut self, write: &ConditionalUpdate, renewed: &Claim) -> WriteOutcome {
        let outcome = self.change_with_claim(write, &renewed.claim_key, false);
        if outcome == WriteOutcome::Done {
            self.claims.insert(renewed.claim_key.clone(), renewed.clone());
        }
        outcome
    }

    /// See [`crate::ports::SandboxStore::delete_claim`].
    pub fn delete_claim(&mut self, claim: &Claim) -> bool {
        let is_unchanged = |current: &Claim| (&current.sandbox_id, current.epoch) == (&claim.sandbox_id, claim.epoch);
        let is_there = self.claims.get(&claim.claim_key).is_some_and(is_unchanged);
        if is_there {
            self.claims.remove(&claim.claim_key);
        }
        is_there
    }

    /// See [`crate::ports::SandboxStore::create`].
    pub fn create(&mut self, sandbox: &Sandbox) -> bool {
        let is_new = !self.sandboxes.contains_key(&sandbox.sandbox_id);
        if is_new {
            self.sandboxes.insert(sandbox.sandbox_id.clone(), sandbox.clone());
        }
        is_new
    }

    /// Removes the items whose TTL has passed, as DynamoDB does.
    pub fn expire(&mut self, now: Timestamp) {
        self.sandboxes.retain(|_, sandbox| sandbox.ttl.is_none_or(|ttl| ttl > now));
    }

    /// See [`crate::ports::SandboxStore::update`].
    pub fn update(&mut self, write: &ConditionalUpdate) -> WriteOutcome {
        let Some(found) = self.sandboxes.get_mut(&write.sandbox_id) else {
            return WriteOutcome::PreconditionFailed { current: None };
        };
        if !write.is_met_by(found) && self.flaw != Some(Flaw::ViewIgnored) {
            return WriteOutcome::PreconditionFailed { current: Some(found.clone()) };
        }
        let kept = found.ttl.filter(|_| found.status == Status::Deleted && self.flaw == Some(Flaw::TombstoneForgotten));
        *found = found.after(&write.mutation);
        found.ttl = kept.or(found.ttl);
        WriteOutcome::Done
    }

    fn change_with_claim(&mut self, write: &ConditionalUpdate, key: &ClaimKey, may_be_gone: bool) -> WriteOutcome {
        let claim_is_ours = match self.claims.get(key) {
            Some(claim) => claim.sandbox_id == write.sandbox_id,
            None => may_be_gone,
        };
        let expected = self.sandboxes.get(&write.sandbox_id).is_some_and(|found| write.is_met_by(found));
        if expected && !claim_is_ours {
            return WriteOutcome::ClaimMismatch;
        }
        self.update(write)
    }

    /// Checks that claims and allocated sandboxes match one to one (I1, I2, I3). Returns a description of a violation that
    /// starts with the invariant.
    pub fn violation(&self) -> Option<String> {
        for claim in self.claims.values() {
            let sandbox = self.sandboxes.get(&claim.sandbox_id);
            if sandbox.and_then(Claim::held).as_ref() != Some(claim) {
                return Some(format!("I1/I3: a claim does not match its sandbox: {claim:?}, {sandbox:?}"));
            }
        }
        if self.unticketed_grants > 0 {
            return Some("I11: a grant without a live ticket".to_owned());
        }
        if self.lost_ranks > 0 {
            return Some("I11: a live ticket lost its rank".to_owned());
        }
        let allocated = self.sandboxes().filter(|sandbox| sandbox.status == Status::Allocated).count();
        if allocated != self.claims.len() {
            return Some(format!("I2/I3: {allocated} sandboxes are allocated under {} claims", self.claims.len()));
        }
        None
    }
}
