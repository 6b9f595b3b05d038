//! What an owner does with its holding: read it, give it back, start its lab, renew it; by the sandbox's id, or by its key.

use std::time::Duration;

use super::{AllocationSettings, Allocator};
use crate::ports::{StoreError, Ticket};
use crate::queue::Standing;
use crate::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, Event, IdempotencyKey, Owner, Sandbox, SandboxId, Status, Timestamp,
};
use crate::update::{ClaimChange, SandboxError, Step, existing, owned, update_sandbox};

/// Why the holding of a key was not read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HeldError {
    /// The key holds nothing.
    #[error("this key holds no sandbox")]
    NothingHeld,
    /// The caller does not prove that it owns what the key holds (I10).
    #[error("this key belongs to an owner with another secret")]
    NotOwner,
    /// The holding was not changed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl From<StoreError> for HeldError {
    fn from(error: StoreError) -> Self {
        Self::Sandbox(error.into())
    }
}

/// A sandbox that its owner released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// When it was first released.
    pub deletion_requested_at: Timestamp,
}

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it is matched at once; a box would cost an allocation")]
pub enum Held {
    /// A sandbox.
    Sandbox(Claim),
    /// A place in the queue.
    Place(Standing),
}

/// What a key gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasedHeld {
    /// Whether there was something: a sandbox or a place in the queue.
    pub released: bool,
    /// The sandbox.
    pub sandbox_id: Option<SandboxId>,
}

/// A renewed holding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The holding.
    pub claim: Claim,
    /// Whether the longest duration cut the renewal short.
    pub capped: bool,
}

impl Allocator {
    /// What the key holds, or its place in the queue.
    ///
    /// # Errors
    ///
    /// See [`HeldError`].
    pub async fn held(&self, owner: &Owner, key: &IdempotencyKey) -> Result<Held, HeldError> {
        match self.find_own(owner, key).await? {
            (Some(claim), _) => Ok(Held::Sandbox(claim)),
            (None, Some(ticket)) => Ok(Held::Place(self.0.queue.standing(&ticket).await?)),
            (None, None) => Err(HeldError::NothingHeld),
        }
    }

    /// Gives back what the key holds: its sandbox, or its place in the queue. The caller needs no id, so that it need not
    /// remember one. An allocation in flight is not seen.
    ///
    /// # Errors
    ///
    /// See [`HeldError`].
    pub async fn release_held(&self, owner: &Owner, key: &IdempotencyKey) -> Result<ReleasedHeld, HeldError> {
        let (mut held, ticket) = self.find_own(owner, key).await?;
        let mut left_queue = false;
        if let Some(ticket) = ticket {
            // The ticket first: without it nothing more is granted to this key.
            left_queue = self.0.store.withdraw_ticket(&ticket).await?;
            held = None;
        }
        if held.is_none() {
            // A grant may have come between the reads of claim and ticket, or before the withdrawal.
            held = self.find_own(owner, key).await?.0;
        }
        let sandbox_id = match held {
            Some(held) => self.release_claim(held, owner, key).await?,
            None => None,
        };
        Ok(ReleasedHeld { released: left_queue || sandbox_id.is_some(), sandbox_id })
    }

    /// The key's claim and live ticket, if the caller proves that they are its own.
    async fn find_own(
        &self,
        owner: &Owner,
        key: &IdempotencyKey,
    ) -> Result<(Option<Claim>, Option<Ticket>), HeldError> {
        let claim_key = ClaimKey { track: owner.track.clone(), key: key.clone() };
        let (claim, ticket) = self.0.store.find_held(&claim_key).await?;
        let ticket = ticket.filter(|ticket| ticket.is_live(self.0.clock.now()));
        let proofs =
            [claim.as_ref().map(|claim| &claim.owner_proof), ticket.as_ref().map(|ticket| &ticket.owner_proof)];
        if proofs.into_iter().flatten().all(|proof| owner.proves(proof.as_ref())) {
            Ok((claim, ticket))
        } else {
            Err(HeldError::NotOwner)
        }
    }

