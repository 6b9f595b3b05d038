//! The tracks: each allocates, repeats, sends duplicates, renews, reads and releases, at any replica.

use std::time::Duration;

use broker_actors::allocation::{AllocateError, Allocation};
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::ports::{Coordination as _, SandboxStore as _};
use broker_actors::sandbox::{Sandbox, Status};
use broker_actors::testing::{Fault, ModelStore};
use broker_actors::update::SandboxError;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::key::{Key, impostor, owner};
use crate::world::{Replica, World};

/// The number of keys of a track.
const KEYS: u64 = 2;

/// The first number of the sandboxes that appear for [`check_queue`].
const SUPPLIED: u32 = 90_000;

/// Sends random requests of one track until the end of the fault phase.
pub(crate) async fn run(world: &World, track: u64, mut random: fastrand::Rng) {
    while world.is_fault_phase() {
        sleep(world.longest_pause.mul_f64(random.f64())).await;
        let key = Key::new(track, random.u64(0..KEYS));
        let (one, other) = (random.usize(0..world.slots()), random.usize(0..world.slots()));
        let Some(replica) = world.replica(one) else { continue };
        match random.u8(0..12) {
            0..4 => {
                if let Some(Err(AllocateError::NoneAvailable)) = allocate(world, &replica, &key).await {
                    sleep(Duration::from_secs(random.u64(0..3))).await;
                }
            }
            4..6 => {
                let duplicate = async {
                    sleep(Duration::from_millis(random.u64(0..20))).await;
                    if let Some(replica) = world.replica(other) {
                        allocate(world, &replica, &key).await;
                    }
                };
                tokio::join!(allocate(world, &replica, &key), duplicate);
            }
            6..8 => release(world, &replica, &key).await,
            8 => renew(world, &replica, &key).await,
            10 => {
                let leave = async {
                    sleep(Duration::from_millis(random.u64(0..4000))).await;
                    leave_queue(world, &replica, &key).await;
                };
                tokio::join!(allocate(world, &replica, &key), leave);
            }
            9 => impersonate(world, &replica, &key, &mut random).await,
            _ => access_any(world, &replica, track, &mut random).await,
        }
    }
}

/// Allocates. Returns `None` if the replica crashed before it answered.
async fn allocate(world: &World, replica: &Replica, key: &Key) -> Option<Result<Allocation, AllocateError>> {
    let name = replica.broker.replica().as_str();
    let started = world.history.borrow_mut().start_allocation(name, key);
    let answer = world.request(replica, "an allocation", replica.broker.allocator().allocate(key.request())).await;
    world.trace.record(|| format!("{key:?} allocates at {name}: {answer:?}"));
    world.history.borrow_mut().end_allocation(name, key);
    // The table first: it says more than that an answer is wrong.
    world.check();
    let mut history = world.history.borrow_mut();
    if let Some(answer) = &answer {
        history.check_allocation(&world.store, key, started, answer);
    }
    drop(history);
    answer
}

async fn release(world: &World, replica: &Replica, key: &Key) {
    let Some(sandbox_id) = world.history.borrow().held_by(key) else { return };
    world.history.borrow_mut().request_end(&sandbox_id);
    let answer =
        world.request(replica, "a release", replica.broker.allocator().release(&sandbox_id, &owner(key.track()))).await;
    world.trace.record(|| format!("{key:?} releases {sandbox_id}: {answer:?}"));
    match answer {
        Some(Ok(_)) => world.history.borrow_mut().check_release(&world.store, key.track(), &sandbox_id),
        Some(Err(error)) => check_denial(world, key.track(), &error),
        None => {}
    }
}

/// The key gives up its place, if it has one.
async fn leave_queue(world: &World, replica: &Replica, key: &Key) {
    let claim_key = key.claim_key();
    let left = world.request(replica, "a withdrawal", replica.broker.queue().drop_ticket(&claim_key)).await;
    world.trace.record(|| format!("{key:?} leaves the queue: {left:?}"));
}

async fn renew(world: &World, replica: &Replica, key: &Key) {
    let Some(sandbox_id) = world.history.borrow().held_by(key) else { return };
    let answer = world
        .request(replica, "a renewal", replica.broker.allocator().renew(&sandbox_id, &owner(key.track()), None))
        .await;
    world.trace.record(|| format!("{key:?} renews {sandbox_id}: {answer:?}"));
    match answer {
        Some(Ok(renewed)) => world.history.borrow_mut().check_renewal(&world.store, &renewed.claim),
        Some(Err(error)) => check_denial(world, key.track(), &error),
        None => {}
    }
}

/// Another student, who knows the track's name and not its secret, reads, renews or releases its sandbox.
async fn impersonate(world: &World, replica: &Replica, key: &Key, random: &mut fastrand::Rng) {
    let Some(sandbox_id) = world.history.borrow().held_by(key) else { return };
    let Some(impostor) = impostor(key.track(), random) else { return };
    let allocator = replica.broker.allocator();
    let succeeded = match random.u8(0..3) {
        0 => {
            world.request(replica, "a read", allocator.read(&sandbox_id, &impostor)).await.map(|answer| answer.is_ok())
        }
        1 => world
            .request(replica, "a renewal", allocator.renew(&sandbox_id, &impostor, None))
            .await
            .map(|answer| answer.is_ok()),
        _ => {
            let answer = world.request(replica, "a release", allocator.release(&sandbox_id, &impostor)).await;
            answer.map(|answer| answer.is_ok())
        }
    };
    world.trace.record(|| format!("an impostor of {key:?} wants {sandbox_id}: {succeeded:?}"));
    if succeeded == Some(true) {
        world.report_violation(format!("I10: an impostor of {key:?} acted on {sandbox_id}"));
    }
}

