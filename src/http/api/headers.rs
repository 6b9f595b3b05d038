//! The request headers of the API.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};
use broker_actors::sandbox::{IdempotencyKey, Owner, SandboxId, TrackId};
use percent_encoding::percent_decode;
use serde_json::json;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::input::{FromHead, MAX_ID_LENGTH, SandboxPath, is_id};
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
const MINUTES: &str = "X-Sandbox-Minutes";
const STANDBY: &str = "X-Sandbox-Standby";
const PREFER: &str = "Prefer";
const OPERATOR: &str = "X-Operator";
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The most minutes that `X-Sandbox-Minutes` takes: a year.
pub(super) const MAX_MINUTES: u64 = 365 * 24 * 60;

/// The longest wait that a client may prefer. Proxies commonly close connections that are silent for a minute.
const MAX_WAIT: Duration = Duration::from_secs(50);

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
    pub(super) lab_duration: Option<Duration>,
    pub(super) standby: bool,
    /// How long the client wants to wait.
    pub(super) wait: Option<Duration>,
}

impl FromHead for AllocateHeaders {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        // Together, so that an error names every bad one.
        let names = [INSTRUQT_TRACK, IDEMPOTENCY_KEY, NAME_PREFIX, INSTRUQT_SANDBOX, TRACK, TRACK_SECRET];
        let [track_name, key, name_prefix, sandbox, track, secret] = read(request.headers(), names)?;
        let owner = owner_of(request, [sandbox, track, secret])?;
        let key = IdempotencyKey::new(key.unwrap_or_else(|| owner.track.as_str().to_owned()));
        let (lab_duration, standby) = (minutes(request.headers())?, standby(request.headers())?);
        let wait = preferred_wait(request.headers());
        Ok(Self { owner, track_name, key, name_prefix, lab_duration, standby, wait })
    }

    fn document(parts: &mut OperationParts) {
        for (name, schema, description) in [
            (INSTRUQT_TRACK, text_schema(), "The lab's slug in UTF-8, kept for operators"),
            (NAME_PREFIX, text_schema(), "Only a sandbox whose name starts with this text, in UTF-8"),
            (MINUTES, minutes_schema(), "Minutes that the lab takes, instead of the configured duration"),
            (
                STANDBY,
                ObjectBuilder::new().schema_type(Type::Boolean).build().into(),
                "`true`: the sandbox waits for its learner, and the lab's time starts with `POST /v1/allocation/activate`",
            ),
            (PREFER, string_schema(), "`wait=N`: waits up to N seconds, at most 50, for a sandbox if none is free"),
        ] {
            parts.header(name, description, schema);
        }
        document_key(parts);
    }
}

/// The track that calls, and which of its holdings it means.
pub(crate) struct OwnKey {
    pub(super) owner: Owner,
    /// The given key, or the track's id.
    pub(super) key: IdempotencyKey,
}

impl FromHead for OwnKey {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let names = [IDEMPOTENCY_KEY, INSTRUQT_SANDBOX, TRACK, TRACK_SECRET];
        let [key, sandbox, track, secret] = read(request.headers(), names)?;
        let owner = owner_of(request, [sandbox, track, secret])?;
        let key = IdempotencyKey::new(key.unwrap_or_else(|| owner.track.as_str().to_owned()));
        Ok(Self { owner, key })
    }

    fn document(parts: &mut OperationParts) {
        document_key(parts);
    }
}

/// The duration of a renewal.
pub(crate) struct Minutes(pub(super) Option<Duration>);

impl FromHead for Minutes {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        minutes(request.headers()).map(Self)
    }

    fn document(parts: &mut OperationParts) {
        parts.header(MINUTES, "Minutes from now, instead of the lab's duration", minutes_schema());
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
        let named = read(request.headers(), [INSTRUQT_SANDBOX, TRACK, TRACK_SECRET])?;
        let owner = owner_of(request, named)?;
        Ok(Self { sandbox_id, owner })
    }

    fn document(parts: &mut OperationParts) {
        SandboxPath::document(parts);
        document_track(parts);
    }
}

