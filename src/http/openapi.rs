//! The OpenAPI document. Paths and bodies come from the handlers, who may call from the route table, and errors from
//! the values that the API answers with, examples too.

mod examples;

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use broker_actors::allocation::AllocateError;
use broker_actors::error::{Cause, cause};
use broker_actors::jobs::JobError;
use broker_actors::ports::{CspError, StoreError};
use broker_actors::sandbox::{ReplicaId, SandboxId};
use broker_actors::update::SandboxError;
use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Header, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{IntoParams, ToSchema};

use super::auth::{Role, Tokens};
use super::error::ApiError;
use super::{ENDPOINTS, Endpoint, admin, console, docs, events, headers, observability, sandboxes};

/// The tag of the track API.
pub(super) const SANDBOXES: &str = "Sandboxes";
/// The tag of the admin API.
pub(super) const ADMIN: &str = "Admin";
/// The tag of what anybody may look at.
pub(super) const OBSERVABILITY: &str = "Observability";

const TRACK_TOKEN: &str = "track_token";
const ADMIN_TOKEN: &str = "admin_token";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "sandbox-broker",
        description = "Hands each pre-created cloud sandbox to exactly one student's lab.\n\nEvery error has the one \
                       form `Error`; its `code` is stable, its `message` says what to do. A `503` may always be \
                       repeated, with the same key, after `Retry-After` seconds. Times are seconds since the Unix \
                       epoch.\n\nWhat no route takes is `404 NOT_FOUND`, another method `405 METHOD_NOT_ALLOWED` with \
                       `Allow`, what cannot be read as HTTP `400 BAD_REQUEST`, what arrives too slowly `408 \
                       REQUEST_TIMEOUT`, a head above 16 KiB `431 HEAD_TOO_LARGE`, and one connection too many `503 \
                       TOO_MANY_CONNECTIONS`. Every answer has the usual security headers (`X-Content-Type-Options`, \
                       `Content-Security-Policy`, `Strict-Transport-Security`, `Referrer-Policy`) and `Cache-Control: \
                       no-store`. A W3C `traceparent` that comes with a request is the parent of its trace.",
    ),
    tags(
        (name = "Sandboxes", description = "What a lab track calls: allocate, read, renew, give back"),
        (name = "Admin", description = "What operators call: counts, lists, jobs, actors"),
        (name = "Observability", description = "What probes, scrapers and browsers call; open to all"),
    ),
    paths(
        sandboxes::allocate,
        sandboxes::read,
        sandboxes::renew,
        sandboxes::mark_for_deletion,
        admin::stats,
        admin::list,
        admin::release,
        admin::retry_deletion,
        admin::sync,
        admin::cleanup,
        admin::auto_expire,
        admin::auto_delete_stale,
        admin::bulk_delete,
        admin::actors,
        admin::actor,
        admin::pause,
        admin::resume,
        admin::run,
        events::events,
        observability::root,
        observability::healthz,
        observability::readyz,
        observability::metrics,
        docs::document,
        docs::page,
        docs::asset,
        console::page,
        console::asset,
    ),
    components(schemas(ErrorBody, events::Snapshot, events::Event)),
)]
struct Handlers;

/// The one form of every error
#[derive(ToSchema)]
#[schema(as = Error)]
#[allow(dead_code, reason = "`ApiError::body` writes it; this documents it")]
struct ErrorBody {
    error: ErrorFields,
}

/// What an error tells
#[derive(ToSchema)]
#[allow(dead_code, reason = "`ApiError::body` writes it; this documents it")]
struct ErrorFields {
    /// A stable name for programs
    code: String,
    /// What happened and what to do, for people
    message: String,
    /// Finds the request in the broker's log
    request_id: String,
    /// Seconds after which another attempt makes sense, as in `Retry-After`
    #[schema(nullable = false)]
    retry_after: Option<u64>,
    /// What only this error has to tell
    #[schema(nullable = false, required = false, value_type = Object)]
    details: Option<serde_json::Value>,
}

/// The optional headers of an allocation.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "`headers.rs` reads them; this documents them")]
pub(super) struct AllocateHeaderParams {
    /// The lab's slug, kept for operators
    #[param(rename = "X-Instruqt-Track-ID", min_length = 1, max_length = 256, pattern = "^[!-~]+$")]
    track_name: Option<String>,
    /// Names this intent to allocate; the caller's name if not given. Keys of another caller are other keys
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 256, pattern = "^[!-~]+$")]
    key: Option<String>,
    /// Only sandboxes whose name starts so
    #[param(rename = "X-Sandbox-Name-Prefix", min_length = 1, max_length = 256, pattern = "^[!-~]+$")]
    name_prefix: Option<String>,
}

