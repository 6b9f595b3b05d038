//! What handlers take from the path and from the query of a request.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use broker_actors::actor::ActorName;
use broker_actors::sandbox::SandboxId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use utoipa::IntoParams;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{Input, OperationParts, string_schema};
use crate::http::request_context::RequestContext;

/// The longest identifier: a sandbox's id, a track's id, a key.
pub(super) const MAX_ID_LENGTH: usize = 256;

/// Something that is parsed from the head of a request: its path, query and headers.
pub(super) trait FromHead: Sized + 'static {
    /// Parses it, and adds to the request's context.
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError>;

    /// Documents the parameters, and the errors of a request where they are not as documented.
    fn document(parts: &mut OperationParts);
}

/// Takes `T` from the head of a request.
pub(crate) struct Head<T>(pub(super) T);

impl<T: FromHead> FromRequest for Head<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(T::from_head(request).map(Self))
    }
}

impl<T: FromHead> Input for Head<T> {
    fn document(parts: &mut OperationParts) {
        T::document(parts);
    }
}

/// Takes `T` from the query. An unknown parameter is an error, because it is most likely a typing error.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest for Query<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = web::Query::<T>::from_query(request.query_string());
        ready(match query {
            Ok(query) => Ok(Self(query.into_inner())),
            Err(error) => Err(ApiError::new(ErrorCode::BadQuery, error.to_string())),
        })
    }
}

impl<T: DeserializeOwned + IntoParams + 'static> Input for Query<T> {
    fn document(parts: &mut OperationParts) {
        parts.parameters.extend(T::into_params(|| Some(ParameterIn::Query)));
        parts.errors.insert(ErrorCode::BadQuery);
    }
}

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;

/// The size of a page of a listing.
pub(super) fn page_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::new(ErrorCode::BadQuery, format!("limit takes a number from 1 to {MAX_PAGE}")))
}

/// The query of an endpoint that takes no parameters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParameters {}

/// The sandbox's id in a path.
pub(crate) struct SandboxPath(pub(super) SandboxId);

impl SandboxPath {
    /// Reads the id without adding it to the request's context.
    pub(super) fn read(request: &HttpRequest) -> Result<SandboxId, ApiError> {
        let id: String = request.match_info().load().map_err(|_| ErrorCode::NotFound)?;
        if is_id(id.as_bytes()) { Ok(SandboxId::new(id)) } else { Err(ErrorCode::BadSandboxId.into()) }
    }
}

impl FromHead for SandboxPath {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let id = Self::read(request)?;
        RequestContext::add(request, |context| context.sandbox_id = Some(id.to_string()));
        Ok(Self(id))
    }

    fn document(parts: &mut OperationParts) {
        let description = "The sandbox's id, as the allocation returned it";
        parts.parameter(ParameterIn::Path, "id", description, id_schema(), Some("2000013"));
        parts.errors.insert(ErrorCode::BadSandboxId);
    }
}

/// The actor's name in a path.
pub(crate) struct ActorPath(pub(super) ActorName);

impl FromHead for ActorPath {
    fn from_head(request: &HttpRequest) -> Result<Self, ApiError> {
        let name: String = request.match_info().load().map_err(|_| ErrorCode::NotFound)?;
        let actor = ActorName::from_name(&name).ok_or_else(|| no_such_actor(&name))?;
        Ok(Self(actor))
    }

    fn document(parts: &mut OperationParts) {
        let names: Vec<String> = ActorName::ALL.iter().map(|name| format!("`{name}`")).collect();
        let description = format!("One of {}", names.join(", "));
        parts.parameter(ParameterIn::Path, "name", &description, string_schema(), Some("cleanup"));
        parts.errors.insert(ErrorCode::ActorNotFound);
    }
}

/// The error for a name that no actor has.
pub(crate) fn no_such_actor(name: &str) -> ApiError {
    let names: Vec<&str> = ActorName::ALL.iter().map(|name| name.as_str()).collect();
    ApiError::new(ErrorCode::ActorNotFound, format!("no actor has the name `{name}`"))
        .details(json!({ "actors": names }))
}

/// Whether this is 1 to 256 visible ASCII characters.
pub(super) fn is_id(value: &[u8]) -> bool {
    (1..=MAX_ID_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// The schema of what [`is_id`] accepts.
pub(super) fn id_schema() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(MAX_ID_LENGTH));
    object.pattern(Some("^[!-~]+$")).build().into()
}
