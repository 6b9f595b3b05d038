//! The request headers of the API.

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use broker_actors::sandbox::{IdempotencyKey, SandboxId, TrackId};
use serde_json::json;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::input::{FromHead, MAX_ID_LENGTH, SandboxPath, id_schema, is_id};
use crate::http::client_address::client_address;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{OperationParts, string_schema};
use crate::http::request_context::RequestContext;

const TRACK: &str = "X-Track-ID";
const INSTRUQT_SANDBOX: &str = "X-Instruqt-Sandbox-ID";
const INSTRUQT_TRACK: &str = "X-Instruqt-Track-ID";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const NAME_PREFIX: &str = "X-Sandbox-Name-Prefix";
const OPERATOR: &str = "X-Operator";
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The longest name of an operator.
const MAX_OPERATOR_LENGTH: usize = 64;

/// The headers of an allocation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AllocateHeaders {
    pub(super) track: TrackId,
    /// The lab's slug.
    pub(super) track_name: Option<String>,
    /// The given key, or the track's id.
    pub(super) key: IdempotencyKey,
    pub(super) name_prefix: Option<String>,
}

impl FromHead for AllocateHeaders {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let headers = Self::read(request.headers())?;
        RequestContext::add(request, |context| context.track_id = Some(headers.track.to_string()));
        Ok(headers)
    }

    fn document(parts: &mut OperationParts) {
        for (name, description) in [
            (INSTRUQT_TRACK, "The lab's slug, kept for operators"),
            (
                IDEMPOTENCY_KEY,
                "Names this intent to allocate; the track's id if it is not sent. Keys belong to their track: equal keys \
                 of two tracks are different keys",
            ),
            (NAME_PREFIX, "Only a sandbox whose name starts with this"),
        ] {
            parts.header(name, description, id_schema());
        }
        document_track(parts);
    }
}

impl AllocateHeaders {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let [sandbox, track, track_name, key, name_prefix] =
            read(headers, [INSTRUQT_SANDBOX, TRACK, INSTRUQT_TRACK, IDEMPOTENCY_KEY, NAME_PREFIX])?;
        let track = track_of(sandbox, track)?;
        let key = IdempotencyKey::new(key.unwrap_or_else(|| track.as_str().to_owned()));
        Ok(Self { track, track_name, key, name_prefix })
    }
}

/// A sandbox in the path, and the track that calls.
pub(crate) struct OwnPath {
    pub(super) sandbox_id: SandboxId,
    pub(super) track: TrackId,
}

impl FromHead for OwnPath {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let sandbox_id = SandboxPath::read(request)?;
        let [sandbox, track] = read(request.headers(), [INSTRUQT_SANDBOX, TRACK])?;
        let track = track_of(sandbox, track)?;
        RequestContext::add(request, |context| {
            context.sandbox_id = Some(sandbox_id.to_string());
            context.track_id = Some(track.to_string());
        });
        Ok(Self { sandbox_id, track })
    }

    fn document(parts: &mut OperationParts) {
        SandboxPath::document(parts);
        document_track(parts);
    }
}

/// The operator that calls: the name in `X-Operator` and the client's address.
pub(crate) struct Operator(pub(super) String);

impl FromHead for Operator {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let is_name = |name: &&str| (1..=MAX_OPERATOR_LENGTH).contains(&name.len()) && !name.contains('\t');
        let name = match request.headers().get(OPERATOR) {
            None => "admin",
            Some(name) => name.to_str().ok().filter(is_name).ok_or_else(|| {
                let message =
                    format!("{OPERATOR} takes 1 to {MAX_OPERATOR_LENGTH} visible ASCII characters and spaces");
                ApiError::new(ErrorCode::BadHeader, message)
            })?,
        };
        let operator = format!("{name}@{}", client_address(request));
        RequestContext::add(request, |context| context.operator = Some(operator.clone()));
        Ok(Self(operator))
    }

    fn document(parts: &mut OperationParts) {
        let description = "The name of the operator, for the broker's records";
        parts.header(OPERATOR, description, operator_schema());
        parts.errors.insert(ErrorCode::BadHeader);
    }
}

/// The id of the last event that a client received before it reconnected.
pub(crate) struct LastEventId(pub(super) Option<String>);

impl FromHead for LastEventId {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let id = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        Ok(Self(id.map(str::to_owned)))
    }

    fn document(parts: &mut OperationParts) {
        let description = "The id of the last event that was received";
        parts.header(LAST_EVENT_ID, description, string_schema());
    }
}

/// The two headers that name the track; the first wins.
fn track_of(sandbox: Option<String>, track: Option<String>) -> Result<TrackId, ApiError> {
    sandbox.or(track).map(TrackId::new).ok_or_else(missing_track)
}

/// The error for a request that does not name its track.
pub(crate) fn missing_track() -> ApiError {
    let message = format!("send {TRACK} or {INSTRUQT_SANDBOX}, unique for each student");
    ApiError::new(ErrorCode::MissingHeader, message).details(json!({ "headers": [TRACK, INSTRUQT_SANDBOX] }))
}

/// The error for headers whose values are not allowed.
pub(crate) fn bad_headers(names: &[&str]) -> ApiError {
    let message = format!("send {} once, as 1 to {MAX_ID_LENGTH} visible ASCII characters", names.join(", "));
    ApiError::new(ErrorCode::BadHeader, message).details(json!({ "headers": names }))
}

fn document_track(parts: &mut OperationParts) {
    let track = format!("Names the calling track, unique for each student. This or `{INSTRUQT_SANDBOX}` is required");
    parts.parameter(ParameterIn::Header, TRACK, &track, id_schema(), Some("student-1"));
    let instruqt = format!("The same as `{TRACK}`; it wins if both are sent");
    parts.header(INSTRUQT_SANDBOX, &instruqt, id_schema());
    parts.errors.extend([ErrorCode::BadHeader, ErrorCode::MissingHeader]);
}

/// Reads these headers, or names all whose values are not allowed.
fn read<const N: usize>(headers: &HeaderMap, names: [&str; N]) -> Result<[Option<String>; N], ApiError> {
    let mut bad = Vec::new();
    let values = names.map(|name| {
        let mut values = headers.get_all(name);
        let value = values.next()?;
        if values.next().is_some() || !is_id(value.as_bytes()) {
            bad.push(name);
            return None;
        }
        value.to_str().ok().map(str::to_owned)
    });
    if bad.is_empty() { Ok(values) } else { Err(bad_headers(&bad)) }
}

/// The schema of an operator's name.
fn operator_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    object.max_length(Some(MAX_OPERATOR_LENGTH)).pattern(Some("^[!-~]([ -~]*[!-~])?$")).build().into()
}
