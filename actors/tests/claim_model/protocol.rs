//! The steps of the claim protocol: what a replica does between two requests to the store, as in `allocation.rs` and the
//! pool. The core makes every decision, and the tables of the model store check every condition.

use std::sync::Arc;

use broker_actors::ports::ClaimOutcome;
use broker_actors::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, Event, Holding, IdempotencyKey, LabTime, Owner, Timestamp, TrackId,
};
use broker_actors::testing::{Flaw, Tables};
use stateright::{Model, Property};

use crate::state::{Action, Client, ClientSpec, LAB_DURATION, Message, Protocol, Slot, Stage, State, Variant};

impl Protocol {
    fn track(&self, client: usize) -> TrackId {
        TrackId::new(format!("t{}", self.clients[client].track))
    }

    pub(crate) fn key(&self, client: usize) -> ClaimKey {
        let track = self.track(client);
        ClaimKey { key: IdempotencyKey::new(track.as_str()), track }
    }

    /// The claim of this candidate by the client's replica.
    fn claim_of(&self, state: &State, client: usize, sandbox: usize) -> Message {
        let now = state.now();
        let ClaimKey { track, key } = self.key(client);
        let holding = Holding {
            owner: Owner::named(track),
            track_name: None,
            key,
            expires_at: now.plus(LAB_DURATION),
            lab: LabTime::default(),
        };
        // There is no sync, so an available sandbox is as it was at the start.
        let candidate = Tables::sandbox(sandbox as u32 + 1);
        let (update, claim) = candidate.claim(holding, now).expect("the candidate is available");
        Message::Claim(update, claim)
    }

    /// Applies a message to the tables, and records whether it violates I5 or ends a holding early.
    fn execute(&self, state: &mut State, message: &Message) -> Option<ClaimOutcome> {
        let (Message::Claim(update, _)
        | Message::Release(update, _)
        | Message::Expire(update, _)
        | Message::Renew(update, _)) = message;
        let before = state.tables.get(&update.sandbox_id).cloned();
        let is_condition_met = before.as_ref().is_some_and(|current| update.is_met_by(current));
        let now = state.now();
        let tables = Arc::make_mut(&mut state.tables);
        let outcome = match message {
            Message::Claim(update, claim) => Some(tables.claim(update, claim)),
            Message::Renew(update, renewed) => {
                tables.renew_claim(update, renewed);
                None
            }
            Message::Release(update, key) | Message::Expire(update, key) => {
                if self.variant == Variant::UnfencedEnd {
                    tables.flaw = Some(Flaw::ViewIgnored);
                }
                tables.end_claim(update, key);
                tables.flaw = self.flaw();
                None
            }
        };
        let after = state.tables.get(&update.sandbox_id);
        let has_changed = before.as_ref() != after;
        state.has_unfenced_write |= has_changed && !is_condition_met;
        let due = before.and_then(|sandbox| sandbox.expires_at);
        state.has_ended_early |= has_changed && matches!(message, Message::Expire(..)) && due > Some(now);
        outcome
    }

    fn flaw(&self) -> Option<Flaw> {
        (self.variant == Variant::ReadThenWrite).then_some(Flaw::HeldKeyIgnored)
    }

    /// The client's replica continues after its claim; the outcome is `None` if there is no response.
    fn complete(&self, state: &mut State, client: usize, message: &Message, outcome: Option<ClaimOutcome>) {
        let Message::Claim(update, claim) = message else { return };
        let replica = state.clients[client].replica;
        let sandbox = self.number(update);
        let (slot, stage) = match outcome {
            Some(ClaimOutcome::Claimed) => (Slot::Consumed, holds(claim.clone(), true)),
            Some(ClaimOutcome::AlreadyHeld(held)) => (Slot::Free, answer_held(held, state.now())),
            Some(ClaimOutcome::CandidateChanged { .. }) => (Slot::Consumed, Stage::Waiting),
            Some(ClaimOutcome::CandidateConflict) => (Slot::Unknown, Stage::Waiting),
            Some(ClaimOutcome::ClaimConflict) => (Slot::Free, Stage::Waiting),
            None => match self.variant {
                Variant::UnknownIsSuccess => (Slot::Consumed, holds(claim.clone(), true)),
                Variant::UnknownPutBack => (Slot::Free, Stage::Resolving(Arc::new(claim.clone()))),
                _ => (Slot::Unknown, Stage::Resolving(Arc::new(claim.clone()))),
            },
        };
        state.pools[replica][sandbox] = slot;
        state.clients[client].stage = stage;
    }

