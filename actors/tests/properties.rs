//! Random operations on two replicas, with a store that throttles, conflicts, loses requests and responses, and
//! delivers late: whatever happens, I1 to I5 hold. Each case is a seed; a failure prints it, and
//! `BROKER_TEST_SEED=<seed> cargo test -p broker-actors --test properties` runs that case alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broker_actors::allocation::{AccessError, AllocateError};
use broker_actors::sandbox::{Sandbox, SandboxId, Status, TrackId};
use broker_actors::testing::{FakeCsp, FaultPlan, ModelStore, PausedClock, TestBroker};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

const CASES: u64 = 60;
const SANDBOXES: u32 = 12;
const TRACKS: u64 = 10;
const ROUNDS: usize = 25;

#[test]
fn random_operations_keep_the_invariants() {
    let seeds: Vec<u64> = match std::env::var("BROKER_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("BROKER_TEST_SEED is a number")],
        Err(_) => (0..CASES).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        let case = std::panic::catch_unwind(|| actix::System::new().block_on(run_case(seed)));
        assert!(case.is_ok(), "failed with BROKER_TEST_SEED={seed}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Allocate,
    AllocateTwice,
    Release,
    Renew,
    Read,
    Wait,
}

async fn run_case(seed: u64) {
    tokio::time::pause();
    let mut random = fastrand::Rng::with_seed(seed);
    let store = ModelStore::with_sandboxes(SANDBOXES);
    let csp = Arc::new(FakeCsp::with_accounts(SANDBOXES));
    let clock = Arc::new(PausedClock::new());
    let one = TestBroker::start(store, csp, clock, TestBroker::settings("replica-1")).await;
    let other = one.replica("replica-2").await;
    one.store.set_plan(Some(FaultPlan::random(seed, 0.3)));

    let mut history = History::default();
    for _ in 0..ROUNDS {
        let operations: Vec<_> = (0..random.usize(1..8)).map(|_| draw(&mut random)).collect();
        let answers = join_all(operations.into_iter().map(|(operation, track, on_other)| {
            act(if on_other { &other } else { &one }, operation, track, history.held_by(track))
        }))
        .await;
        history.check(&one, answers);
        sleep(Duration::from_millis(random.u64(0..5000))).await;
        one.store.assert_consistent();
    }
    // I3: once the trouble is over, nothing is stuck: every sandbox that was given back gets deleted.
    one.store.set_plan(None);
    sleep(Duration::from_secs(8 * 3600)).await;
    one.store.assert_consistent();
    assert_eq!(one.count(Status::PendingDeletion), 0, "I3: a sandbox waits for its deletion for ever");
    assert_eq!(one.count(Status::Allocated), 0, "I3: a holding never ends");
}

fn draw(random: &mut fastrand::Rng) -> (Operation, u64, bool) {
    use Operation::{Allocate, AllocateTwice, Read, Release, Renew, Wait};
    let operations = [Allocate, Allocate, AllocateTwice, AllocateTwice, Release, Renew, Read, Wait];
    (operations[random.usize(..operations.len())], random.u64(..TRACKS), random.bool())
}

/// What a track was told.
#[derive(Debug)]
enum Told {
    Holds { track: u64, sandbox_id: SandboxId },
    Released { track: u64, sandbox_id: SandboxId },
    Nothing,
}

async fn act(broker: &TestBroker, operation: Operation, track: u64, held: Option<SandboxId>) -> Vec<Told> {
    let (name, allocator) = (format!("t{track}"), broker.broker.allocator());
    let began = Instant::now();
    let holds = |answer: Result<broker_actors::allocation::Allocation, AllocateError>| match answer {
        Ok(allocation) => Told::Holds { track, sandbox_id: allocation.claim.sandbox_id },
        Err(AllocateError::NoneAvailable) => {
            let last_empty_at = broker.store.last_empty_at();
            assert!(last_empty_at >= Some(began), "I4: none was said, but the pool was never empty meanwhile");
            Told::Nothing
        }
        Err(_) => Told::Nothing,
    };
    match (operation, held) {
        (Operation::Allocate, _) => vec![holds(broker.allocate(&name).await)],
        (Operation::AllocateTwice, _) => {
            let (first, second) = tokio::join!(broker.allocate(&name), broker.allocate(&name));
            vec![holds(first), holds(second)]
        }
        (Operation::Release, Some(sandbox_id)) => match allocator.release(&sandbox_id, &TrackId::new(name)).await {
            Ok(_) => vec![Told::Released { track, sandbox_id }],
            Err(AccessError::NotOwner(_)) => panic!("I1: {sandbox_id} was taken from t{track}"),
            Err(_) => vec![Told::Nothing],
        },
        (Operation::Renew, Some(sandbox_id)) => {
            let renewed = allocator.renew(&sandbox_id, &TrackId::new(name)).await;
            assert!(!matches!(renewed, Err(AccessError::NotOwner(_))), "I1: {sandbox_id} was taken from t{track}");
            vec![Told::Nothing]
        }
        (Operation::Read, Some(sandbox_id)) => {
            let read = allocator.read(&sandbox_id, &TrackId::new(name)).await;
            assert!(!matches!(read, Err(AccessError::NotOwner(_))), "I1: {sandbox_id} was taken from t{track}");
            vec![Told::Nothing]
        }
        (Operation::Release | Operation::Renew | Operation::Read | Operation::Wait, _) => {
            sleep(Duration::from_millis(500)).await;
            vec![Told::Nothing]
        }
    }
}

/// What the tracks were told so far, and how far each sandbox has come.
#[derive(Default)]
struct History {
    owner_of: BTreeMap<SandboxId, u64>,
    held: BTreeMap<u64, SandboxId>,
    last_seen: BTreeMap<SandboxId, Sandbox>,
}

impl History {
    fn held_by(&self, track: u64) -> Option<SandboxId> {
        self.held.get(&track).cloned()
    }

    fn check(&mut self, broker: &TestBroker, answers: Vec<Vec<Told>>) {
        for told in answers.into_iter().flatten() {
            match told {
                Told::Holds { track, sandbox_id } => {
                    // A sandbox is allocated once in its life, so it never has a second owner.
                    let owner = *self.owner_of.entry(sandbox_id.clone()).or_insert(track);
                    assert_eq!(owner, track, "I1: {sandbox_id} has two owners");
                    assert_ne!(broker.sandbox(&sandbox_id).status, Status::Available, "I3: a success was lost");
                    self.held.insert(track, sandbox_id);
                }
                Told::Released { track, sandbox_id } => {
                    assert_ne!(broker.sandbox(&sandbox_id).status, Status::Allocated, "I3: a release was lost");
                    if self.held.get(&track) == Some(&sandbox_id) {
                        self.held.remove(&track);
                    }
                }
                Told::Nothing => {}
            }
        }
        for sandbox in broker.store.sandboxes() {
            let before = self.last_seen.insert(sandbox.sandbox_id.clone(), sandbox.clone());
            let Some(before) = before else { continue };
            assert!(sandbox.epoch >= before.epoch, "I5: the epoch of {} went back", sandbox.sandbox_id);
            assert_eq!(sandbox.epoch == before.epoch, sandbox == before, "I5: changed without its epoch: {sandbox:?}");
        }
        let mut holders: BTreeMap<&TrackId, u32> = BTreeMap::new();
        let sandboxes = broker.store.sandboxes();
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.status == Status::Allocated) {
            *holders.entry(sandbox.allocated_to_track.as_ref().expect("allocated to somebody")).or_default() += 1;
        }
        assert!(holders.values().all(|held| *held == 1), "I2: one key holds several: {holders:?}");
    }
}
