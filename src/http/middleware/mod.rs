//! What every request passes before its handler, and its answer after it. One file for each layer.

pub(super) mod access_log;
pub(super) mod audit;
pub mod auth;
pub(super) mod body;
pub(super) mod canonical_path;
pub(super) mod error_format;
pub(super) mod rate_limit;
pub(super) mod request_id;
pub(super) mod security_headers;