/// A sandbox in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "`headers.rs` reads it; this documents it")]
pub(super) struct SandboxPath {
    /// A sandbox's id, as the allocation answered it
    #[param(min_length = 1, max_length = 256, pattern = "^[!-~]+$", example = "2000013")]
    id: String,
}

/// An actor in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "the system reads it; this documents it")]
pub(super) struct ActorPath {
    /// `pool-manager`, `csp-sync`, `expiry-reaper`, `cleanup` or `stale-collector`
    #[param(example = "cleanup")]
    name: String,
}

/// The document.
pub fn document() -> OpenApi {
    let mut document = <Handlers as utoipa::OpenApi>::openapi();
    let components = document.components.get_or_insert_default();
    for (name, of) in [(TRACK_TOKEN, "BROKER_API_TOKEN"), (ADMIN_TOKEN, "BROKER_ADMIN_TOKEN")] {
        let description = format!("One of the tokens in the setting {of}");
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    let known: BTreeMap<&str, ApiError> = known_errors().into_iter().map(|error| (error.code, error)).collect();
    for endpoint in ENDPOINTS {
        let item = document.paths.paths.get_mut(endpoint.path);
        if let Some(operation) = item.and_then(|item| operation_of(item, endpoint.method)) {
            complete(operation, endpoint, &known);
        }
    }
    document
}

fn operation_of<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    if method == "GET" { item.get.as_mut() } else { item.post.as_mut() }
}

/// Adds what follows from the route table: who may call, what every request may carry, every error, every header.
fn complete(operation: &mut Operation, endpoint: &Endpoint, known: &BTreeMap<&str, ApiError>) {
    let parameters = operation.parameters.get_or_insert_default();
    if endpoint.role == Role::Track {
        let caller = "the caller, unique for each student";
        let (this, that) = (
            format!("Names {caller}. This or `X-Instruqt-Sandbox-ID` is required"),
            format!("Names {caller}; wins if both are sent"),
        );
        let track = ParameterBuilder::from(header_parameter("X-Track-ID", &this, visible_ascii()));
        parameters.push(track.example(Some(json!("student-1"))).build().into());
        parameters.push(header_parameter("X-Instruqt-Sandbox-ID", &that, visible_ascii()).into());
    }
    if endpoint.is_order() {
        let operator = "What to call the operator in the broker's records";
        parameters.push(header_parameter("X-Operator", operator, text_with_spaces()).into());
    }
    let id = "The caller's own id of this request, for the broker's log: 1 to 128 letters, digits, dots, dashes and \
              underscores. Anything else is replaced by a new one";
    parameters.push(header_parameter("X-Request-ID", id, string()).into());
    operation.security = match endpoint.role {
        Role::Public => None,
        Role::Track => Some(vec![SecurityRequirement::new(TRACK_TOKEN, Vec::<String>::new())]),
        Role::Admin => Some(vec![SecurityRequirement::new(ADMIN_TOKEN, Vec::<String>::new())]),
    };

    let mut by_status: BTreeMap<u16, Vec<&ApiError>> = BTreeMap::new();
    for code in codes_of(endpoint) {
        let error = known.get(code).unwrap_or_else(|| panic!("{code} is not among the known errors"));
        by_status.entry(error.status.as_u16()).or_default().push(error);
    }
    for (status, errors) in by_status {
        operation.responses.responses.insert(status.to_string(), RefOr::T(error_response(&errors)));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with('2') {
            let example = examples::of_success(endpoint);
            for content in response.content.values_mut() {
                let RefOr::T(content) = content else { continue };
                content.example.clone_from(&example);
            }
        }
        let id = header(string(), "The request's id: the caller's, or a new one");
        response.headers.insert("X-Request-ID".to_owned(), id.into());
        if endpoint.role != Role::Public {
            for (name, what) in [
                ("X-RateLimit-Limit", "Requests that may come at once; absent where the limit is off"),
                ("X-RateLimit-Remaining", "How many of these are left"),
                ("X-RateLimit-Reset", "Seconds until all of them are back"),
            ] {
                response.headers.insert(name.to_owned(), header(count(), what).into());
            }
        }
    }
}

