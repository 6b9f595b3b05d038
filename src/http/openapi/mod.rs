//! The OpenAPI document. Operations follow from the table of endpoints and from the types of their handlers, errors from
//! the table of error codes.

mod error_examples;

use std::collections::{BTreeMap, BTreeSet};

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, OperationBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Header, HttpMethod, OpenApi, Ref, RefOr, Response, ResponseBuilder, ResponsesBuilder};

use super::endpoint::{Endpoint, Method};
use super::error::{ErrorBody, ErrorCode, ErrorForm, RetryAfter};
use super::middleware::auth::Role;
use super::operation::{OperationParts, string_schema};
use super::routes::ENDPOINTS;

const TRACK_TOKEN: &str = "track_token";
const ADMIN_TOKEN: &str = "admin_token";

/// The request id in examples.
const REQUEST_ID: &str = "01a20a2b-5d3c-7d04-9f55-3c8e0a5f2f10";

/// Errors of the middleware, on every endpoint that is not public.
const ADMISSION: &[ErrorCode] =
    &[ErrorCode::Unauthorized, ErrorCode::Forbidden, ErrorCode::RateLimited, ErrorCode::InternalError];

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "sandbox-broker",
        description = "Leases pre-created cloud sandboxes; each goes to exactly one student's lab.\n\nEvery error has \
                       the form `Error`: its `code` is stable, its `message` says what to do. A request that was \
                       answered `503` may be repeated, with the same key, after `Retry-After` seconds. Times are \
                       seconds since the Unix epoch.\n\nEvery request may also be answered `404 NOT_FOUND` if there is \
                       no such route, `405 METHOD_NOT_ALLOWED` with `Allow`, `400 BAD_REQUEST` if it is not valid \
                       HTTP, `408 REQUEST_TIMEOUT` if it arrives too slowly, `431 HEAD_TOO_LARGE` if its head is \
                       larger than 16 KiB, and `503 TOO_MANY_CONNECTIONS`. Every answer has the usual security headers \
                       (`X-Content-Type-Options`, `Content-Security-Policy`, `Strict-Transport-Security`, \
                       `Referrer-Policy`) and `Cache-Control: no-store`, except for files of pages. Wherever there is `GET`, there is \
                       `HEAD`; every path may end in a slash. A path that is not in its canonical form is answered `404`. \
                       A W3C `traceparent` header makes a request \
                       part of the caller's trace.",
    ),
    tags(
        (name = "Sandboxes", description = "For lab tracks: allocate, read, renew, give back"),
        (name = "Admin", description = "For operators: counts, lists, jobs, actors"),
        (name = "Observability", description = "For probes, scrapers and browsers; open to everyone"),
    ),
    components(schemas(ErrorBody)),
)]
struct Frame;

