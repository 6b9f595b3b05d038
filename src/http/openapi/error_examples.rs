//! An example of each error, made as the API makes it.

use std::time::Duration;

use broker_actors::allocation::AllocateError;
use broker_actors::jobs::JobError;
use broker_actors::ports::CspError;
use broker_actors::quota::QuotaExceeded;
use broker_actors::sandbox::{ReplicaId, SandboxId};
use broker_actors::update::SandboxError;
use serde_json::json;

use crate::http::api::admin::actors::no_reason;
use crate::http::api::headers::{bad_headers, missing_track};
use crate::http::api::input::no_such_actor;
use crate::http::error::{ApiError, ErrorCode};

/// An example of this error.
pub(super) fn of(code: ErrorCode) -> ApiError {
    let sandbox_id = SandboxId::new("2000013");
    match code {
        ErrorCode::BadHeader => bad_headers(&["X-Track-ID"]),
        ErrorCode::MissingHeader => missing_track(),
        ErrorCode::BadQuery => ApiError::new(code, "limit takes a number from 1 to 100"),
        ErrorCode::BadBody => no_reason(),
        ErrorCode::Forbidden => ApiError::new(code, "this route takes an admin token"),
        ErrorCode::NotSandboxOwner => SandboxError::NotOwner(sandbox_id).into(),
        ErrorCode::SandboxNotFound => SandboxError::NotFound(sandbox_id).into(),
        ErrorCode::ActorNotFound => no_such_actor("clean-up"),
        ErrorCode::WrongState => ApiError::new(code, "a sandbox that is available cannot be released")
            .details(json!({ "status": "available" })),
        ErrorCode::Waiting => ApiError::from(code).retry_after(Duration::from_secs(12)).details(json!({
            "queue": { "position": 12, "of": 40, "eta_seconds": 90, "ticket_expires_at": 1_795_467_075 }
        })),
        ErrorCode::JobBusy => JobError::Busy { holder: ReplicaId::new("broker-1") }.into(),
        ErrorCode::SyncRefused => {
            JobError::GuardRefused("40 of 50 available sandboxes would become stale".to_owned()).into()
        }
        ErrorCode::RateLimited => ApiError::new(code, "more than 10 requests per second from one student")
            .retry_after(Duration::from_millis(100)),
        ErrorCode::QuotaExceeded => {
            AllocateError::from(QuotaExceeded { limit: 60, retry_in: Duration::from_secs(1) }).into()
        }
        ErrorCode::CspError => JobError::Csp(CspError::Unauthorized { status: 401 }).into(),
        ErrorCode::CspCircuitOpen => JobError::Csp(CspError::BreakerOpen { retry_in: Duration::from_secs(60) }).into(),
        ErrorCode::RunInterrupted => JobError::LeaseLost.into(),
        code => code.into(),
    }
}
