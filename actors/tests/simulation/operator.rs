//! The operator: pauses, resumes, runs jobs by hand, and acts on single sandboxes.

use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::sandbox::Status;
use tokio::time::sleep;

use crate::world::{Replica, World};

/// One operator, until the trouble ends.
pub(crate) async fn work(world: &World, mut random: fastrand::Rng) {
    while world.is_troubled() {
        sleep(Duration::from_millis(random.u64(500..6000))).await;
        let Some(replica) = world.replica(random.usize(0..world.slots())) else { continue };
        let actor = ActorName::ALL[random.usize(0..ActorName::ALL.len())];
        let order = random.u8(0..12);
        world.trace.note(|| format!("the operator gives {} order {order}, {actor}", replica.broker.replica()));
        let broker = &replica.broker;
        let obeyed = async {
            match order {
                0 => _ = broker.pause(actor, "because", "simulation").await,
                1..4 => _ = broker.resume(actor, "simulation").await,
                4 => _ = broker.run(actor, random.bool()).await,
                5 => _ = broker.sync(SyncOptions { dry_run: random.bool(), force: random.bool() }).await,
                6 => _ = broker.cleanup().await,
                7 => _ = broker.expire().await,
                8 => _ = broker.delete_stale(random.bool().then_some(Duration::ZERO)).await,
                9 => {
                    let status = if random.bool() { Status::Stale } else { Status::DeletionFailed };
                    world.history.borrow_mut().has_discarded |= status == Status::DeletionFailed;
                    _ = broker.admin().bulk_delete(status).await;
                }
                _ => act_on_one(world, &replica, &mut random).await,
            }
        };
        // Runs by hand may take as long as their jobs do; the operator does not wait.
        tokio::select! {
            biased;
            () = replica.connection.closed() => {}
            () = obeyed => {}
            () = sleep(Duration::from_secs(5)) => {}
        }
    }
}

async fn act_on_one(world: &World, replica: &Replica, random: &mut fastrand::Rng) {
    let sandboxes = world.store.sandboxes();
    let sandbox = &sandboxes[random.usize(0..sandboxes.len())];
    let admin = replica.broker.admin();
    match sandbox.status {
        Status::DeletionFailed => _ = admin.retry_deletion(&sandbox.sandbox_id).await,
        _ => {
            world.history.borrow_mut().ask_end(&sandbox.sandbox_id);
            _ = admin.force_release(&sandbox.sandbox_id).await;
        }
    }
}
