//! The claim protocol in small steps: what a replica does between two requests to the store, as `allocation.rs` and
//! the pool do it, with the real domain for every decision and the model store's tables for every condition.

use std::sync::Arc;

use broker_actors::ports::ClaimOutcome;
use broker_actors::sandbox::{Claim, ClaimKey, ConditionalUpdate, Event, Holding, IdempotencyKey, Timestamp, TrackId};
use broker_actors::testing::{Flaw, Tables};
use stateright::{Model, Property};

use crate::state::{Action, Ask, Asker, LAB_DURATION, Message, Protocol, Slot, Stage, State, Variant};

impl Protocol {
    fn track(&self, asker: usize) -> TrackId {
        TrackId::new(format!("t{}", self.asks[asker].track))
    }

    pub(crate) fn key(&self, asker: usize) -> ClaimKey {
        let track = self.track(asker);
        ClaimKey { key: IdempotencyKey::new(track.as_str()), track }
    }

    /// The claim that the asker's replica composes for this candidate.
    fn compose_claim(&self, state: &State, asker: usize, sandbox: usize) -> Message {
        let now = state.now();
        let ClaimKey { track, key } = self.key(asker);
        let holding = Holding { track, track_name: None, key, expires_at: now.plus(LAB_DURATION) };
        // Without a sync, an available sandbox looks as it did at the beginning.
        let candidate = Tables::sandbox(sandbox as u32 + 1);
        let (write, claim) = candidate.claim(holding, now).expect("it is available");
        Message::Claim(write, claim)
    }

    /// Carries a message out in the tables, as the store does, and notes what it must not do.
    fn carry_out(&self, state: &mut State, message: &Message) -> Option<ClaimOutcome> {
        let (Message::Claim(write, _)
        | Message::Release(write, _)
        | Message::Expire(write, _)
        | Message::Renew(write, _)) = message;
        let before = state.tables.get(&write.sandbox_id).cloned();
        let is_expected = before.as_ref().is_some_and(|found| write.is_met_by(found));
        let now = state.now();
        let tables = Arc::make_mut(&mut state.tables);
        let outcome = match message {
            Message::Claim(write, claim) => Some(tables.claim(write, claim)),
            Message::Renew(write, renewed) => {
                tables.renew_claim(write, renewed);
                None
            }
            Message::Release(write, key) | Message::Expire(write, key) => {
                if self.variant == Variant::UnfencedEnd {
                    tables.flaw = Some(Flaw::ViewIgnored);
                }
                tables.end_claim(write, key);
                tables.flaw = self.flaw();
                None
            }
        };
        let after = state.tables.get(&write.sandbox_id);
        let has_changed = before.as_ref() != after;
        state.is_unfenced |= has_changed && !is_expected;
        let due = before.and_then(|sandbox| sandbox.expires_at);
        state.has_ended_early |= has_changed && matches!(message, Message::Expire(..)) && due > Some(now);
        outcome
    }

    fn flaw(&self) -> Option<Flaw> {
        (self.variant == Variant::ReadThenWrite).then_some(Flaw::HeldKeyIgnored)
    }

    /// What the asker's replica does with the answer to its claim; `None` if there is no answer.
    fn settle(&self, state: &mut State, asker: usize, message: &Message, outcome: Option<ClaimOutcome>) {
        let Message::Claim(write, claim) = message else { return };
        let replica = state.askers[asker].replica;
        let sandbox = self.number(write);
        let (slot, stage) = match outcome {
            Some(ClaimOutcome::Claimed) => (Slot::Consumed, told(claim.clone(), true)),
            Some(ClaimOutcome::AlreadyHeld(held)) => (Slot::Free, answer_held(held, state.now())),
            Some(ClaimOutcome::CandidateChanged { .. }) => (Slot::Consumed, Stage::Seeking),
            Some(ClaimOutcome::CandidateConflict) => (Slot::Unknown, Stage::Seeking),
            Some(ClaimOutcome::ClaimConflict) => (Slot::Free, Stage::Seeking),
            None => match self.variant {
                Variant::UnknownIsSuccess => (Slot::Consumed, told(claim.clone(), true)),
                Variant::UnknownPutBack => (Slot::Free, Stage::Resolving(Arc::new(claim.clone()))),
                _ => (Slot::Unknown, Stage::Resolving(Arc::new(claim.clone()))),
            },
        };
        state.pools[replica][sandbox] = slot;
        state.askers[asker].stage = stage;
    }