    fn number(&self, update: &ConditionalUpdate) -> usize {
        let is_target = |number: &usize| Tables::sandbox(*number as u32 + 1).sandbox_id == update.sandbox_id;
        (0..self.sandboxes as usize).find(is_target).expect("the sandbox exists")
    }

    /// A consistent read of the client's key.
    fn read_key(&self, state: &mut State, client: usize) {
        let held = state.tables.find_claim(&self.key(client)).cloned();
        let now = state.now();
        state.clients[client].stage = match (&state.clients[client].stage, held) {
            (Stage::Resolving(attempted), Some(held)) if held == **attempted => holds(held, true),
            (Stage::Resolving(_), Some(held)) => answer_held(held, now),
            (Stage::Resolving(_), None) => Stage::Waiting,
            (_, Some(held)) if held.expires_at > now => holds(held, false),
            (..) => Stage::NoneAvailable,
        };
    }

    /// The pool of a replica adopts the index and serves waiting clients. The others may conclude that there is none, unless
    /// candidates may still come back. The refresh takes no time here; the simulation has the real one.
    fn refresh(&self, state: &mut State, replica: usize) {
        let indexed: Vec<_> = (0..self.sandboxes as usize).map(|sandbox| state.is_indexed(sandbox)).collect();
        let pool = &mut state.pools[replica];
        let is_indeterminate = pool.iter().any(|slot| matches!(slot, Slot::InFlight | Slot::Unknown));
        for (slot, is_indexed) in pool.iter_mut().zip(indexed) {
            *slot = match (*slot, is_indexed) {
                (Slot::InFlight, _) => Slot::InFlight,
                (Slot::Consumed, true) => Slot::Consumed,
                (_, true) => Slot::Free,
                (_, false) => Slot::Absent,
            };
        }
        let is_waiting = |number: &usize| {
            let client = &state.clients[*number];
            client.replica == replica && client.stage == Stage::Waiting
        };
        let mut waiting: Vec<usize> = (0..state.clients.len()).filter(is_waiting).collect();
        let free = (0..self.sandboxes as usize).filter(|sandbox| state.pools[replica][*sandbox] == Slot::Free);
        let free: Vec<usize> = free.collect();
        let served: Vec<usize> = waiting.drain(..free.len().min(waiting.len())).collect();
        for (client, sandbox) in served.iter().zip(&free) {
            self.take(state, *client, *sandbox);
        }
        let ignores_served = self.variant == Variant::ServedIgnored;
        if is_indeterminate || !served.is_empty() && !ignores_served {
            return;
        }
        for number in waiting {
            state.clients[number].stage = Stage::ConfirmingNone;
        }
    }

    fn take(&self, state: &mut State, client: usize, sandbox: usize) {
        let message = self.claim_of(state, client, sandbox);
        let replica = state.clients[client].replica;
        state.pools[replica][sandbox] = Slot::InFlight;
        state.clients[client].stage = Stage::Claiming(Arc::new(message));
    }

