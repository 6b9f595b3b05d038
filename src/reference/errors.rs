//! The error codes of the API.

use actix_web::http::StatusCode;

use super::table;
use crate::http::error::ApiError;
use crate::http::openapi;

const HEAD: &str = "\
# Errors

<!-- Printed by `sandbox-broker reference errors`. Change the errors in src/http, not here. -->

Every error has the body `{\"error\": {\"code\", \"message\", \"request_id\", \"retry_after\"?, \"details\"?}}`. The code is
stable. `retry_after` is also the header `Retry-After`, in seconds. Messages and waits below are examples.

";

/// One example of each error, by status and code.
fn error_table() -> Vec<ApiError> {
    let mut errors = openapi::known_errors();
    // Answered before an endpoint is found.
    errors.push(ApiError::too_many_connections());
    errors.extend(
        [
            StatusCode::BAD_REQUEST,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ]
        .map(ApiError::of_status),
    );
    errors.sort_by_key(|error| (error.status.as_u16(), error.code));
    errors
}

pub(super) fn page() -> String {
    let rows = error_table().into_iter().map(|error| {
        let retry_after = error.retry_after_seconds().map(|seconds| format!("{seconds} s")).unwrap_or_default();
        vec![error.status.as_u16().to_string(), format!("`{}`", error.code), retry_after, error.message]
    });
    HEAD.to_owned() + &table(&["status", "code", "retry after", "message"], rows)
}