    async fn release_claim(
        &self,
        held: Claim,
        owner: &Owner,
        key: &IdempotencyKey,
    ) -> Result<Option<SandboxId>, HeldError> {
        let now = self.0.clock.now();
        let end = ClaimChange::End(held.claim_key.clone());
        let update = ConditionalUpdate::of_holding(&held, Event::Release, now).map_err(SandboxError::from)?;
        let first = Step::Write { update, claim: end, answer: true };
        let next = |current| {
            let Some(sandbox) = still_held(current, &held.sandbox_id, owner, key)? else {
                return Ok(Step::Done(false));
            };
            let update = sandbox.update(Event::Release, now)?;
            Ok(Step::Write { update, claim: ClaimChange::End(held.claim_key.clone()), answer: true })
        };
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let is_released = update_sandbox(&*self.0.store, &held.sandbox_id, waits, first, next).await?;
        self.0.timers.cancel(&held.sandbox_id);
        Ok(is_released.then_some(held.sandbox_id))
    }

    /// Starts the lab of a standby. A holding whose lab has started stays as it is.
    ///
    /// # Errors
    ///
    /// See [`HeldError`].
    pub async fn activate(&self, owner: &Owner, key: &IdempotencyKey) -> Result<Claim, HeldError> {
        let held = self.find_own(owner, key).await?.0.ok_or(HeldError::NothingHeld)?;
        if !held.lab.standby {
            return Ok(held);
        }
        let now = self.0.clock.now();
        let event = Event::Activate { expires_at: now.plus(self.lab_duration(&held)) };
        let update = ConditionalUpdate::of_holding(&held, event.clone(), now).map_err(SandboxError::from)?;
        let active = activated(held.clone(), now, &event);
        let first = Step::Write { update, claim: ClaimChange::Renew(active.clone()), answer: Some(active) };
        let next = |current| {
            let claim = still_held(current, &held.sandbox_id, owner, key)?;
            let Some(claim) = claim.as_ref().and_then(Claim::held) else { return Ok(Step::Done(None)) };
            if !claim.lab.standby {
                return Ok(Step::Done(Some(claim)));
            }
            let update = ConditionalUpdate::of_holding(&claim, event.clone(), now)?;
            let active = activated(claim, now, &event);
            Ok(Step::Write { update, claim: ClaimChange::Renew(active.clone()), answer: Some(active) })
        };
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let activated = update_sandbox(&*self.0.store, &held.sandbox_id, waits, first, next).await?;
        let activated = activated.ok_or(HeldError::NothingHeld)?;
        self.0.timers.set(activated.clone());
        Ok(activated)
    }