fn error_response(errors: &[&ApiError]) -> Response {
    let mut content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error")));
    for error in errors {
        let body = error.body("01a20a2b-5d3c-7d04-9f55-3c8e0a5f2f10");
        content = content.examples_from_iter([(error.code, ExampleBuilder::new().value(Some(body)).build())]);
    }
    let codes: Vec<String> = errors.iter().map(|error| format!("`{}`", error.code)).collect();
    let mut response =
        ResponseBuilder::new().description(codes.join(", ")).content("application/json", content.build());
    if errors.iter().any(|error| error.retry_after.is_some()) {
        let what = "Seconds after which another attempt makes sense";
        response = response.header("Retry-After", header(count(), what));
    }
    if errors.iter().any(|error| error.status == StatusCode::UNAUTHORIZED) {
        response = response.header("WWW-Authenticate", header(string(), "The scheme: Bearer"));
    }
    response.build()
}

fn header_parameter(name: &str, description: &str, schema: Schema) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

fn header(schema: Schema, description: &str) -> Header {
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// What the values of the track API's headers are.
fn visible_ascii() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(256));
    object.pattern(Some("^[!-~]+$")).build().into()
}

/// What operators may call themselves.
fn text_with_spaces() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(64));
    object.pattern(Some("^[!-~]([ -~]*[!-~])?$")).build().into()
}

fn string() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).build().into()
}

fn count() -> Schema {
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).minimum(Some(0)).build().into()
}

const AUTH: &[&str] = &["UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED", "INTERNAL_ERROR"];
const STORE: &[&str] = &["STORE_THROTTLED", "STORE_UNAVAILABLE"];
const CALLER: &[&str] = &["BAD_HEADER", "MISSING_HEADER"];
const OWN: &[&str] = &["BAD_SANDBOX_ID", "SANDBOX_NOT_FOUND", "NOT_SANDBOX_OWNER"];
const WRITE: &[&str] = &["OUTCOME_UNKNOWN"];
const CHANGE: &[&str] = &["OUTCOME_UNKNOWN", "CONTENDED"];
const RUN: &[&str] = &["OUTCOME_UNKNOWN", "ACTOR_PAUSED", "JOB_BUSY", "RUN_INTERRUPTED", "SHUTTING_DOWN"];
const CSP: &[&str] = &["CSP_CIRCUIT_OPEN", "CSP_ERROR"];

/// Every error code that an endpoint may answer.
fn codes_of(endpoint: &Endpoint) -> Vec<&'static str> {
    let own: &[&[&str]] = match endpoint.path {
        "/v1/allocate" => &[
            STORE,
            CALLER,
            WRITE,
            &["NO_SANDBOXES_AVAILABLE", "BROKER_PAUSED", "OVERLOADED", "ALLOCATION_TIMEOUT", "SHUTTING_DOWN"],
        ],
        "/v1/sandboxes/{id}" => &[STORE, CALLER, OWN],
        "/v1/sandboxes/{id}/renew" => &[STORE, CALLER, OWN, CHANGE, &["WRONG_STATE"]],
        "/v1/sandboxes/{id}/mark-for-deletion" => &[STORE, CALLER, OWN, CHANGE],
        "/v1/admin/stats" => &[STORE, &["BAD_QUERY"]],
        "/v1/admin/sandboxes" => &[STORE, &["BAD_QUERY", "BAD_CURSOR"]],
        "/v1/admin/sandboxes/{id}/release" | "/v1/admin/sandboxes/{id}/retry-deletion" => {
            &[STORE, CHANGE, &["BAD_SANDBOX_ID", "SANDBOX_NOT_FOUND", "WRONG_STATE"]]
        }
        "/v1/admin/sync" => &[STORE, RUN, CSP, &["BAD_QUERY", "SYNC_REFUSED"]],
        "/v1/admin/cleanup" => &[STORE, RUN, CSP, &["BAD_QUERY"]],
        "/v1/admin/auto-expire" | "/v1/admin/auto-delete-stale" => &[STORE, RUN, &["BAD_QUERY"]],
        "/v1/admin/bulk-delete" => &[STORE, WRITE, &["BAD_QUERY"]],
        "/v1/admin/actors" => &[STORE],
        "/v1/admin/actors/{name}" => &[STORE, &["ACTOR_NOT_FOUND"]],
        "/v1/admin/actors/{name}/pause" => &[STORE, WRITE, &["ACTOR_NOT_FOUND", "BAD_BODY"]],
        "/v1/admin/actors/{name}/resume" => &[STORE, WRITE, &["ACTOR_NOT_FOUND"]],
        "/v1/admin/actors/{name}/run" => &[STORE, RUN, CSP, &["ACTOR_NOT_FOUND", "SYNC_REFUSED"]],
        "/v1/admin/events" => &[&["TOO_MANY_STREAMS"]],
        "/v1/docs/{asset}" | "/console/{asset}" => &[&["NOT_FOUND"]],
        _ => &[],
    };
    let mut codes = own.concat();
    if endpoint.role != Role::Public {
        codes.extend(AUTH);
    }
    if endpoint.is_order() {
        codes.push("BAD_HEADER");
    }
    if endpoint.method == "POST" {
        codes.push("BODY_TOO_LARGE");
    }
    codes
}

