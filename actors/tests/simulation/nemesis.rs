//! The nemesis: replicas crash and restart, the store has faults, the index lags, the CSP fails and says what is not true.

use std::time::Duration;

use broker_actors::error::cause;
use broker_actors::ports::{CspDeletion, CspError};
use broker_actors::sandbox::SandboxId;
use broker_actors::testing::{DeletionFault, FaultPlan};
use tokio::time::sleep;

use crate::key::SECOND_KIND;
use crate::world::World;

/// Injects faults until the end of the fault phase.
pub(crate) async fn run(world: &World, mut random: fastrand::Rng) {
    // The accounts at the start have smaller numbers.
    let mut next_account = 100;
    let mut is_index_frozen = false;
    while world.is_fault_phase() {
        if random.bool() {
            let probability = [0.0, 0.05, 0.3][random.usize(0..3)];
            let max_latency = Duration::from_millis([0, 5, 50, 400][random.usize(0..4)]);
            world.trace.record(|| format!("store: fault probability {probability}, latency up to {max_latency:?}"));
            let plan = FaultPlan::random(random.u64(..), probability).with_max_latency(max_latency);
            world.store.set_plan(Some(plan));
        }
        // The CSP replaces deleted accounts.
        for _ in 0..random.u32(0..5) {
            next_account += 1;
            world.csp.add(next_account + if random.bool() { SECOND_KIND } else { 0 });
        }
        let slot = random.usize(0..world.slots());
        let fault = random.u8(0..21);
        world.trace.record(|| format!("fault {fault} at slot {slot}"));
        match fault {
            0 | 1 => world.crash(slot),
            2 => world.stop(slot).await,
            3..6 if world.replica(slot).is_none() => world.start(slot).await,
            6 => {
                is_index_frozen = true;
                world.store.freeze_index();
            }
            7 => {
                is_index_frozen = false;
                world.store.thaw_index();
            }
            8 => world.csp.set_down(random.bool().then(|| random_csp_error(&mut random))),
            9 => {
                let account = random.u32(1..16);
                world.csp.set_deletion_error(account, random.bool().then(|| random_csp_error(&mut random)));
            }
            10 => world.csp.set_delay(Duration::from_millis(random.u64(0..3000))),
            11 => world.csp.remove(random.u32(1..16)),
            12 => world.csp.remove(random.u32(100..=next_account)),
            13 => world.csp.fail_next(random_csp_error(&mut random)),
            14..18 => deceive(world, fault, &mut random),
            // A sync cannot recognize an account that no index shows.
            18 | 19 if !is_index_frozen => change_account(world, fault, &mut random),
            20 => world.csp.clear_faults(),
            _ => {}
        }
        world.expire_tombstones();
        sleep(Duration::from_millis(random.u64(200..4000))).await;
    }
}

/// The CSP says what is not true: of its deletions, or in its listing.
fn deceive(world: &World, fault: u8, random: &mut fastrand::Rng) {
    let csp = &world.csp;
    match fault {
        14 => {
            let answers = [CspDeletion::Deleted, CspDeletion::Accepted, CspDeletion::AlreadyGone];
            let answer = answers[random.usize(0..answers.len())];
            csp.set_every_deletion_fault(random.bool().then_some(DeletionFault::Answers(answer)));
        }
        15 => {
            for account in (0..4).map(|_| random.u32(1..16)) {
                let refusal = CspError::Refused { status: 403, answer: cause("injected") };
                csp.set_deletion_fault(account, Some(DeletionFault::Fails(refusal)));
            }
        }
        16 => csp.set_unreadable(random.u32(1..16), random.bool()),
        _ => csp.set_incomplete(random.bool()),
    }
}

/// A known account is listed under another id, or its id names another account.
fn change_account(world: &World, fault: u8, random: &mut fastrand::Rng) {
    let is_known = |account: &String| world.store.sandboxes().iter().any(|sandbox| sandbox.external_id == *account);
    let accounts: Vec<_> = world.csp.accounts().into_iter().filter(is_known).collect();
    let Some(account) = random.choice(accounts) else { return };
    let number = random.u64(..);
    world.csp.change_account(&account, |changed| match fault {
        18 => changed.sandbox_id = SandboxId::new(format!("renumbered-{number:016x}")),
        _ => changed.external_id = format!("{account}-{number:016x}"),
    });
}

fn random_csp_error(random: &mut fastrand::Rng) -> CspError {
    match random.u8(0..4) {
        0 => CspError::Unavailable(cause("injected")),
        1 => CspError::Throttled { retry_after: Some(Duration::from_secs(random.u64(1..20))) },
        2 => CspError::Unauthorized { status: 401 },
        _ => CspError::BadAnswer(cause("injected")),
    }
}
