//! The invariants, and the situations that an exploration must reach to be meaningful.

use broker_actors::sandbox::{Claim, Owner, Status};
use stateright::Property;

use crate::state::{Message, Protocol, Slot, Stage, State};

type Rule = Property<Protocol>;

pub(crate) const I1: &str = "I1: a sandbox is allocated to one track";
pub(crate) const I2: &str = "I2: a key holds one sandbox";
pub(crate) const I3: &str = "I3: an allocation that was answered is in the table";
pub(crate) const I3_END: &str = "I3: a holding ends by its release or its expiry";
pub(crate) const I4: &str = "I4: none available is answered only if there was none";
pub(crate) const I5: &str = "I5: a writer with an old view changes nothing";

pub(crate) const REPLAY: &str = "duplicates get the same sandbox";
pub(crate) const CONFLICT: &str = "replicas try to claim the same sandbox";
pub(crate) const LATE_CLAIM: &str = "a late claim finds that its key holds another sandbox";
pub(crate) const REPLAY_AFTER_CRASH: &str = "another replica answers with the claim of a crashed one";
pub(crate) const EXPIRY_AFTER_RELEASE: &str = "an expiry arrives after the release";
pub(crate) const EXPIRY_AFTER_RENEWAL: &str = "an expiry arrives after a renewal";
pub(crate) const NONE_AVAILABLE: &str = "none available is answered";

/// The invariants and the situations.
pub(crate) fn all() -> Vec<Rule> {
    vec![
        Rule::always(I1, |protocol, state| {
            let is_shared = |(one, claim): (usize, &Claim)| {
                answered_claims(state).any(|(other, again)| {
                    claim.sandbox_id == again.sandbox_id && protocol.key(one) != protocol.key(other)
                })
            };
            !answered_claims(state).any(is_shared)
        }),
        Rule::always(I2, |_, state| state.tables.violation().is_none()),
        Rule::always(I3, |protocol, state| {
            answered_claims(state).all(|(number, claim)| {
                let key = protocol.key(number);
                let current = state.tables.get(&claim.sandbox_id);
                current.is_some_and(|sandbox| {
                    let is_or_was_held = matches!(sandbox.status, Status::Allocated | Status::PendingDeletion);
                    is_or_was_held
                        && sandbox.belongs_to(&Owner::named(key.track))
                        && sandbox.idempotency_key == Some(key.key)
                })
            })
        }),
        Rule::always(I3_END, |_, state| !state.has_ended_early),
        Rule::always(I4, |_, state| {
            state.clients.iter().all(|client| client.stage != Stage::NoneAvailable || client.saw_none)
        }),
        Rule::always(I5, |_, state| !state.has_unfenced_write),
        Rule::sometimes(REPLAY, |_, state| {
            answered_claims(state).any(|(one, claim)| {
                answered_claims(state).any(|(other, again)| one != other && claim.sandbox_id == again.sandbox_id)
            })
        }),
        Rule::sometimes(CONFLICT, |_, state| {
            let is_consumed = |sandbox: usize| state.pools.iter().all(|pool| pool[sandbox] == Slot::Consumed);
            (0..state.pools[0].len()).any(is_consumed)
        }),
        Rule::sometimes(LATE_CLAIM, |_, state| {
            state.in_network.iter().any(|message| {
                let Message::Claim(update, claim) = message.as_ref() else { return false };
                let held = state.tables.find_claim(&claim.claim_key);
                held.is_some_and(|held| held.sandbox_id != update.sandbox_id)
            })
        }),
        Rule::sometimes(REPLAY_AFTER_CRASH, |_, state| {
            let is_replay = |stage: &Stage| matches!(stage, Stage::Holds { is_new: false, .. });
            state.clients.iter().any(|client| client.retries > 0 && is_replay(&client.stage))
        }),
        Rule::sometimes(EXPIRY_AFTER_RELEASE, |_, state| has_late_expiry(state, Status::PendingDeletion)),
        Rule::sometimes(EXPIRY_AFTER_RENEWAL, |_, state| has_late_expiry(state, Status::Allocated)),
        Rule::sometimes(NONE_AVAILABLE, |_, state| {
            state.clients.iter().any(|client| client.stage == Stage::NoneAvailable)
        }),
    ]
}

/// Whether an expiry is in the network whose condition fails because of a change to this status.
fn has_late_expiry(state: &State, status: Status) -> bool {
    state.in_network.iter().any(|message| {
        let Message::Expire(update, _) = message.as_ref() else { return false };
        let current = state.tables.get(&update.sandbox_id);
        current.is_some_and(|current| current.status == status && !update.is_met_by(current))
    })
}

/// Every claim in an answer, with the number of its client.
fn answered_claims(state: &State) -> impl Iterator<Item = (usize, &Claim)> {
    state.clients.iter().enumerate().filter_map(|(number, client)| match &client.stage {
        Stage::Holds { claim, .. } => Some((number, claim.as_ref())),
        _ => None,
    })
}