/// One error of each code, made as the API makes them.
pub(crate) fn known_errors() -> Vec<ApiError> {
    let id = || SandboxId::new("2000013");
    let named = |name: &'static str, value: &'static str| {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    };
    let store = |error: fn(Cause) -> StoreError| ApiError::from_store(&error(cause("")));
    let mut errors: Vec<ApiError> = [
        headers::allocate_headers(&HeaderMap::new()).err(),
        headers::allocate_headers(&named("x-track-id", "two words")).err(),
        headers::sandbox_id("").err(),
        Tokens::none().check(Role::Track, &HeaderMap::new()).err(),
    ]
    .into_iter()
    .flatten()
    .collect();
    errors.extend([
        ApiError::bad_request("BAD_QUERY", "limit takes a number from 1 to 100"),
        ApiError::bad_request("BAD_BODY", admin::PAUSE_FORM),
        ApiError::forbidden(Role::Admin),
        ApiError::rate_limited(10, Duration::from_millis(100)),
        ApiError::of_status(StatusCode::NOT_FOUND),
        ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE),
        ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR),
        ApiError::too_many_streams(),
        store(StoreError::Throttled),
        store(StoreError::Unavailable),
        store(StoreError::OutcomeUnknown),
        ApiError::from_store(&StoreError::BadCursor),
        AllocateError::NoneAvailable.into(),
        AllocateError::Paused.into(),
        AllocateError::Overloaded { limit: 1024 }.into(),
        AllocateError::TimedOut { budget: Duration::from_secs(10) }.into(),
        AllocateError::Stopping.into(),
        SandboxError::NotFound(id()).into(),
        SandboxError::NotOwner(id()).into(),
        SandboxError::Contended(id()).into(),
        JobError::Paused.into(),
        JobError::Busy { holder: ReplicaId::new("broker-1") }.into(),
        JobError::GuardRefused("40 of 50 available sandboxes would become stale".to_owned()).into(),
        JobError::LeaseLost.into(),
        JobError::Csp(CspError::BreakerOpen { retry_in: Duration::from_secs(60) }).into(),
        ApiError::csp_error(&CspError::Unauthorized { status: 401 }),
        ApiError::no_such_actor("clean-up"),
        ApiError::new(StatusCode::CONFLICT, "WRONG_STATE", "a sandbox that is available cannot be released")
            .details(json!({ "status": "available" })),
    ]);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_in_the_source_is_documented_and_none_besides() {
        let sources =
            [include_str!("error.rs"), include_str!("auth.rs"), include_str!("headers.rs"), include_str!("admin.rs")];
        let is_code =
            |word: &&str| word.len() > 5 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let written: std::collections::BTreeSet<&str> =
            sources.iter().flat_map(|source| source.split('"')).filter(is_code).collect();
        let documented: std::collections::BTreeSet<&str> = ENDPOINTS.iter().flat_map(codes_of).collect();
        // Answered before a route is found, or by the framework itself.
        let unrouted =
            ["METHOD_NOT_ALLOWED", "REQUEST_TIMEOUT", "BAD_REQUEST", "HEAD_TOO_LARGE", "TOO_MANY_CONNECTIONS"];
        let missing: Vec<_> = written.difference(&documented).filter(|code| !unrouted.contains(code)).collect();
        assert!(missing.is_empty(), "not in the document: {missing:?}");
        let made_up: Vec<_> = documented.difference(&written).collect();
        assert!(made_up.is_empty(), "in no source: {made_up:?}");
    }
}