/// The document.
pub(super) fn document() -> OpenApi {
    let mut document = <Frame as utoipa::OpenApi>::openapi();
    let mut components = document.components.take().unwrap_or_default();
    for (name, setting) in [
        (TRACK_TOKEN, "BROKER_API_TOKEN, or one named in BROKER_TRACK_TOKENS"),
        (ADMIN_TOKEN, "BROKER_ADMIN_TOKEN; to read, also in BROKER_VIEWER_TOKEN"),
    ] {
        let description = format!("One of the tokens in the setting {setting}");
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    for endpoint in ENDPOINTS {
        let mut parts = endpoint.parts();
        components.schemas.extend(std::mem::take(&mut parts.schemas));
        let method = match endpoint.method {
            Method::Get => HttpMethod::Get,
            Method::Post => HttpMethod::Post,
            Method::Delete => HttpMethod::Delete,
        };
        document.paths.add_path_operation(endpoint.path, vec![method], operation(endpoint, parts));
    }
    document.components = Some(components);
    document
}

/// The operation: what its handler documents, and what follows from the table.
fn operation(endpoint: &Endpoint, mut parts: OperationParts) -> Operation {
    let description = "An id for this request in the broker's log: 1 to 128 letters, digits, dots, dashes and \
                       underscores. Any other value is replaced by a new id";
    parts.header("X-Request-ID", description, string_schema());
    parts.parameters.sort_by_key(|parameter| match parameter.parameter_in {
        ParameterIn::Path => 0,
        ParameterIn::Query => 1,
        _ => 2,
    });
    for (status, response) in &mut parts.responses {
        if (200..300).contains(status) {
            add_example(response, endpoint);
        }
    }
    let (tag, scheme) = match endpoint.role {
        Role::Probe | Role::Public => ("Observability", None),
        Role::Track => ("Sandboxes", Some(TRACK_TOKEN)),
        Role::Admin => ("Admin", Some(ADMIN_TOKEN)),
    };
    parts.errors.extend(endpoint.errors.concat());
    if endpoint.role.needs_token() {
        parts.errors.extend(ADMISSION);
    }
    if endpoint.role == Role::Public {
        parts.errors.insert(ErrorCode::RateLimited);
    }
    if endpoint.method != Method::Get {
        parts.errors.insert(ErrorCode::BodyTooLarge);
    }
    parts.responses.extend(error_responses(&parts.errors));
    let responses = parts.responses.into_iter().fold(ResponsesBuilder::new(), |responses, (status, mut response)| {
        add_headers(&mut response, endpoint.role);
        responses.response(status.to_string(), response)
    });
    OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(endpoint.operation_id()))
        .summary(Some(endpoint.summary))
        .description(Some(endpoint.description).filter(|text| !text.is_empty()))
        .parameters(Some(parts.parameters))
        .request_body(parts.request_body)
        .responses(responses.build())
        .securities(scheme.map(|scheme| [SecurityRequirement::new(scheme, Vec::<String>::new())]))
        .build()
}

fn add_example(response: &mut Response, endpoint: &Endpoint) {
    for content in response.content.values_mut() {
        if let (RefOr::T(content), Some(example)) = (content, endpoint.example) {
            content.example = Some(example());
        }
    }
}

/// The headers of every answer.
fn add_headers(response: &mut Response, role: Role) {
    let mut add = |name: &str, schema, description| {
        response.headers.insert(name.to_owned(), header(schema, description).into());
    };
    add("X-Request-ID", string_schema(), "The request's id: the caller's, or a new one");
    if role != Role::Probe {
        add("X-RateLimit-Limit", count(), "Requests that may come at once; absent where the limit is off");
        add("X-RateLimit-Remaining", count(), "The number of these that are left");
        add("X-RateLimit-Reset", count(), "Seconds until all of them are back");
    }
}

/// One response for each status of these errors.
fn error_responses(errors: &BTreeSet<ErrorCode>) -> BTreeMap<u16, Response> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in errors {
        by_status.entry(code.status().as_u16()).or_default().push(*code);
    }
    by_status.into_iter().map(|(status, codes)| (status, error_response(&codes))).collect()
}

fn error_response(codes: &[ErrorCode]) -> Response {
    let examples = codes.iter().map(|code| {
        let body = serde_json::to_value(error_examples::of(*code).body(REQUEST_ID, ErrorForm::default())).ok();
        (code.as_str(), ExampleBuilder::new().value(body).build())
    });
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error"))).examples_from_iter(examples);
    let description = codes.iter().map(|code| format!("`{}`", code.as_str())).collect::<Vec<_>>().join(", ");
    let mut response = ResponseBuilder::new().description(description).content("application/json", content.build());
    if codes.iter().any(|code| code.retry_after() != RetryAfter::Never) {
        response = response.header("Retry-After", header(count(), "Seconds to wait before another attempt"));
    }
    if codes.contains(&ErrorCode::Unauthorized) {
        response = response.header("WWW-Authenticate", header(string_schema(), "The scheme, `Bearer`"));
    }
    response.build()
}

fn header(schema: Schema, description: &str) -> Header {
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

fn count() -> Schema {
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).minimum(Some(0)).build().into()
}
