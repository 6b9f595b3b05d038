//! Handlers that document themselves: the OpenAPI document is made of the types that a handler takes and returns.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{FromRequest, HttpRequest, Responder, Route, web};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ErrorCode};

/// A handler, as a row of the table of endpoints holds it.
pub(super) struct Handler {
    /// Serves requests; the row adds the method.
    pub(super) route: Route,
    /// Documents what the handler takes and returns.
    pub(super) document: fn(&mut OperationParts),
}

/// Makes a row's handler of a function.
pub(super) fn handler<F, Args>(handler: F) -> Handler
where
    F: actix_web::Handler<Args>,
    F::Output: Output + 'static,
    Args: Input + 'static,
{
    let document = |parts: &mut OperationParts| {
        Args::document(parts);
        F::Output::document(parts);
    };
    Handler { route: web::to(handler), document }
}

/// What a handler takes from a request.
pub(super) trait Input: FromRequest {
    /// Documents its parameters or body, and the errors of a request where they are not as documented.
    fn document(parts: &mut OperationParts);
}

/// What a handler returns.
pub(super) trait Output: Responder {
    /// Documents its answers, without the errors.
    fn document(parts: &mut OperationParts);
}

/// The parts of an operation that follow from its handler.
#[derive(Default)]
pub(super) struct OperationParts {
    pub(super) parameters: Vec<Parameter>,
    pub(super) request_body: Option<RequestBody>,
    pub(super) responses: BTreeMap<u16, Response>,
    pub(super) errors: BTreeSet<ErrorCode>,
    /// The schemas that the other parts refer to, by name.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

impl OperationParts {
    /// Adds a parameter. One in the path is required, any other is optional.
    pub(super) fn parameter(
        &mut self,
        place: ParameterIn,
        name: &str,
        description: &str,
        schema: Schema,
        example: Option<&str>,
    ) {
        let required = if place == ParameterIn::Path { Required::True } else { Required::False };
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(required)
            .description(Some(description))
            .schema(Some(schema))
            .example(example.map(Value::from));
        self.parameters.push(parameter.build());
    }

    /// Adds a header.
    pub(super) fn header(&mut self, name: &str, description: &str, schema: Schema) {
        self.parameter(ParameterIn::Header, name, description, schema, None);
    }

    /// Adds a JSON body.
    pub(super) fn takes_json<T: ToSchema>(&mut self) {
        let schema = self.schema::<T>(T::name().into_owned());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
        self.request_body = Some(body.build());
    }

    /// Adds an answer with JSON.
    pub(super) fn answers_json<T: ToSchema>(&mut self, status: u16, description: &str) {
        self.answers_json_named::<T>(status, description, T::name().into_owned(), None);
    }

    /// The same with another name for the schema, or an example that belongs to this status alone.
    pub(super) fn answers_json_named<T: ToSchema>(
        &mut self,
        status: u16,
        description: &str,
        name: String,
        example: Option<Value>,
    ) {
        let schema = self.schema::<T>(name);
        let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
        let response = ResponseBuilder::new().description(description).content("application/json", content);
        self.responses.insert(status, response.build());
    }

    /// Adds a 200 with content of one of these types.
    pub(super) fn answers_content(&mut self, content_types: &[&str], schema: Type, description: &str) {
        let schema = ObjectBuilder::new().schema_type(schema).build();
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(description);
        let response = content_types.iter().fold(response, |response, kind| response.content(*kind, content.clone()));
        self.responses.insert(200, response.build());
    }

    /// Adds an answer without a body.
    pub(super) fn answers_nothing(&mut self, status: u16, description: &str) {
        self.responses.insert(status, ResponseBuilder::new().description(description).build());
    }

    /// Adds a schema that only texts refer to.
    pub(super) fn mentions<T: ToSchema>(&mut self) {
        self.schema::<T>(T::name().into_owned());
    }

    /// A reference to the schema of `T`, which is added under this name.
    fn schema<T: ToSchema>(&mut self, name: String) -> Ref {
        self.schemas.push((name.clone(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(name)
    }
}

pub(super) fn string_schema() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).build().into()
}

/// The description that a schema has from its type's documentation.
fn description_of<T: ToSchema>() -> String {
    let description = match T::schema() {
        RefOr::T(Schema::Object(object)) => object.description,
        RefOr::T(Schema::AllOf(all)) => all.description,
        _ => None,
    };
    description.unwrap_or_else(|| T::name().into_owned())
}

impl Input for HttpRequest {
    fn document(_: &mut OperationParts) {}
}

impl<T: ?Sized + 'static> Input for web::Data<T> {
    fn document(_: &mut OperationParts) {}
}

impl<T: DeserializeOwned + IntoParams + 'static> Input for web::Path<T> {
    fn document(parts: &mut OperationParts) {
        parts.parameters.extend(T::into_params(|| Some(ParameterIn::Path)));
    }
}

macro_rules! tuple_inputs {
    ($($($part:ident)*;)*) => {$(
        impl<$($part: Input + 'static),*> Input for ($($part,)*) {
            fn document(_parts: &mut OperationParts) {
                $($part::document(_parts);)*
            }
        }
    )*};
}

tuple_inputs! {
    ;
    A;
    A B;
    A B C;
    A B C D;
}

impl<T: Serialize + ToSchema> Output for web::Json<T> {
    fn document(parts: &mut OperationParts) {
        parts.answers_json::<T>(200, &description_of::<T>());
    }
}

impl<T: Output> Output for Result<T, ApiError> {
    fn document(parts: &mut OperationParts) {
        T::document(parts);
    }
}
