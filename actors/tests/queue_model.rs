//! A model of the queue (I11), explored exhaustively within small bounds: every order in which twins and others join, have
//! their turns, send grants that arrive late or never, withdraw, crash, come back, and let their tickets expire. The order of
//! turns is that of the core (`queue::order`), the conditional writes are those of the model store. Wrong protocols are
//! explored too, and the model must find what each of them breaks. Whole brokers are in `queue.rs` and `simulation/`.
#![allow(clippy::print_stdout, reason = "the size of the state space is part of the result")]

use std::collections::BTreeMap;
use std::time::Duration;

use broker_actors::ports::{ClaimOutcome, GrantOutcome, Ticket};
use broker_actors::queue::order::turns;
use broker_actors::sandbox::{
    ClaimKey, Holding, IdempotencyKey, LabTime, Owner, Status, Timestamp, TrackId, UnixMillis,
};
use broker_actors::testing::{Flaw, PausedClock, Tables};
use stateright::{Checker as _, HasDiscoveries, Model, Path, Property};

/// One step of the clock: longer than a ticket stays open without its owner, and shorter than it lives.
const TICK: Duration = Duration::from_secs(60);

const ONE_PER_KEY: &str = "I2: a key holds one sandbox";
const LIVE_TICKET: &str = "I11: nothing is granted without a live ticket";
const RANK: &str = "I11: a live ticket keeps its rank";
const ORDER: &str = "I11: no one claims what those before it need";
const PROGRESS: &str = "I11: what is free is offered to the first who are there";
const GRANTED: &str = "a waiter is granted a sandbox";
const TWIN: &str = "a twin finds what its key holds";
const REFUSED: &str = "a grant is refused because its ticket is gone";
const LATE: &str = "a grant arrives after its waiter crashed";
const EXPIRED: &str = "an expired ticket starts again";
const BACK: &str = "a waiter comes back after a crash and keeps its rank";

/// Who claims next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turns {
    /// The first of those who are there, as the broker does it.
    Present,
    /// The first of all tickets, whether their owners are there or not.
    All,
    /// Anyone, as long as something is free.
    Anyone,
}