    /// The replica crashes and restarts: it loses its memory, and its messages stay in the network.
    fn crash(&self, state: &mut State, replica: usize) {
        state.crashes += 1;
        state.pools[replica].fill(Slot::Absent);
        for number in 0..state.clients.len() {
            let client = &mut state.clients[number];
            let is_answered = matches!(client.stage, Stage::Idle | Stage::Holds { .. } | Stage::NoneAvailable);
            if client.replica != replica || is_answered {
                continue;
            }
            let stage = std::mem::replace(&mut client.stage, Stage::Indeterminate);
            if let Stage::Claiming(message) | Stage::Ending(message) = stage {
                state.send(message);
            }
        }
    }

    fn expiry(&self, claim: &Claim, now: Timestamp) -> Option<Message> {
        // The transition fails if the expiry is not due.
        let update = ConditionalUpdate::of_holding(claim, Event::Expire { due: claim.expires_at }, now).ok()?;
        Some(Message::Expire(update, claim.claim_key.clone()))
    }

    fn renewal(&self, state: &State, claim: &Claim) -> Option<Message> {
        let current = state.tables.get(&claim.sandbox_id)?;
        let now = state.now();
        let update = current.update(Event::Renew { expires_at: now.plus(LAB_DURATION) }, now).ok()?;
        let renewed = Claim::held(&current.after(&update.mutation))?;
        Some(Message::Renew(update, renewed))
    }

    fn client_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let client = &state.clients[number];
        let may_lose = state.losses < self.losses;
        match &client.stage {
            Stage::Idle => actions.push(Action::Send(number)),
            Stage::Indeterminate if client.retries < self.retries => actions.push(Action::Retry(number)),
            Stage::Waiting => {
                let pool = state.pools[client.replica].iter().enumerate();
                let free = pool.filter(|(_, slot)| **slot == Slot::Free).map(|(sandbox, _)| sandbox);
                actions.extend(free.map(|sandbox| Action::Take(number, sandbox)));
            }
            Stage::Claiming(_) => {
                actions.push(Action::Execute(number));
                if may_lose {
                    actions.extend([Action::LoseResponse(number), Action::TimeOut(number)]);
                }
            }
            Stage::Ending(_) => actions.push(Action::Execute(number)),
            Stage::Resolving(_) | Stage::ConfirmingNone => {
                actions.push(Action::ReadKey(number));
                if may_lose {
                    actions.push(Action::FailRead(number));
                }
            }
            Stage::Holds { claim, .. } => {
                if self.releases && !client.has_released {
                    actions.push(Action::Release(number));
                }
                if self.renews && !client.has_renewed {
                    actions.push(Action::Renew(number));
                }
                if claim.expires_at <= state.now() {
                    actions.push(Action::FireTimer(number));
                }
            }
            Stage::Indeterminate | Stage::NoneAvailable => {}
        }
    }
}

fn holds(claim: Claim, is_new: bool) -> Stage {
    Stage::Holds { claim: Arc::new(claim), is_new }
}