    fn number(&self, write: &ConditionalUpdate) -> usize {
        let numbers = 0..self.sandboxes as usize;
        numbers
            .into_iter()
            .find(|number| Tables::sandbox(*number as u32 + 1).sandbox_id == write.sandbox_id)
            .expect("it is one")
    }

    /// The asker's key is read, consistently.
    fn read_key(&self, state: &mut State, asker: usize) {
        let held = state.tables.find_claim(&self.key(asker)).cloned();
        let now = state.now();
        state.askers[asker].stage = match (&state.askers[asker].stage, held) {
            (Stage::Resolving(attempted), Some(held)) if held == **attempted => told(held, true),
            (Stage::Resolving(_), Some(held)) => answer_held(held, now),
            (Stage::Resolving(_), None) => Stage::Seeking,
            (_, Some(held)) if held.expires_at > now => told(held, false),
            (..) => Stage::ToldNone,
        };
    }

    /// The pool of a replica takes over what the index shows and serves who waits; the others have reason to doubt that
    /// there is any, unless what was found or known before may come back. The reading takes no time here; in the
    /// simulation of the real pool it does.
    fn refresh(&self, state: &mut State, replica: usize) {
        let shown: Vec<_> = (0..self.sandboxes as usize).map(|sandbox| state.shows(sandbox)).collect();
        let pool = &mut state.pools[replica];
        let is_cloudy = pool.iter().any(|slot| matches!(slot, Slot::InFlight | Slot::Unknown));
        for (slot, is_shown) in pool.iter_mut().zip(shown) {
            *slot = match (*slot, is_shown) {
                (Slot::InFlight, _) => Slot::InFlight,
                (Slot::Consumed, true) => Slot::Consumed,
                (_, true) => Slot::Free,
                (_, false) => Slot::Absent,
            };
        }
        let is_waiting = |number: &usize| {
            let asker = &state.askers[*number];
            asker.replica == replica && asker.stage == Stage::Seeking
        };
        let mut waiting: Vec<usize> = (0..state.askers.len()).filter(is_waiting).collect();
        let found = (0..self.sandboxes as usize).filter(|sandbox| state.pools[replica][*sandbox] == Slot::Free);
        let found: Vec<usize> = found.collect();
        let served: Vec<usize> = waiting.drain(..found.len().min(waiting.len())).collect();
        for (asker, sandbox) in served.iter().zip(&found) {
            self.take(state, *asker, *sandbox);
        }
        let are_finds_forgotten = self.variant == Variant::FindsForgotten;
        if is_cloudy || !served.is_empty() && !are_finds_forgotten {
            return;
        }
        for number in waiting {
            state.askers[number].stage = Stage::Doubting;
        }
    }

    fn take(&self, state: &mut State, asker: usize, sandbox: usize) {
        let message = self.compose_claim(state, asker, sandbox);
        let replica = state.askers[asker].replica;
        state.pools[replica][sandbox] = Slot::InFlight;
        state.askers[asker].stage = Stage::Claiming(Arc::new(message));
    }

    /// The replica dies and is up again: it remembers nothing, and what it sent is still under way.
    fn crash(&self, state: &mut State, replica: usize) {
        state.crashes += 1;
        state.pools[replica].fill(Slot::Absent);
        for number in 0..state.askers.len() {
            let asker = &mut state.askers[number];
            let is_answered = matches!(asker.stage, Stage::Idle | Stage::Told { .. } | Stage::ToldNone);
            if asker.replica != replica || is_answered {
                continue;
            }
            let stage = std::mem::replace(&mut asker.stage, Stage::Unanswered);
            if let Stage::Claiming(message) | Stage::Ending(message) = stage {
                state.send_late(message);
            }
        }
    }

