//! The error codes of the API.

use super::table;
use crate::http::error::{ErrorCode, RetryAfter};

const HEAD: &str = "\
# Errors

<!-- Printed by `sandbox-broker reference errors`. Change the errors in src/http/error.rs, not here. -->

Every error has the body `{\"error\": {\"code\", \"message\", \"request_id\", \"retry_after\"?, \"details\"?}}`. The code is
stable; the message may say more than the meaning below. `retry_after` is also the header `Retry-After`, in seconds.

";

pub(super) fn page() -> String {
    let rows = ErrorCode::ALL.iter().map(|code| {
        let retry_after = match code.retry_after() {
            RetryAfter::Never => String::new(),
            RetryAfter::Seconds(seconds) => format!("{seconds} s"),
            RetryAfter::Computed => "computed".to_owned(),
        };
        vec![code.status().as_u16().to_string(), format!("`{}`", code.as_str()), retry_after, code.meaning().to_owned()]
    });
    HEAD.to_owned() + &table(&["status", "code", "retry after", "meaning"], rows)
}
