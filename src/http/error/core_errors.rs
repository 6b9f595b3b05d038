//! How the core's errors are answered. Nothing is logged here: an error of the store becomes the cause, which the log line
//! of the request shows; an error of a job's run is already in the log, in the line of that run.

use std::time::Duration;

use broker_actors::allocation::AllocateError;
use broker_actors::allocation::held::HeldError;
use broker_actors::jobs::JobError;
use broker_actors::ports::{CspError, StoreError};
use broker_actors::update::SandboxError;
use serde_json::json;

use super::{ApiError, ErrorCode};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            // Callers that were throttled together do not come back together.
            StoreError::Throttled(_) => {
                let wait = Duration::from_secs(fastrand::u64(1..=4));
                return Self::from(ErrorCode::StoreThrottled).retry_after(wait).caused_by(error);
            }
            StoreError::Unavailable(_) => ErrorCode::StoreUnavailable,
            StoreError::OutcomeUnknown(_) => ErrorCode::OutcomeUnknown,
            StoreError::NoIndex(_) => ErrorCode::NoIndex,
            StoreError::BadCursor => return ErrorCode::BadCursor.into(),
            StoreError::Rejected(_) | StoreError::Corrupt { .. } | StoreError::TooLong => ErrorCode::InternalError,
        };
        Self::from(code).caused_by(error)
    }
}

impl From<AllocateError> for ApiError {
    fn from(error: AllocateError) -> Self {
        match error {
            AllocateError::NoneAvailable => {
                Self::from(ErrorCode::NoSandboxesAvailable).details(json!({ "reason": "POOL_EMPTY" }))
            }
            AllocateError::Waiting(standing) => {
                Self::from(ErrorCode::Waiting).retry_after(standing.retry_after).details(json!({ "queue": {
                    "position": standing.position,
                    "of": standing.of,
                    "eta_seconds": standing.eta.map(|eta| eta.as_secs()),
                    "ticket_expires_at": standing.ticket_expires_at,
                } }))
            }
            AllocateError::QueueFull { .. } => ErrorCode::QueueFull.into(),
            AllocateError::Withdrawn => ErrorCode::WithdrawnFromQueue.into(),
            AllocateError::TooLong { .. } => {
                Self::new(ErrorCode::BadHeader, error.to_string()).details(json!({ "headers": ["X-Sandbox-Minutes"] }))
            }
            AllocateError::NotOwner => Self::new(ErrorCode::NotSandboxOwner, error.to_string()),
            AllocateError::QuotaExceeded(quota) => Self::new(ErrorCode::QuotaExceeded, error.to_string())
                .retry_after(quota.retry_in)
                .details(json!({ "new_per_minute": quota.limit })),
            AllocateError::Paused => ErrorCode::BrokerPaused.into(),
            AllocateError::Overloaded { .. } => ErrorCode::Overloaded.into(),
            AllocateError::TimedOut { .. } => ErrorCode::AllocationTimeout.into(),
            AllocateError::NotReadInFull => ErrorCode::PoolNotRead.into(),
            AllocateError::Stopping => ErrorCode::ShuttingDown.into(),
            AllocateError::Store(error) => error.into(),
        }
    }
}

impl From<HeldError> for ApiError {
    fn from(error: HeldError) -> Self {
        match error {
            HeldError::NothingHeld => ErrorCode::NothingHeld.into(),
            HeldError::NotOwner => Self::new(ErrorCode::NotSandboxOwner, error.to_string()),
            HeldError::Sandbox(error) => error.into(),
        }
    }
}

impl From<SandboxError> for ApiError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::NotFound(_) => Self::new(ErrorCode::SandboxNotFound, error.to_string()),
            SandboxError::NotOwner(_) => Self::new(ErrorCode::NotSandboxOwner, error.to_string()),
            SandboxError::MaxDurationReached(_) => Self::new(ErrorCode::MaxDurationReached, error.to_string()),
            SandboxError::Refused(refused) => Self::new(ErrorCode::WrongState, refused.to_string())
                .details(json!({ "status": refused.status.as_str() })),
            SandboxError::Standby(_) => Self::new(ErrorCode::WrongState, error.to_string())
                .details(json!({ "status": "allocated", "standby": true })),
            SandboxError::Contended(_) => ErrorCode::Contended.into(),
            SandboxError::Store(error) => error.into(),
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let message = error.to_string();
        match error {
            JobError::Paused => ErrorCode::ActorPaused.into(),
            JobError::Busy { holder } => Self::new(ErrorCode::JobBusy, message).details(json!({ "holder": holder })),
            JobError::GuardRefused(_) => Self::new(ErrorCode::SyncRefused, format!("{message}; force=true overrides")),
            JobError::Csp(CspError::BreakerOpen { retry_in } | CspError::Silenced { retry_in }) => {
                Self::new(ErrorCode::CspCircuitOpen, message).retry_after(retry_in)
            }
            JobError::Csp(_) => Self::new(ErrorCode::CspError, message),
            JobError::Stopping => ErrorCode::ShuttingDown.into(),
            JobError::LeaseLost | JobError::CutOff { .. } => Self::new(ErrorCode::RunInterrupted, message),
            JobError::Panicked(_) => ErrorCode::InternalError.into(),
            JobError::Store(error) => Self { cause: None, ..error.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use broker_actors::error::{Chain, cause};

    use super::*;
    use crate::http::error::ErrorForm;

    #[test]
    fn the_cause_of_a_store_failure_is_kept_for_the_log_and_not_shown_to_the_client() {
        let refused = || StoreError::Unavailable(cause("10.0.0.1 refused the connection"));
        for error in [refused().into(), AllocateError::from(refused()).into(), SandboxError::from(refused()).into()] {
            let error: ApiError = error;
            let body = serde_json::to_string(&error.body("id", ErrorForm::default())).unwrap();
            assert!(!body.contains("10.0.0.1"), "{body}");
            let logged = Chain(&**error.cause().unwrap()).to_string();
            assert_eq!(logged, "the store is unavailable: 10.0.0.1 refused the connection");
        }
        let of_job = ApiError::from(JobError::from(refused()));
        assert!(of_job.cause().is_none(), "the line of the run has it");
    }

    #[test]
    fn an_error_of_the_csp_shows_no_internals() {
        let error = CspError::Unavailable(cause("10.0.0.1 refused the connection"));
        let body =
            serde_json::to_string(&ApiError::from(JobError::from(error)).body("id", ErrorForm::default())).unwrap();
        assert!(body.contains("the CSP is unavailable") && !body.contains("10.0.0.1"), "{body}");
    }
}