    fn expiry(&self, claim: &Claim, now: Timestamp) -> Option<Message> {
        // The transition refuses what is not due.
        let write = ConditionalUpdate::of_holding(claim, Event::Expire { due: claim.expires_at }, now).ok()?;
        Some(Message::Expire(write, claim.claim_key.clone()))
    }

    fn renewal(&self, state: &State, claim: &Claim) -> Option<Message> {
        let found = state.tables.get(&claim.sandbox_id)?;
        let now = state.now();
        let write = found.update(Event::Renew { expires_at: now.plus(LAB_DURATION) }, now).ok()?;
        let renewed = Claim::held(&found.after(&write.mutation))?;
        Some(Message::Renew(write, renewed))
    }

    fn asker_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let asker = &state.askers[number];
        let may_lose = state.losses < self.losses;
        match &asker.stage {
            Stage::Idle => actions.push(Action::Ask(number)),
            Stage::Unanswered if asker.retries < self.retries => actions.push(Action::AskAgain(number)),
            Stage::Seeking => {
                let pool = state.pools[asker.replica].iter().enumerate();
                let free = pool.filter(|(_, slot)| **slot == Slot::Free).map(|(sandbox, _)| sandbox);
                actions.extend(free.map(|sandbox| Action::Take(number, sandbox)));
            }
            Stage::Claiming(_) => {
                actions.push(Action::CarryOut(number));
                if may_lose {
                    actions.extend([Action::LoseAnswer(number), Action::GiveUp(number)]);
                }
            }
            Stage::Ending(_) => actions.push(Action::CarryOut(number)),
            Stage::Resolving(_) | Stage::Doubting => {
                actions.push(Action::ReadKey(number));
                if may_lose {
                    actions.push(Action::FailRead(number));
                }
            }
            Stage::Told { claim, .. } => {
                if self.releases && !asker.has_released {
                    actions.push(Action::Release(number));
                }
                if self.renews && !asker.has_renewed {
                    actions.push(Action::Renew(number));
                }
                if claim.expires_at <= state.now() {
                    actions.push(Action::FireTimer(number));
                }
            }
            Stage::Unanswered | Stage::ToldNone => {}
        }
    }
}

fn told(claim: Claim, is_new: bool) -> Stage {
    Stage::Told { claim: Arc::new(claim), is_new }
}