/// The operator that calls: the name in `X-Operator` and the client's address.
pub(crate) struct Operator(pub(super) String);

impl Operator {
    /// Who calls, without adding it to the request's context.
    pub(crate) fn of(request: &HttpRequest) -> Result<String, ApiError> {
        let name = match request.headers().get(OPERATOR).filter(|name| !name.is_empty()) {
            None => "admin".to_owned(),
            Some(name) => operator_name(name.as_bytes()).ok_or_else(|| {
                let message = format!(
                    "{OPERATOR} takes a name of 1 to {MAX_OPERATOR_LENGTH} printable characters, in UTF-8 and percent-encoded"
                );
                ApiError::new(ErrorCode::BadHeader, message)
            })?,
        };
        Ok(format!("{name}@{}", client_address(request)))
    }
}

/// A name of an operator. It is percent-encoded, because browsers send no other characters than those of Latin 1. What
/// cannot be printed becomes a replacement character.
fn operator_name(value: &[u8]) -> Option<String> {
    let name = percent_decode(value).decode_utf8_lossy();
    let printable = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    let name: String = name.trim().chars().map(printable).collect();
    (1..=MAX_OPERATOR_LENGTH).contains(&name.chars().count()).then_some(name)
}

impl FromHead for Operator {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let operator = Self::of(request)?;
        RequestContext::add(request, |context| context.operator = Some(operator.clone()));
        Ok(Self(operator))
    }

    fn document(parts: &mut OperationParts) {
        let description = "The name of the operator, for the broker's records; percent-encoded unless all of its characters \
                           are ASCII";
        let schema = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_OPERATOR_LENGTH));
        parts.header(OPERATOR, description, schema.build().into());
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

/// The calling track, as the request names it, before it is checked.
pub(crate) fn track_in(headers: &HeaderMap) -> &[u8] {
    let name = headers.get(INSTRUQT_SANDBOX).filter(|name| !name.is_empty()).or_else(|| headers.get(TRACK));
    name.map(HeaderValue::as_bytes).unwrap_or_default()
}

/// The calling track, of the values of its headers. Two of them name it, and the Instruqt sandbox wins.
fn owner_of(request: &HttpRequest, [sandbox, track, secret]: [Option<String>; 3]) -> Result<Owner, ApiError> {
    let track = TrackId::new(sandbox.or(track).ok_or_else(missing_track)?);
    let lab = request.headers().get(INSTRUQT_TRACK).and_then(|lab| (TEXT.value)(lab.as_bytes()));
    RequestContext::add(request, |context| {
        context.track_id = Some(track.to_string());
        context.instruqt_track_id = lab.map(str::to_owned);
    });
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
    let takes = |name: &&str| format!("{name} once, as {}", form_of(name).takes);
    let message = format!("send {}", names.iter().map(takes).collect::<Vec<_>>().join("; "));
    ApiError::new(ErrorCode::BadHeader, message).details(json!({ "headers": names }))
}

/// The `wait` of `Prefer` (RFC 7240), up to the longest one. A preference that cannot be read is ignored, as the standard
/// asks.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences =
        headers.get_all(PREFER).filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let waits = preferences.filter_map(|preference| {
        let (name, seconds) = preference.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        seconds.trim().trim_matches('"').parse::<u64>().ok().filter(|_| is_wait)
    });
    waits.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT)).next()
}

fn bad_value(name: &str, takes: impl std::fmt::Display) -> ApiError {
    let message = format!("send {name} once, as {takes}");
    ApiError::new(ErrorCode::BadHeader, message).details(json!({ "headers": [name] }))
}

fn minutes(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let [minutes] = read(headers, [MINUTES])?;
    let Some(minutes) = minutes else { return Ok(None) };
    match minutes.parse() {
        Ok(minutes @ 1..=MAX_MINUTES) => Ok(Some(Duration::from_secs(minutes * 60))),
        _ => Err(bad_value(MINUTES, format!("a whole number from 1 to {MAX_MINUTES}"))),
    }
}

