//! An example of each answer that is JSON or a stream, made of the very types that the API answers with.

use std::time::Duration;

use broker_actors::actor::{Activity, ActorName, ActorStatus, Control, DesiredState, RunRecord};
use broker_actors::breaker::{BreakerSnapshot, BreakerState};
use broker_actors::jobs::cleanup::CleanupReport;
use broker_actors::jobs::csp_sync::SyncReport;
use broker_actors::jobs::expiry_reaper::ExpiryReport;
use broker_actors::jobs::stale_collector::DiscardReport;
use broker_actors::sandbox::{
    CspAccount, Event, Holding, IdempotencyKey, ReplicaId, Sandbox, SandboxId, Timestamp, TrackId, UnixMillis,
    transition,
};
use broker_actors::stats::Stats;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::admin::{ActorList, Completed, SandboxPage};
use crate::http::sandboxes::{ClaimBody, ReleasedBody, SandboxBody};
use crate::http::{Endpoint, events, observability};

const NOW: Timestamp = Timestamp(1_795_466_985);
const TOOK: Duration = Duration::from_millis(412);

/// What a successful call of this endpoint answers; nothing where that is a page or a file.
pub(super) fn of_success(endpoint: &Endpoint) -> Option<Value> {
    let value = match endpoint.path {
        "/" => json(observability::service()),
        "/healthz" => json(observability::healthy(NOW)),
        "/readyz" => {
            json(observability::readiness(["actors", "dynamodb", "pool"].map(|name| (name, Ok(()))).to_vec(), NOW))
        }
        "/v1/allocate" => json(ClaimBody::from_sandbox(&held())),
        "/v1/sandboxes/{id}" => json(SandboxBody::from(&held())),
        "/v1/sandboxes/{id}/renew" => json(ClaimBody::from_sandbox(&held())),
        "/v1/sandboxes/{id}/mark-for-deletion" => json(ReleasedBody::new(&held().sandbox_id, NOW)),
        "/v1/admin/stats" => json(stats()),
        "/v1/admin/sandboxes" => {
            json(SandboxPage { sandboxes: vec![held()], count: 1, cursor: Some("allocated.ZXhhbXBsZQ".to_owned()) })
        }
        "/v1/admin/sandboxes/{id}/release" | "/v1/admin/sandboxes/{id}/retry-deletion" => json(given_back()),
        "/v1/admin/sync" => json(Completed::new(sync_report(), TOOK)),
        "/v1/admin/cleanup" => {
            json(Completed::new(CleanupReport { deleted: 12, failed: 1, gave_up: 0, waiting: 2 }, TOOK))
        }
        "/v1/admin/auto-expire" => json(Completed::new(ExpiryReport { expired: 3, superseded: 0 }, TOOK)),
        "/v1/admin/auto-delete-stale" | "/v1/admin/bulk-delete" => {
            json(Completed::new(DiscardReport { deleted: 4 }, TOOK))
        }
        "/v1/admin/actors" => json(ActorList { actors: vec![sync_actor(), paused_actor()] }),
        "/v1/admin/actors/{name}" | "/v1/admin/actors/{name}/resume" | "/v1/admin/actors/{name}/run" => {
            json(sync_actor())
        }
        "/v1/admin/actors/{name}/pause" => json(paused_actor()),
        "/v1/admin/events" => json(events::example(NOW, stats(), vec![sync_actor()], breaker())),
        _ => return None,
    };
    Some(value)
}

fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("the API's answers are JSON")
}

fn held() -> Sandbox {
    let account = CspAccount {
        sandbox_id: SandboxId::new("2000013"),
        name: "lab-00013".to_owned(),
        external_id: "identity/accounts/00000000-0000-4000-8000-000000000013".to_owned(),
        sfdc_account_id: Some("crm-00013".to_owned()),
        created_at: Some(Timestamp(1_795_400_000)),
    };
    let holding = Holding {
        track: TrackId::new("student-1"),
        track_name: Some("first-steps".to_owned()),
        key: IdempotencyKey::new("student-1"),
        expires_at: NOW.plus(Duration::from_secs(4 * 3600)),
    };
    after(&Sandbox::discovered(&account, UnixMillis(1_795_400_100_000)), Event::Claim(holding))
}

fn given_back() -> Sandbox {
    after(&held(), Event::Release)
}

fn after(sandbox: &Sandbox, event: Event) -> Sandbox {
    sandbox.after(&transition(sandbox.status, event, NOW).expect("the example follows the states"))
}

fn stats() -> Stats {
    Stats { total: 400, available: 253, allocated: 140, pending_deletion: 5, stale: 1, deletion_failed: 1 }
}

fn sync_report() -> SyncReport {
    SyncReport { synced: 400, added: 12, ..SyncReport::default() }
}

fn breaker() -> BreakerSnapshot {
    BreakerSnapshot { state: BreakerState::Closed, consecutive_failures: 0, retry_in_seconds: None }
}

fn sync_actor() -> ActorStatus {
    ActorStatus {
        name: ActorName::CspSync,
        status: Activity::Idle,
        desired_state: DesiredState::Running,
        control: None,
        leader: Some(ReplicaId::new("broker-1")),
        running_since: None,
        iteration: 17,
        last_run: Some(RunRecord {
            replica: ReplicaId::new("broker-1"),
            started_at: NOW,
            duration_ms: 412,
            report: Some(json(sync_report())),
            error: None,
        }),
        next_run: Some(NOW.plus(Duration::from_secs(300))),
        details: Some(json!({ "circuit_breaker": breaker() })),
    }
}

fn paused_actor() -> ActorStatus {
    ActorStatus {
        name: ActorName::Cleanup,
        status: Activity::Paused,
        desired_state: DesiredState::Paused,
        control: Some(Control {
            actor: ActorName::Cleanup,
            desired_state: DesiredState::Paused,
            reason: "freeze deletions until 14:00".to_owned(),
            requested_by: "anna@192.0.2.7".to_owned(),
            updated_at: NOW,
        }),
        iteration: 3,
        next_run: None,
        last_run: None,
        ..sync_actor()
    }
}
