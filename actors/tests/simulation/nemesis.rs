//! What goes wrong: replicas die and come back, the store misbehaves, the index lags, the CSP fails.

use std::time::Duration;

use broker_actors::testing::FaultPlan;
use tokio::time::sleep;

use crate::world::{OTHER_KIND, World, csp_trouble};

/// Makes trouble until its time is over.
pub(crate) async fn run(world: &World, mut random: fastrand::Rng) {
    // Accounts that exist at the beginning have smaller numbers.
    let mut next_account = 100;
    while world.is_troubled() {
        if random.bool() {
            let probability = [0.0, 0.05, 0.3][random.usize(0..3)];
            let longest_way = Duration::from_millis([0, 5, 50, 400][random.usize(0..4)]);
            world.trace.note(|| format!("faults: {probability}, {longest_way:?}"));
            let plan = FaultPlan::random(random.u64(..), probability).with_longest_way(longest_way);
            world.store.set_plan(Some(plan));
        }
        // The tenant makes new accounts in the place of the deleted ones.
        for _ in 0..random.u32(0..5) {
            next_account += 1;
            world.csp.add(next_account + if random.bool() { OTHER_KIND } else { 0 });
        }
        let slot = random.usize(0..world.slots());
        let kind = random.u8(0..14);
        world.trace.note(|| format!("trouble {kind} at {slot}"));
        match kind {
            0 | 1 => world.crash(slot),
            2 => world.stop(slot).await,
            3..6 if world.replica(slot).is_none() => world.start(slot).await,
            6 => world.store.freeze_index(),
            7 => world.store.thaw_index(),
            8 => world.csp.set_down(random.bool().then(|| csp_trouble(&mut random))),
            9 => world.csp.set_bad(random.u32(1..16), random.bool().then(|| csp_trouble(&mut random))),
            10 => world.csp.set_delay(Duration::from_millis(random.u64(0..3000))),
            11 => world.csp.remove(random.u32(1..16)),
            12 => world.csp.remove(random.u32(100..=next_account)),
            _ => world.csp.fail_next(csp_trouble(&mut random)),
        }
        sleep(Duration::from_millis(random.u64(200..4000))).await;
    }
}
