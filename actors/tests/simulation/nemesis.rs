//! The nemesis: replicas crash and restart, the store has faults, the index lags, the CSP fails.

use std::time::Duration;

use broker_actors::error::cause;
use broker_actors::ports::CspError;
use broker_actors::testing::FaultPlan;
use tokio::time::sleep;

use crate::key::SECOND_KIND;
use crate::world::World;

/// Injects faults until the end of the fault phase.
pub(crate) async fn run(world: &World, mut random: fastrand::Rng) {
    // The accounts at the start have smaller numbers.
    let mut next_account = 100;
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
        let fault = random.u8(0..14);
        world.trace.record(|| format!("fault {fault} at slot {slot}"));
        match fault {
            0 | 1 => world.crash(slot),
            2 => world.stop(slot).await,
            3..6 if world.replica(slot).is_none() => world.start(slot).await,
            6 => world.store.freeze_index(),
            7 => world.store.thaw_index(),
            8 => world.csp.set_down(random.bool().then(|| random_csp_error(&mut random))),
            9 => {
                let account = random.u32(1..16);
                world.csp.set_deletion_error(account, random.bool().then(|| random_csp_error(&mut random)));
            }
            10 => world.csp.set_delay(Duration::from_millis(random.u64(0..3000))),
            11 => world.csp.remove(random.u32(1..16)),
            12 => world.csp.remove(random.u32(100..=next_account)),
            _ => world.csp.fail_next(random_csp_error(&mut random)),
        }
        sleep(Duration::from_millis(random.u64(200..4000))).await;
    }
}

fn random_csp_error(random: &mut fastrand::Rng) -> CspError {
    match random.u8(0..4) {
        0 => CspError::Unavailable(cause("injected")),
        1 => CspError::Throttled { retry_after: Some(Duration::from_secs(random.u64(1..20))) },
        2 => CspError::Unauthorized { status: 401 },
        _ => CspError::BadAnswer(cause("injected")),
    }
}
