//! The request headers of the API.

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use broker_actors::sandbox::{IdempotencyKey, Owner, SandboxId, TrackId};
use serde_json::json;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::input::{FromHead, MAX_ID_LENGTH, SandboxPath, id_schema, is_id};
use crate::http::client_address::client_address;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{OperationParts, string_schema};
use crate::http::request_context::RequestContext;

const TRACK: &str = "X-Track-ID";
const TRACK_SECRET: &str = "X-Track-Secret";
const INSTRUQT_SANDBOX: &str = "X-Instruqt-Sandbox-ID";
const INSTRUQT_TRACK: &str = "X-Instruqt-Track-ID";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const NAME_PREFIX: &str = "X-Sandbox-Name-Prefix";
const OPERATOR: &str = "X-Operator";
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The longest name of an operator.
const MAX_OPERATOR_LENGTH: usize = 64;

/// The shortest secret of a track. A shorter one could be guessed.
const MIN_SECRET_LENGTH: usize = 16;

/// Whether calls of tracks without a secret are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequireTrackSecret(pub(crate) bool);

/// The headers of an allocation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AllocateHeaders {
    pub(super) owner: Owner,
    /// The lab's slug.
    pub(super) track_name: Option<String>,
    /// The given key, or the track's id.
    pub(super) key: IdempotencyKey,
    pub(super) name_prefix: Option<String>,
}

impl FromHead for AllocateHeaders {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        // With the owner's headers, so that an error names every bad one.
        let names = [INSTRUQT_TRACK, IDEMPOTENCY_KEY, NAME_PREFIX, INSTRUQT_SANDBOX, TRACK, TRACK_SECRET];
        let [track_name, key, name_prefix, ..] = read(request.headers(), names)?;
        let owner = owner_of(request)?;
        let key = IdempotencyKey::new(key.unwrap_or_else(|| owner.track.as_str().to_owned()));
        Ok(Self { owner, track_name, key, name_prefix })
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

/// A sandbox in the path, and the track that calls.
pub(crate) struct OwnPath {
    pub(super) sandbox_id: SandboxId,
    pub(super) owner: Owner,
}

impl FromHead for OwnPath {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let sandbox_id = SandboxPath::read(request)?;
        RequestContext::add(request, |context| context.sandbox_id = Some(sandbox_id.to_string()));
        let owner = owner_of(request)?;
        Ok(Self { sandbox_id, owner })
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

/// The calling track. Two headers name it, and the Instruqt sandbox wins.
fn owner_of(request: &HttpRequest) -> Result<Owner, ApiError> {
    let headers = request.headers();
    let [sandbox, track, secret] = read(headers, [INSTRUQT_SANDBOX, TRACK, TRACK_SECRET])?;
    let track = TrackId::new(sandbox.or(track).ok_or_else(missing_track)?);
    RequestContext::add(request, |context| context.track_id = Some(track.to_string()));
    match secret {
        Some(secret) if secret.len() < MIN_SECRET_LENGTH => Err(bad_secret()),
        Some(secret) => Ok(Owner::with_secret(track, secret.as_bytes())),
        None if request.app_data::<RequireTrackSecret>().is_some_and(|required| required.0) => Err(missing_secret()),
        None => Ok(Owner::named(track)),
    }
}

fn bad_secret() -> ApiError {
    let message =
        format!("send {TRACK_SECRET} once, as {MIN_SECRET_LENGTH} to {MAX_ID_LENGTH} visible ASCII characters");
    ApiError::new(ErrorCode::BadHeader, message).details(json!({ "headers": [TRACK_SECRET] }))
}

fn missing_secret() -> ApiError {
    let message =
        format!("send {TRACK_SECRET}, a random text of at least {MIN_SECRET_LENGTH} characters that the track keeps");
    ApiError::new(ErrorCode::MissingHeader, message).details(json!({ "headers": [TRACK_SECRET] }))
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
    let secret = "A random text that only the track knows. What is allocated with it can be read, renewed and released only \
                  with it";
    parts.header(TRACK_SECRET, secret, secret_schema());
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

fn secret_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(MIN_SECRET_LENGTH));
    object.max_length(Some(MAX_ID_LENGTH)).pattern(Some("^[!-~]+$")).build().into()
}

/// The schema of an operator's name.
fn operator_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    object.max_length(Some(MAX_OPERATOR_LENGTH)).pattern(Some("^[!-~]([ -~]*[!-~])?$")).build().into()
}
