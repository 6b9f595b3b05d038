//! The tracks: each asks, repeats, asks twice at once, renews, reads and gives back, at any replica.

use std::time::Duration;

use broker_actors::allocation::{AllocateError, Allocation};
use broker_actors::update::SandboxError;
use tokio::time::sleep;

use crate::history::Key;
use crate::world::{Replica, World, track_id};

/// So many intents a track has.
const KEYS: u64 = 2;

/// One track, until the trouble ends.
pub(crate) async fn live(world: &World, track: u64, mut random: fastrand::Rng) {
    while world.is_troubled() {
        sleep(world.longest_pause.mul_f64(random.f64())).await;
        let key = Key::new(track, random.u64(0..KEYS));
        let (one, other) = (random.usize(0..world.slots()), random.usize(0..world.slots()));
        let Some(replica) = world.replica(one) else { continue };
        match random.u8(0..10) {
            0..4 => {
                if let Some(Err(AllocateError::NoneAvailable)) = allocate(world, &replica, &key).await {
                    sleep(Duration::from_secs(random.u64(0..3))).await;
                }
            }
            4..6 => {
                let twin = async {
                    sleep(Duration::from_millis(random.u64(0..20))).await;
                    if let Some(replica) = world.replica(other) {
                        allocate(world, &replica, &key).await;
                    }
                };
                tokio::join!(allocate(world, &replica, &key), twin);
            }
            6..8 => release(world, &replica, &key).await,
            8 => renew(world, &replica, &key).await,
            _ => meddle(world, &replica, track, &mut random).await,
        }
    }
}

/// Allocates; `None` if the replica died before it answered.
pub(crate) async fn allocate(world: &World, replica: &Replica, key: &Key) -> Option<Result<Allocation, AllocateError>> {
    let name = replica.broker.replica().as_str();
    let began = world.history.borrow_mut().begin(name, key);
    let answer = world.ask(replica, "an allocation", replica.broker.allocator().allocate(key.request())).await;
    world.trace.note(|| format!("{key:?} was told by {name}: {answer:?}"));
    let mut history = world.history.borrow_mut();
    history.end(name, key);
    if let Some(answer) = &answer {
        history.judge_allocation(&world.store, key, began, answer);
    }
    drop(history);
    world.judge();
    answer
}

async fn release(world: &World, replica: &Replica, key: &Key) {
    let Some(sandbox_id) = world.history.borrow().told(key) else { return };
    world.history.borrow_mut().ask_end(&sandbox_id);
    let track = track_id(key.track);
    let answer = world.ask(replica, "a release", replica.broker.allocator().release(&sandbox_id, &track)).await;
    world.trace.note(|| format!("{key:?} gives back {sandbox_id}: {answer:?}"));
    match answer {
        Some(Ok(_)) => world.history.borrow_mut().judge_release(&world.store, key.track, &sandbox_id),
        Some(Err(error)) => judge_denial(world, key.track, &error),
        None => {}
    }
}

async fn renew(world: &World, replica: &Replica, key: &Key) {
    let Some(sandbox_id) = world.history.borrow().told(key) else { return };
    let track = track_id(key.track);
    let answer = world.ask(replica, "a renewal", replica.broker.allocator().renew(&sandbox_id, &track)).await;
    world.trace.note(|| format!("{key:?} renews {sandbox_id}: {answer:?}"));
    match answer {
        Some(Ok(claim)) => world.history.borrow_mut().judge_renewal(&world.store, &claim),
        Some(Err(error)) => judge_denial(world, key.track, &error),
        None => {}
    }
}

/// Reads or releases a sandbox that may be anybody's.
async fn meddle(world: &World, replica: &Replica, track: u64, random: &mut fastrand::Rng) {
    let all = world.history.borrow().all_told();
    if all.is_empty() {
        return;
    }
    let sandbox_id = &all[random.usize(0..all.len())];
    let allocator = replica.broker.allocator();
    if random.bool() {
        let answer = world.ask(replica, "a read", allocator.read(sandbox_id, &track_id(track))).await;
        if let Some(Err(error)) = answer {
            judge_denial(world, track, &error);
        }
        return;
    }
    let is_own =
        (0..KEYS).any(|number| world.history.borrow().told(&Key::new(track, number)).as_ref() == Some(sandbox_id));
    if !is_own {
        let answer = world.ask(replica, "a release", allocator.release(sandbox_id, &track_id(track))).await;
        world.trace.note(|| format!("t{track} gives back what may not be its own, {sandbox_id}: {answer:?}"));
        if let Some(Ok(_)) = answer {
            world.history.borrow_mut().judge_release(&world.store, track, sandbox_id);
        }
    }
}

fn judge_denial(world: &World, track: u64, error: &SandboxError) {
    if let SandboxError::NotOwner(sandbox_id) = error {
        world.history.borrow_mut().judge_denial(track, sandbox_id);
    }
}