struct Queue {
    /// The track of each waiter. Twins have one track.
    waiters: Vec<u8>,
    sandboxes: u32,
    ticks: u64,
    joins: u8,
    turns: Turns,
    flaw: Option<Flaw>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    tables: Tables,
    tick: u64,
    waiters: Vec<Waiter>,
    /// Grants that were sent and have not arrived: waiter, sandbox, ticket.
    sent: Vec<(usize, u32, Ticket)>,
    seen: Seen,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Waiter {
    joins: u8,
    is_crashed: bool,
    place: Option<Ticket>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Seen {
    unticketed_grant: bool,
    lost_rank: bool,
    granted: bool,
    twin: bool,
    refused: bool,
    late: bool,
    expired: bool,
    overtaken: bool,
    back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Join(usize),
    Send(usize, u32),
    Arrive(usize),
    Lose(usize),
    Withdraw(usize),
    Crash(usize),
    Tick,
}

impl State {
    fn now(&self) -> Timestamp {
        PausedClock::BEGIN.plus(TICK * u32::try_from(self.tick).unwrap())
    }
}

impl Queue {
    fn key(&self, waiter: usize) -> ClaimKey {
        let track = format!("t{}", self.waiters[waiter]);
        ClaimKey { track: TrackId::new(track.as_str()), key: IdempotencyKey::new(track) }
    }

    fn join(&self, state: &mut State, waiter: usize) {
        let now = state.now();
        let ticket = Ticket {
            claim_key: self.key(waiter),
            owner_proof: None,
            // Joins of one moment have an order too.
            enqueued_at: UnixMillis(
                now.0 * 1000 + state.waiters.iter().map(|waiter| u64::from(waiter.joins)).sum::<u64>(),
            ),
            name_prefix: None,
            open_until: now.plus(Duration::from_secs(15)),
            seen_at: now,
        };
        let before = state.tables.ticket(&ticket.claim_key).cloned();
        let was_crashed = std::mem::take(&mut state.waiters[waiter].is_crashed);
        let opened = state.tables.open_ticket(&ticket).expect("no owner has a secret");
        if let Some(before) = before {
            let is_kept = before.enqueued_at == opened.enqueued_at;
            state.seen.lost_rank |= before.is_live(now) && !is_kept;
            state.seen.expired |= !before.is_live(now) && !is_kept;
            state.seen.back |= was_crashed && is_kept;
        }
        state.waiters[waiter].joins += 1;
        state.waiters[waiter].place = Some(opened);
    }

    fn arrive(&self, state: &mut State, grant: usize) {
        let (waiter, number, ticket) = state.sent.remove(grant);
        let now = state.now();
        let holding = Holding {
            owner: Owner::named(ticket.claim_key.track.clone()),
            track_name: None,
            key: ticket.claim_key.key.clone(),
            expires_at: now.plus(Duration::from_secs(3600)),
            lab: LabTime::default(),
        };
        let (update, claim) = Tables::sandbox(number).claim(holding, now).expect("it was available");
        let stored = state.tables.ticket(&ticket.claim_key);
        let is_live = stored.is_some_and(|stored| stored.enqueued_at == ticket.enqueued_at && stored.is_live(now));
        match state.tables.grant(&update, &claim, &ticket, now) {
            GrantOutcome::Claim(ClaimOutcome::Claimed) => {
                state.seen.granted = true;
                state.seen.unticketed_grant |= !is_live;
                state.seen.late |= state.waiters[waiter].is_crashed;
                state.waiters[waiter].place = None;
            }
            GrantOutcome::Claim(ClaimOutcome::AlreadyHeld(_)) => {
                state.seen.twin = true;
                state.waiters[waiter].place = None;
            }
            GrantOutcome::Claim(_) => {}
            GrantOutcome::TicketGone => {
                state.seen.refused = true;
                state.waiters[waiter].place = None;
            }
        }
    }

    /// The tickets in their order.
    fn tickets(&self, state: &State) -> Vec<Ticket> {
        let waiters = 0..self.waiters.len();
        let mut tickets: Vec<_> =
            waiters.filter_map(|waiter| state.tables.ticket(&self.key(waiter)).cloned()).collect();
        tickets.sort_by(|one, other| one.rank().cmp(&other.rank()));
        tickets.dedup();
        tickets
    }

    /// The keys whose turn it is, by the tickets in the table.
    fn turns(&self, state: &State) -> Vec<ClaimKey> {
        let now = state.now();
        let mut tickets = self.tickets(state);
        match self.turns {
            Turns::Present => tickets.retain(|ticket| ticket.is_open(now)),
            Turns::All => tickets.retain(|ticket| ticket.is_live(now)),
            Turns::Anyone => return tickets.into_iter().map(|ticket| ticket.claim_key).collect(),
        }
        let mut free = BTreeMap::new();
        for sandbox in state.tables.sandboxes().filter(|sandbox| sandbox.status == Status::Available) {
            *free.entry(sandbox.name.clone()).or_default() += 1;
        }
        turns(&tickets, free).into_iter().cloned().collect()
    }

    /// Whether the sandboxes that are free suffice for this ticket and all open ones before it. This is what the promise
    /// says, counted without the core.
    fn is_due(&self, state: &State, ticket: &Ticket) -> bool {
        let free = state.tables.sandboxes().filter(|sandbox| sandbox.status == Status::Available).count();
        let is_before = |other: &&Ticket| other.is_open(state.now()) && other.rank() < ticket.rank();
        self.tickets(state).iter().filter(is_before).count() < free
    }

    /// Whether each waiter that is there, and for whom something is free, has its turn.
    fn all_due_have_their_turns(&self, state: &State) -> bool {
        let turns = self.turns(state);
        state.waiters.iter().filter(|waiter| !waiter.is_crashed).filter_map(|waiter| waiter.place.as_ref()).all(
            |place| {
                let stored = state.tables.ticket(&place.claim_key).filter(|stored| stored.is_open(state.now()));
                stored.is_none_or(|stored| !self.is_due(state, stored) || turns.contains(&stored.claim_key))
            },
        )
    }
}

impl Model for Queue {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut tables = Tables::with_sandboxes(self.sandboxes);
        tables.flaw = self.flaw;
        let waiters = vec![Waiter::default(); self.waiters.len()];
        vec![State { tables, tick: 0, waiters, sent: Vec::new(), seen: Seen::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let turns = self.turns(state);
        for (number, waiter) in state.waiters.iter().enumerate() {
            // A crashed one joins again when it has come back.
            if waiter.joins < self.joins {
                actions.push(Action::Join(number));
            }
            if waiter.place.is_some() {
                actions.extend([Action::Withdraw(number), Action::Crash(number)]);
                let is_sending = state.sent.iter().any(|(sender, ..)| *sender == number);
                if turns.contains(&self.key(number)) && !is_sending {
                    let free = (1..=self.sandboxes).find(|sandbox| {
                        let id = Tables::sandbox(*sandbox).sandbox_id;
                        state.tables.get(&id).is_some_and(|sandbox| sandbox.status == Status::Available)
                    });
                    actions.extend(free.map(|sandbox| Action::Send(number, sandbox)));
                }
            }
        }
        for grant in 0..state.sent.len() {
            actions.extend([Action::Arrive(grant), Action::Lose(grant)]);
        }
        if state.tick < self.ticks {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Join(waiter) => self.join(&mut next, waiter),
            Action::Send(waiter, sandbox) => {
                let ticket = next.waiters[waiter].place.clone()?;
                next.seen.overtaken |= !self.is_due(state, &ticket);
                next.sent.push((waiter, sandbox, ticket));
            }
            Action::Arrive(grant) => self.arrive(&mut next, grant),
            Action::Lose(grant) => drop(next.sent.remove(grant)),
            Action::Withdraw(waiter) => {
                let ticket = next.waiters[waiter].place.take()?;
                next.tables.withdraw_ticket(&ticket);
            }
            Action::Crash(waiter) => {
                next.waiters[waiter].is_crashed = true;
                next.waiters[waiter].place = None;
            }
            Action::Tick => next.tick += 1,
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_PER_KEY, |_, state: &State| {
                let held = state.tables.sandboxes().filter(|sandbox| sandbox.status == Status::Allocated);
                let mut owners: Vec<_> = held.map(|sandbox| &sandbox.allocated_to_track).collect();
                let count = owners.len();
                owners.sort();
                owners.dedup();
                owners.len() == count
            }),
            Property::always(LIVE_TICKET, |_, state: &State| !state.seen.unticketed_grant),
            Property::always(RANK, |_, state: &State| !state.seen.lost_rank),
            Property::always(ORDER, |_, state: &State| !state.seen.overtaken),
            Property::always(PROGRESS, Self::all_due_have_their_turns),
            Property::sometimes(GRANTED, |_, state: &State| state.seen.granted),
            Property::sometimes(TWIN, |_, state: &State| state.seen.twin),
            Property::sometimes(REFUSED, |_, state: &State| state.seen.refused),
            Property::sometimes(LATE, |_, state: &State| state.seen.late),
            Property::sometimes(EXPIRED, |_, state: &State| state.seen.expired),
            Property::sometimes(BACK, |_, state: &State| state.seen.back),
        ]
    }
}

/// A pair of twins, or twins and another.
fn queue(waiters: &[u8], joins: u8) -> Queue {
    Queue { waiters: waiters.to_vec(), sandboxes: 2, ticks: 2, joins, turns: Turns::Present, flaw: None }
}

fn explore(queue: Queue, situations: &[&str]) {
    let checker = queue.checker().spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done());
    let discoveries = checker.discoveries();
    for invariant in [ONE_PER_KEY, LIVE_TICKET, RANK, ORDER, PROGRESS] {
        let counterexample = discoveries.get(invariant).cloned().map(Path::into_actions);
        assert_eq!(counterexample, None, "this violates \"{invariant}\"");
    }
    for situation in situations {
        assert!(discoveries.contains_key(situation), "never reached: {situation}");
    }
}

#[test]
fn twins_with_retries() {
    explore(queue(&[0, 0], 2), &[GRANTED, TWIN, REFUSED, LATE, EXPIRED, BACK]);
}

#[test]
fn twins_and_another() {
    explore(queue(&[0, 0, 1], 1), &[GRANTED, TWIN, REFUSED, LATE]);
}

/// More wait than there are sandboxes, so that the order decides.
#[test]
fn strangers_on_one_sandbox() {
    explore(Queue { sandboxes: 1, ticks: 1, ..queue(&[0, 1], 2) }, &[GRANTED, REFUSED, LATE, BACK]);
}

/// The model finds what each wrong protocol breaks.
#[test]
fn wrong_protocols_are_found() {
    let twins = || queue(&[0, 0], 2);
    let strangers = || Queue { sandboxes: 1, ..queue(&[0, 1], 2) };
    let wrong = [
        ("a grant does not check its ticket", Queue { flaw: Some(Flaw::TicketIgnored), ..twins() }, LIVE_TICKET),
        ("a grant does not check its key", Queue { flaw: Some(Flaw::HeldKeyIgnored), ..twins() }, ONE_PER_KEY),
        ("a ticket that is opened again loses its rank", Queue { flaw: Some(Flaw::RankForgotten), ..twins() }, RANK),
        ("anyone claims what is free", Queue { turns: Turns::Anyone, ..strangers() }, ORDER),
        ("the absent have turns", Queue { turns: Turns::All, ..strangers() }, PROGRESS),
    ];
    for (protocol, queue, broken) in wrong {
        let checker = queue.checker().finish_when(HasDiscoveries::AllOf([broken].into())).spawn_bfs().join();
        let counterexample = checker.discoveries().get(broken).cloned().map(Path::into_actions);
        let counterexample = counterexample.unwrap_or_else(|| panic!("not found: {protocol}"));
        println!("{protocol}: {broken} is violated in {} steps: {counterexample:?}", counterexample.len());
    }
}