/// Reads or releases a sandbox of any track.
async fn access_any(world: &World, replica: &Replica, track: u64, random: &mut fastrand::Rng) {
    let all = world.history.borrow().allocated();
    if all.is_empty() {
        return;
    }
    let sandbox_id = &all[random.usize(0..all.len())];
    let allocator = replica.broker.allocator();
    if random.bool() {
        let answer = world.request(replica, "a read", allocator.read(sandbox_id, &owner(track))).await;
        if let Some(Err(error)) = answer {
            check_denial(world, track, &error);
        }
        return;
    }
    let may_hold =
        (0..KEYS).any(|number| world.history.borrow().held_by(&Key::new(track, number)).as_ref() == Some(sandbox_id));
    if !may_hold {
        let answer = world.request(replica, "a release", allocator.release(sandbox_id, &owner(track))).await;
        world.trace.record(|| format!("t{track} releases {sandbox_id}, which it may not hold: {answer:?}"));
        if let Some(Ok(_)) = answer {
            world.history.borrow_mut().check_release(&world.store, track, sandbox_id);
        }
    }
}

fn check_denial(world: &World, track: u64, error: &SandboxError) {
    if let SandboxError::NotOwner(sandbox_id) = error {
        world.history.borrow_mut().check_denial(track, sandbox_id);
    }
}

/// I4 after the last fault: of three more requests than available sandboxes, all but three succeed.
pub(crate) async fn check_pool(world: &World) {
    let Some(replica) = world.replica(0) else { return };
    let is_available = |sandbox: &&Sandbox| sandbox.status == Status::Available;
    let available = world.store.read_tables(|tables| tables.sandboxes().filter(is_available).count());
    let probes = (0..available as u64 + 3).map(Key::of_probe);
    let answers = join_all(probes.map(|key| {
        let replica = &replica;
        async move { allocate(world, replica, &key).await }
    }));
    let (mut allocated, mut refused) = (0, 0);
    for answer in answers.await {
        allocated += usize::from(matches!(answer, Some(Ok(_))));
        refused += usize::from(matches!(answer, Some(Err(AllocateError::NoneAvailable))));
    }
    if (allocated, refused) != (available, 3) {
        world.report_violation(format!("I4: of {available} available {allocated} were allocated, {refused} refused"));
    }
}

/// The probes that wait at the end, and how many sandboxes appear for them.
const WAITING: usize = 5;
const SUPPLY: usize = 2;

/// I11 after the last fault: those who came first get the sandboxes that appear, within two seconds, at whatever replica
/// they wait.
pub(crate) async fn check_queue(world: &World) {
    for slot in (0..world.slots()).filter(|slot| world.replica(*slot).is_none()) {
        world.start(slot).await;
    }
    let keys: Vec<_> = (0..WAITING as u64).map(|number| Key::of_probe(10_000 + number)).collect();
    let waiting = keys.iter().enumerate().map(|(number, key)| async move {
        sleep(Duration::from_secs(2) * number as u32).await;
        let replica = world.replica(number % world.slots()).expect("every replica runs");
        let answer = replica.broker.allocator().allocate(key.waiting_request()).await;
        (Instant::now(), answer)
    });
    let supply = async {
        sleep(Duration::from_secs(12)).await;
        for number in 0..SUPPLY as u32 {
            world.csp.add(SUPPLIED + number);
            let _ = world.store.create(&ModelStore::sandbox(SUPPLIED + number)).await;
        }
        let _ = world.store.add_supply(SUPPLY as u64).await;
        Instant::now()
    };
    let (answers, appeared) = tokio::join!(join_all(waiting), supply);
    for (number, (at, answer)) in answers.into_iter().enumerate() {
        let is_first = number < SUPPLY;
        if answer.is_ok() != is_first || (is_first && at > appeared + Duration::from_secs(2)) {
            let waited = at.duration_since(appeared);
            world.report_violation(format!("I11: number {number} of the queue got {answer:?} after {waited:?}"));
        }
    }
    check_withdrawal(world).await;
}

/// I11: one who leaves the queue while its grant is on its way gets nothing.
async fn check_withdrawal(world: &World) {
    let Some(replica) = world.replica(0) else { return };
    let key = Key::of_probe(20_000);
    let leave = async {
        sleep(Duration::from_secs(5)).await;
        world.store.fail_next("grant", Fault::Delay(Duration::from_secs(4)));
        world.csp.add(SUPPLIED + SUPPLY as u32);
        let _ = replica.broker.sync(SyncOptions::default()).await;
        sleep(Duration::from_secs(3)).await;
        leave_queue(world, &replica, &key).await;
    };
    let (answer, ()) = tokio::join!(replica.broker.allocator().allocate(key.waiting_request()), leave);
    world.check();
    if !matches!(answer, Err(AllocateError::Withdrawn)) {
        world.report_violation(format!("I11: one who left the queue got {answer:?}"));
    }
}
