//! The request headers of the track API.

use actix_web::http::header::HeaderMap;
use broker_actors::sandbox::{IdempotencyKey, SandboxId, TrackId};
use serde_json::json;

use super::error::ApiError;

const MAX_LENGTH: usize = 256;

const TRACK: &str = "X-Track-ID";
const INSTRUQT_SANDBOX: &str = "X-Instruqt-Sandbox-ID";
const INSTRUQT_TRACK: &str = "X-Instruqt-Track-ID";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const NAME_PREFIX: &str = "X-Sandbox-Name-Prefix";

/// The headers of an allocation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AllocateHeaders {
    /// The caller.
    pub(super) track: TrackId,
    /// The lab's slug.
    pub(super) track_name: Option<String>,
    /// The caller's key, or its default: the track's id.
    pub(super) key: IdempotencyKey,
    /// Only sandboxes whose name starts so.
    pub(super) name_prefix: Option<String>,
}

/// Reads the caller's id.
pub(super) fn track_of(headers: &HeaderMap) -> Result<TrackId, ApiError> {
    let [sandbox, track] = read(headers, [INSTRUQT_SANDBOX, TRACK])?;
    sandbox.or(track).map(TrackId::new).ok_or_else(|| {
        let message = format!("send {TRACK} or {INSTRUQT_SANDBOX}, unique for each student");
        ApiError::bad_request("MISSING_HEADER", message).details(json!({ "headers": [TRACK, INSTRUQT_SANDBOX] }))
    })
}

/// Reads the headers of an allocation.
pub(super) fn allocate_headers(headers: &HeaderMap) -> Result<AllocateHeaders, ApiError> {
    let [_, _, track_name, key, name_prefix] =
        read(headers, [INSTRUQT_SANDBOX, TRACK, INSTRUQT_TRACK, IDEMPOTENCY_KEY, NAME_PREFIX])?;
    let track = track_of(headers)?;
    let key = IdempotencyKey::new(key.unwrap_or_else(|| track.as_str().to_owned()));
    Ok(AllocateHeaders { track, track_name, key, name_prefix })
}

/// Checks the id in a path.
pub(super) fn sandbox_id(value: &str) -> Result<SandboxId, ApiError> {
    if !is_fit(value.as_bytes()) {
        let message = format!("a sandbox id is 1 to {MAX_LENGTH} visible ASCII characters");
        return Err(ApiError::bad_request("BAD_SANDBOX_ID", message));
    }
    Ok(SandboxId::new(value))
}

/// Reads these headers, or names all that are not fit.
fn read<const N: usize>(headers: &HeaderMap, names: [&str; N]) -> Result<[Option<String>; N], ApiError> {
    let mut bad = Vec::new();
    let values = names.map(|name| {
        let mut values = headers.get_all(name);
        let value = values.next()?;
        if values.next().is_some() || !is_fit(value.as_bytes()) {
            bad.push(name);
            return None;
        }
        value.to_str().ok().map(str::to_owned)
    });
    if bad.is_empty() {
        return Ok(values);
    }
    let message = format!("{} must be sent once, as 1 to {MAX_LENGTH} visible ASCII characters", bad.join(", "));
    Err(ApiError::bad_request("BAD_HEADER", message).details(json!({ "headers": bad })))
}

fn is_fit(value: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}
