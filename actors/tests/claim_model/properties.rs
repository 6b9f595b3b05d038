//! What must always hold of the protocol, and what must happen somewhere, so that it is known to be explored.

use broker_actors::sandbox::{Claim, Status};
use stateright::Property;

use crate::state::{Message, Protocol, Slot, Stage, State};

type Rule = Property<Protocol>;

pub(crate) const I1: &str = "I1: a sandbox is given to one track";
pub(crate) const I2: &str = "I2: a key holds one sandbox";
pub(crate) const I3: &str = "I3: what is answered is in the table";
pub(crate) const I3_END: &str = "I3: a holding ends when it is given back or its time is over";
pub(crate) const I4: &str = "I4: none is said only when there was none";
pub(crate) const I5: &str = "I5: who saw another state changes nothing";

pub(crate) const REPLAY: &str = "twins are told the same";
pub(crate) const COLLISION: &str = "replicas collide at a sandbox";
pub(crate) const LATE_CLAIM: &str = "a late claim finds its key taken";
pub(crate) const INHERITED: &str = "the claim of a dead replica is answered by another";
pub(crate) const LATE_EXPIRY: &str = "an expiry comes after the release";
pub(crate) const EXPIRY_AFTER_RENEWAL: &str = "an expiry comes after a renewal";
pub(crate) const NONE: &str = "none is said";

/// What must always hold, and what may be seen somewhere, where the bounds allow it.
pub(crate) fn all() -> Vec<Rule> {
    vec![
        Rule::always(I1, |protocol, state| {
            let is_shared = |(one, claim): (usize, &Claim)| {
                claims_told(state).any(|(other, again)| {
                    claim.sandbox_id == again.sandbox_id && protocol.key(one) != protocol.key(other)
                })
            };
            !claims_told(state).any(is_shared)
        }),
        Rule::always(I2, |_, state| state.tables.contradiction().is_none()),
        Rule::always(I3, |protocol, state| {
            claims_told(state).all(|(number, claim)| {
                let key = protocol.key(number);
                let found = state.tables.get(&claim.sandbox_id);
                found.is_some_and(|sandbox| {
                    let is_or_was_held = matches!(sandbox.status, Status::Allocated | Status::PendingDeletion);
                    is_or_was_held && sandbox.belongs_to(&key.track) && sandbox.idempotency_key == Some(key.key)
                })
            })
        }),
        Rule::always(I3_END, |_, state| !state.has_ended_early),
        Rule::always(I4, |_, state| state.askers.iter().all(|asker| asker.stage != Stage::ToldNone || asker.saw_none)),
        Rule::always(I5, |_, state| !state.is_unfenced),
        Rule::sometimes(REPLAY, |_, state| {
            claims_told(state).any(|(one, claim)| {
                claims_told(state).any(|(other, again)| one != other && claim.sandbox_id == again.sandbox_id)
            })
        }),
        Rule::sometimes(COLLISION, |_, state| {
            let is_consumed = |sandbox: usize| state.pools.iter().all(|pool| pool[sandbox] == Slot::Consumed);
            (0..state.pools[0].len()).any(is_consumed)
        }),
        Rule::sometimes(LATE_CLAIM, |_, state| {
            state.late.iter().any(|message| {
                let Message::Claim(write, claim) = message.as_ref() else { return false };
                let held = state.tables.find_claim(&claim.claim_key);
                held.is_some_and(|held| held.sandbox_id != write.sandbox_id)
            })
        }),
        Rule::sometimes(INHERITED, |_, state| {
            let is_replay = |stage: &Stage| matches!(stage, Stage::Told { is_new: false, .. });
            state.askers.iter().any(|asker| asker.retries > 0 && is_replay(&asker.stage))
        }),
        Rule::sometimes(LATE_EXPIRY, |_, state| has_late_expiry(state, |status| status == Status::PendingDeletion)),
        Rule::sometimes(EXPIRY_AFTER_RENEWAL, |_, state| has_late_expiry(state, |status| status == Status::Allocated)),
        Rule::sometimes(NONE, |_, state| state.askers.iter().any(|asker| asker.stage == Stage::ToldNone)),
    ]
}

/// Whether an expiry is under way that finds another state than it expects, and such a status.
fn has_late_expiry(state: &State, is_met: impl Fn(Status) -> bool) -> bool {
    state.late.iter().any(|message| {
        let Message::Expire(write, _) = message.as_ref() else { return false };
        let found = state.tables.get(&write.sandbox_id);
        found.is_some_and(|found| is_met(found.status) && !write.is_met_by(found))
    })
}

/// Every claim that an asker was told, with the asker's number.
fn claims_told(state: &State) -> impl Iterator<Item = (usize, &Claim)> {
    state.askers.iter().enumerate().filter_map(|(number, asker)| match &asker.stage {
        Stage::Told { claim, .. } => Some((number, claim.as_ref())),
        _ => None,
    })
}
