//! The operator: pauses and resumes actors, runs jobs, and acts on single sandboxes.

use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::jobs::csp_sync::SyncOptions;
use broker_actors::sandbox::Status;
use tokio::time::sleep;

use crate::world::{Replica, World};

/// Gives random commands until the end of the fault phase.
pub(crate) async fn run(world: &World, mut random: fastrand::Rng) {
    while world.is_fault_phase() {
        sleep(Duration::from_millis(random.u64(500..6000))).await;
        let Some(replica) = world.replica(random.usize(0..world.slots())) else { continue };
        let actor = ActorName::ALL[random.usize(0..ActorName::ALL.len())];
        let command = random.u8(0..12);
        world.trace.record(|| format!("operator: command {command} for {actor} at {}", replica.broker.replica()));
        let broker = &replica.broker;
        let executed = async {
            match command {
                0 => _ = broker.pause(actor, "because", "simulation").await,
                1..4 => _ = broker.resume(actor, "simulation").await,
                4 => _ = broker.run(actor, random.bool()).await,
                5 => _ = broker.sync(SyncOptions { dry_run: random.bool(), force: random.bool() }).await,
                6 => _ = broker.cleanup().await,
                7 => _ = broker.expire().await,
                8 => _ = broker.delete_stale(random.bool().then_some(Duration::ZERO)).await,
                9 => {
                    let status = if random.bool() { Status::Stale } else { Status::DeletionFailed };
                    world.history.borrow_mut().has_bulk_deleted |= status == Status::DeletionFailed;
                    _ = broker.admin().bulk_delete(status).await;
                }
                _ => act_on_one(world, &replica, &mut random).await,
            }
        };
        // A job may take long; the operator does not wait for it.
        tokio::select! {
            biased;
            () = replica.connection.closed() => {}
            () = executed => {}
            () = sleep(Duration::from_secs(5)) => {}
        }
    }
}

async fn act_on_one(world: &World, replica: &Replica, random: &mut fastrand::Rng) {
    let sandboxes = world.store.sandboxes();
    let Some(sandbox) = random.choice(&sandboxes) else { return };
    let admin = replica.broker.admin();
    match sandbox.status {
        Status::DeletionFailed => _ = admin.retry_deletion(&sandbox.sandbox_id, "ops").await,
        _ => {
            world.history.borrow_mut().request_end(&sandbox.sandbox_id);
            _ = admin.force_release(&sandbox.sandbox_id, "ops").await;
        }
    }
}