/// An overdue holding is ended first; any other is the answer.
fn answer_held(held: Claim, now: Timestamp) -> Stage {
    match ConditionalUpdate::of_holding(&held, Event::Expire { due: held.expires_at }, now) {
        Ok(write) => Stage::Ending(Arc::new(Message::Expire(write, held.claim_key))),
        Err(_) => told(held, false),
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut tables = Tables::with_sandboxes(self.sandboxes);
        tables.flaw = self.flaw();
        let asker = |ask: &Ask| Asker {
            replica: ask.replica,
            stage: Stage::Idle,
            retries: 0,
            has_released: false,
            has_renewed: false,
            saw_none: false,
        };
        vec![State {
            tables: Arc::new(tables),
            index: None,
            askers: self.asks.iter().map(asker).collect(),
            pools: vec![vec![Slot::Free; self.sandboxes as usize]; self.replicas],
            late: Vec::new(),
            crashes: 0,
            losses: 0,
            ticks: 0,
            is_unfenced: false,
            has_ended_early: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..state.askers.len() {
            self.asker_actions(state, number, actions);
        }
        let is_overdue =
            |sandbox: &usize| Claim::held(state.sandbox(*sandbox)).is_some_and(|claim| claim.expires_at <= state.now());
        actions.extend((0..self.sandboxes as usize).filter(is_overdue).map(Action::Sweep));
        actions.extend((0..state.late.len()).map(Action::CarryOutLate));
        actions.extend((0..self.replicas).map(Action::Refresh));
        if state.crashes < self.crashes {
            actions.extend((0..self.replicas).map(Action::Crash));
        }
        if state.ticks < self.ticks {
            actions.push(Action::Tick);
        }
        if self.lags {
            actions.push(if state.index.is_none() { Action::FreezeIndex } else { Action::ThawIndex });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Ask(number) => state.askers[number].stage = Stage::Seeking,
            Action::AskAgain(number) => {
                let asker = &mut state.askers[number];
                asker.retries += 1;
                asker.replica = (asker.replica + 1) % self.replicas;
                asker.saw_none = false;
                asker.stage = Stage::Seeking;
            }
            Action::Take(number, sandbox) => {
                let held = state.tables.find_claim(&self.key(number));
                if let (Variant::ReadThenWrite, Some(held)) = (self.variant, held) {
                    state.askers[number].stage = told(held.clone(), false);
                } else {
                    self.take(&mut state, number, sandbox);
                }
            }
            Action::CarryOut(number) => match last.askers[number].stage.clone() {
                Stage::Claiming(message) => {
                    let outcome = self.carry_out(&mut state, &message);
                    self.settle(&mut state, number, &message, outcome);
                }
                Stage::Ending(message) => {
                    self.carry_out(&mut state, &message);
                    state.askers[number].stage = Stage::Seeking;
                }
                _ => return None,
            },
            Action::LoseAnswer(number) | Action::GiveUp(number) => {
                let Stage::Claiming(message) = last.askers[number].stage.clone() else { return None };
                state.losses += 1;
                if action == Action::LoseAnswer(number) {
                    self.carry_out(&mut state, &message);
                } else {
                    state.send_late(Arc::clone(&message));
                }
                self.settle(&mut state, number, &message, None);
            }
            Action::ReadKey(number) => self.read_key(&mut state, number),
            Action::FailRead(number) => {
                state.losses += 1;
                state.askers[number].stage = Stage::Unanswered;
            }
            Action::Release(number) => {
                let Stage::Told { claim, .. } = &last.askers[number].stage else { return None };
                let key = claim.claim_key.clone();
                let write = ConditionalUpdate::release_by_holder(claim.sandbox_id.clone(), key.clone(), state.now());
                state.send_late(Arc::new(Message::Release(write, key)));
                state.askers[number].has_released = true;
            }
            Action::Renew(number) => {
                let Stage::Told { claim, .. } = &last.askers[number].stage else { return None };
                let renewal = self.renewal(&state, claim)?;
                state.send_late(Arc::new(renewal));
                state.askers[number].has_renewed = true;
            }
            Action::FireTimer(number) => {
                let Stage::Told { claim, .. } = &last.askers[number].stage else { return None };
                let expiry = self.expiry(claim, state.now())?;
                state.send_late(Arc::new(expiry));
            }
            Action::Sweep(sandbox) => {
                let claim = Claim::held(state.sandbox(sandbox))?;
                let expiry = self.expiry(&claim, state.now())?;
                state.send_late(Arc::new(expiry));
            }
            Action::CarryOutLate(number) => {
                let message = state.late.remove(number);
                self.carry_out(&mut state, &message);
            }
            Action::Refresh(replica) => self.refresh(&mut state, replica),
            Action::Crash(replica) => self.crash(&mut state, replica),
            Action::Tick => state.ticks += 1,
            Action::FreezeIndex => state.index = Some(Arc::clone(&state.tables)),
            Action::ThawIndex => state.index = None,
        }
        if self.variant == Variant::NoneAtOnce {
            for asker in state.askers.iter_mut().filter(|asker| asker.stage == Stage::Seeking) {
                if !state.pools[asker.replica].contains(&Slot::Free) {
                    asker.stage = Stage::Doubting;
                }
            }
        }
        state.note_emptiness();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all()
    }
}