    /// Releases a sandbox. A repeated release by the same track gets the same answer until the sandbox is deleted.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn release(&self, sandbox_id: &SandboxId, owner: &Owner) -> Result<Released, SandboxError> {
        let now = self.0.clock.now();
        let released = |at| Released { sandbox_id: sandbox_id.clone(), deletion_requested_at: at };
        // The caller does not send its key. Most callers use the default, and one request is enough; otherwise the
        // record that comes back names the key.
        let default_key = IdempotencyKey::new(owner.track.as_str());
        let end = |key| ClaimChange::End(ClaimKey { track: owner.track.clone(), key });
        let first = Step::Write {
            update: ConditionalUpdate::release_by_holder(sandbox_id.clone(), owner.clone(), default_key.clone(), now),
            claim: end(default_key.clone()),
            answer: released(now),
        };
        let next = |current| {
            let sandbox = owned(current, sandbox_id, owner)?;
            if let (true, Some(at)) = (sandbox.status != Status::Allocated, sandbox.deletion_requested_at) {
                return Ok(Step::Done(released(at)));
            }
            let update = sandbox.update(Event::Release, now)?;
            let claim = end(sandbox.idempotency_key.unwrap_or(default_key.clone()));
            Ok(Step::Write { update, claim, answer: released(now) })
        };
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let released = update_sandbox(&*self.0.store, sandbox_id, waits, first, next).await?;
        self.0.timers.cancel(sandbox_id);
        Ok(released)
    }

    /// Reads a sandbox that the owner holds or has released.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn read(&self, sandbox_id: &SandboxId, owner: &Owner) -> Result<Sandbox, SandboxError> {
        owned(self.0.store.get(sandbox_id).await?, sandbox_id, owner)
    }

    /// Extends a holding to `duration` from now, or to its lab's duration, but not beyond the longest duration from the
    /// start of its lab. It never gets shorter: the present end may come from a replica whose clock is ahead.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn renew(
        &self,
        sandbox_id: &SandboxId,
        owner: &Owner,
        duration: Option<Duration>,
    ) -> Result<Renewed, SandboxError> {
        let AllocationSettings { max_holding, .. } = self.0.settings;
        let next = |current| {
            let sandbox = owned(current, sandbox_id, owner)?;
            if sandbox.status == Status::Allocated && sandbox.lab.standby {
                return Err(SandboxError::Standby(sandbox_id.clone()));
            }
            let now = self.0.clock.now();
            let held_until = sandbox.expires_at.unwrap_or_default();
            let last_end = sandbox.lab.activated_at.unwrap_or(sandbox.allocated_at).plus(max_holding);
            if sandbox.status == Status::Allocated && held_until >= last_end {
                return Err(SandboxError::MaxDurationReached(sandbox_id.clone()));
            }
            let lab_duration = sandbox.lab.lab_seconds.map_or(self.0.settings.lab_duration, Duration::from_secs);
            let wanted = now.plus(duration.unwrap_or(lab_duration));
            let expires_at = held_until.max(wanted.min(last_end));
            let update = sandbox.update(Event::Renew { expires_at }, now)?;
            let claim = Claim::held(&sandbox.after(&update.mutation))
                .ok_or_else(|| SandboxError::NotOwner(sandbox_id.clone()))?;
            let answer = Renewed { claim: claim.clone(), capped: wanted > last_end };
            Ok(Step::Write { update, claim: ClaimChange::Renew(claim), answer })
        };
        let first = next(self.0.store.get(sandbox_id).await?)?;
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let renewed = update_sandbox(&*self.0.store, sandbox_id, waits, first, next).await?;
        self.0.timers.set(renewed.claim.clone());
        Ok(renewed)
    }

    /// Extends a holding on an operator's order: it ends `duration` from now, or at its present end if that is later. The
    /// longest duration binds owners alone.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn extend(
        &self,
        sandbox_id: &SandboxId,
        duration: Duration,
        operator: &str,
    ) -> Result<Sandbox, SandboxError> {
        let next = |current| {
            let sandbox = existing(current, sandbox_id)?;
            if sandbox.status == Status::Allocated && sandbox.lab.standby {
                return Err(SandboxError::Standby(sandbox_id.clone()));
            }
            let now = self.0.clock.now();
            let expires_at = sandbox.expires_at.unwrap_or_default().max(now.plus(duration));
            let update = sandbox.update(Event::Renew { expires_at }, now)?.made_by(operator);
            let answer = sandbox.after(&update.mutation);
            let claim = Claim::held(&answer).map_or(ClaimChange::None, ClaimChange::Renew);
            Ok(Step::Write { update, claim, answer })
        };
        let first = next(self.0.store.get(sandbox_id).await?)?;
        let waits = self.0.settings.retry.waits(&self.0.jitter);
        let extended = update_sandbox(&*self.0.store, sandbox_id, waits, first, next).await?;
        if let Some(claim) = Claim::held(&extended) {
            self.0.timers.set(claim);
        }
        Ok(extended)
    }

    fn lab_duration(&self, held: &Claim) -> Duration {
        held.lab.lab_seconds.map_or(self.0.settings.lab_duration, Duration::from_secs)
    }
}

/// The claim of a standby after its activation.
fn activated(standby: Claim, now: Timestamp, event: &Event) -> Claim {
    let mut active = standby;
    if let Event::Activate { expires_at } = event {
        active.expires_at = *expires_at;
    }
    active.lab.standby = false;
    active.lab.activated_at = Some(now);
    active.epoch = active.epoch.next();
    active
}

/// The sandbox, if it is still held under this key.
fn still_held(
    current: Option<Sandbox>,
    sandbox_id: &SandboxId,
    owner: &Owner,
    key: &IdempotencyKey,
) -> Result<Option<Sandbox>, SandboxError> {
    match owned(current, sandbox_id, owner) {
        Ok(sandbox) => Ok(Some(sandbox)
            .filter(|sandbox| sandbox.status == Status::Allocated && sandbox.idempotency_key.as_ref() == Some(key))),
        Err(SandboxError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