/// The answer to a key that holds a sandbox, unless the holding is overdue and must be ended first.
fn answer_held(held: Claim, now: Timestamp) -> Stage {
    match ConditionalUpdate::of_holding(&held, Event::Expire { due: held.expires_at }, now) {
        Ok(update) => Stage::Ending(Arc::new(Message::Expire(update, held.claim_key))),
        Err(_) => holds(held, false),
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut tables = Tables::with_sandboxes(self.sandboxes);
        tables.flaw = self.flaw();
        let client = |spec: &ClientSpec| Client {
            replica: spec.replica,
            stage: Stage::Idle,
            retries: 0,
            has_released: false,
            has_renewed: false,
            saw_none: false,
        };
        vec![State {
            tables: Arc::new(tables),
            index: None,
            clients: self.clients.iter().map(client).collect(),
            pools: vec![vec![Slot::Free; self.sandboxes as usize]; self.replicas],
            in_network: Vec::new(),
            crashes: 0,
            losses: 0,
            ticks: 0,
            has_unfenced_write: false,
            has_ended_early: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..state.clients.len() {
            self.client_actions(state, number, actions);
        }
        let is_overdue =
            |sandbox: &usize| Claim::held(state.sandbox(*sandbox)).is_some_and(|claim| claim.expires_at <= state.now());
        actions.extend((0..self.sandboxes as usize).filter(is_overdue).map(Action::Sweep));
        actions.extend((0..state.in_network.len()).map(Action::Deliver));
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
            Action::Send(number) => state.clients[number].stage = Stage::Waiting,
            Action::Retry(number) => {
                let client = &mut state.clients[number];
                client.retries += 1;
                client.replica = (client.replica + 1) % self.replicas;
                client.saw_none = false;
                client.stage = Stage::Waiting;
            }
            Action::Take(number, sandbox) => {
                let held = state.tables.find_claim(&self.key(number));
                if let (Variant::ReadThenWrite, Some(held)) = (self.variant, held) {
                    state.clients[number].stage = holds(held.clone(), false);
                } else {
                    self.take(&mut state, number, sandbox);
                }
            }
            Action::Execute(number) => match last.clients[number].stage.clone() {
                Stage::Claiming(message) => {
                    let outcome = self.execute(&mut state, &message);
                    self.complete(&mut state, number, &message, outcome);
                }
                Stage::Ending(message) => {
                    self.execute(&mut state, &message);
                    state.clients[number].stage = Stage::Waiting;
                }
                _ => return None,
            },
            Action::LoseResponse(number) | Action::TimeOut(number) => {
                let Stage::Claiming(message) = last.clients[number].stage.clone() else { return None };
                state.losses += 1;
                if action == Action::LoseResponse(number) {
                    self.execute(&mut state, &message);
                } else {
                    state.send(Arc::clone(&message));
                }
                self.complete(&mut state, number, &message, None);
            }
            Action::ReadKey(number) => self.read_key(&mut state, number),
            Action::FailRead(number) => {
                state.losses += 1;
                state.clients[number].stage = Stage::Indeterminate;
            }
            Action::Release(number) => {
                let Stage::Holds { claim, .. } = &last.clients[number].stage else { return None };
                let key = claim.claim_key.clone();
                let owner = Owner::named(key.track.clone());
                let update =
                    ConditionalUpdate::release_by_holder(claim.sandbox_id.clone(), owner, key.key.clone(), state.now());
                state.send(Arc::new(Message::Release(update, key)));
                state.clients[number].has_released = true;
            }
            Action::Renew(number) => {
                let Stage::Holds { claim, .. } = &last.clients[number].stage else { return None };
                let renewal = self.renewal(&state, claim)?;
                state.send(Arc::new(renewal));
                state.clients[number].has_renewed = true;
            }
            Action::FireTimer(number) => {
                let Stage::Holds { claim, .. } = &last.clients[number].stage else { return None };
                let expiry = self.expiry(claim, state.now())?;
                state.send(Arc::new(expiry));
            }
            Action::Sweep(sandbox) => {
                let claim = Claim::held(state.sandbox(sandbox))?;
                let expiry = self.expiry(&claim, state.now())?;
                state.send(Arc::new(expiry));
            }
            Action::Deliver(number) => {
                let message = state.in_network.remove(number);
                self.execute(&mut state, &message);
            }
            Action::Refresh(replica) => self.refresh(&mut state, replica),
            Action::Crash(replica) => self.crash(&mut state, replica),
            Action::Tick => state.ticks += 1,
            Action::FreezeIndex => state.index = Some(Arc::clone(&state.tables)),
            Action::ThawIndex => state.index = None,
        }
        if self.variant == Variant::NoneAtOnce {
            for client in state.clients.iter_mut().filter(|client| client.stage == Stage::Waiting) {
                if !state.pools[client.replica].contains(&Slot::Free) {
                    client.stage = Stage::ConfirmingNone;
                }
            }
        }
        state.observe_emptiness();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all()
    }
}