fn standby(headers: &HeaderMap) -> Result<bool, ApiError> {
    let [standby] = read(headers, [STANDBY])?;
    match standby.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad_value(STANDBY, "true or false")),
    }
}

fn document_key(parts: &mut OperationParts) {
    let description = "Names this intent to allocate; the track's id if it is not sent. Keys belong to their track: equal \
                       keys of two tracks are different keys";
    parts.header(IDEMPOTENCY_KEY, description, name_schema());
    document_track(parts);
}

fn minutes_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    object.maximum(Some(MAX_MINUTES as usize)).build().into()
}

fn document_track(parts: &mut OperationParts) {
    let track = format!("Names the calling track, unique for each student. This or `{INSTRUQT_SANDBOX}` is required");
    parts.parameter(ParameterIn::Header, TRACK, &track, name_schema(), Some("student-1"));
    let instruqt = format!("The same as `{TRACK}`; it wins if both are sent");
    parts.header(INSTRUQT_SANDBOX, &instruqt, name_schema());
    let secret = "A random text that only the track knows. What is allocated with it can be read, renewed and released only \
                  with it";
    parts.header(TRACK_SECRET, secret, secret_schema());
    parts.errors.extend([ErrorCode::BadHeader, ErrorCode::MissingHeader]);
}

/// A form of header values.
#[derive(Clone, Copy)]
struct ValueForm {
    takes: &'static str,
    /// The text of a value of this form.
    value: fn(&[u8]) -> Option<&str>,
}

/// An identifier.
const ID: ValueForm = ValueForm {
    takes: "1 to 256 visible ASCII characters, with spaces only inside",
    value: |value| {
        let is_allowed = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        text_of(value).filter(|value| value.bytes().all(|byte| is_allowed(&byte)) && value.trim() == *value)
    },
};
/// A text that people chose.
const TEXT: ValueForm = ValueForm {
    takes: "1 to 256 bytes of UTF-8 without control characters",
    value: |value| text_of(value).filter(|value| !value.contains(char::is_control)),
};
const SECRET: ValueForm = ValueForm {
    takes: "16 to 256 visible ASCII characters",
    value: |value| text_of(value).filter(|value| is_id(value.as_bytes())),
};

fn form_of(name: &str) -> ValueForm {
    match name {
        INSTRUQT_TRACK | NAME_PREFIX => TEXT,
        TRACK_SECRET => SECRET,
        _ => ID,
    }
}

fn text_of(value: &[u8]) -> Option<&str> {
    (1..=MAX_ID_LENGTH).contains(&value.len()).then(|| std::str::from_utf8(value).ok()).flatten()
}

/// Reads these headers, or names all whose values are not allowed. An empty one counts as absent: a script sends it for a
/// variable that is not set.
fn read<const N: usize>(headers: &HeaderMap, names: [&str; N]) -> Result<[Option<String>; N], ApiError> {
    let mut bad = Vec::new();
    let values = names.map(|name| {
        let mut values = headers.get_all(name).filter(|value| !value.is_empty());
        let value = values.next()?;
        let text = (form_of(name).value)(value.as_bytes()).filter(|_| values.next().is_none());
        if text.is_none() {
            bad.push(name);
        }
        text.map(str::to_owned)
    });
    if bad.is_empty() { Ok(values) } else { Err(bad_headers(&bad)) }
}

/// The schema of a secret. An empty header counts as absent.
fn secret_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_ID_LENGTH));
    object.pattern(Some(format!("^([!-~]{{{MIN_SECRET_LENGTH},}})?$"))).build().into()
}

/// The schema of an identifier. An empty header counts as absent.
fn name_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_ID_LENGTH));
    object.pattern(Some("^([!-~]([ -~]*[!-~])?)?$")).build().into()
}

/// The schema of a text. OpenAPI cannot say how many bytes a text has. An empty header counts as absent.
fn text_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_ID_LENGTH));
    object.pattern(Some("^[^\\x00-\\x1f\\x7f-\\x9f]*$")).build().into()
}
