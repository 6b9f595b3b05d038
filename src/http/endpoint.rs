//! What a row of the table of endpoints says.

use std::fmt;

use serde_json::Value;

use super::error::ErrorCode;
use super::middleware::auth::Role::{self, Admin, Probe};
use super::operation::{Handler, OperationParts};

/// A method of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads.
    Get,
    /// Changes something.
    Post,
    /// Gives something back.
    Delete,
}

impl Method {
    /// The method as HTTP writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl From<Method> for actix_web::http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Post => Self::POST,
            Method::Delete => Self::DELETE,
        }
    }
}

/// What is served on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// Everything.
    All,
    /// What is not for operators alone.
    Public,
    /// What is for operators, and probes.
    Operators,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// The path, with `{placeholders}`.
    pub path: &'static str,
    /// The name in the log and in the operators' journal.
    pub action: &'static str,
    /// Who may call it.
    pub role: Role,
    /// Whether each request gets an entry in the operators' journal.
    pub(super) audited: bool,
    operation_id: Option<&'static str>,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// The errors that the handler answers, beyond those of its inputs and of the middleware.
    pub(super) errors: &'static [&'static [ErrorCode]],
    /// A success, for the OpenAPI document.
    pub(super) example: Option<fn() -> Value>,
    pub(super) handler: fn() -> Handler,
}

impl Endpoint {
    const fn new(
        method: Method,
        path: &'static str,
        action: &'static str,
        role: Role,
        handler: fn() -> Handler,
    ) -> Self {
        Self {
            method,
            path,
            action,
            role,
            audited: false,
            operation_id: None,
            summary: "",
            description: "",
            errors: &[],
            example: None,
            handler,
        }
    }

    pub(super) const fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    pub(super) const fn description(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    pub(super) const fn errors(self, errors: &'static [&'static [ErrorCode]]) -> Self {
        Self { errors, ..self }
    }

    pub(super) const fn example(self, example: fn() -> Value) -> Self {
        Self { example: Some(example), ..self }
    }

    pub(super) const fn audited(self) -> Self {
        Self { audited: true, ..self }
    }

    /// Sets an operation id that is not the action.
    pub(super) const fn identified_as(self, operation_id: &'static str) -> Self {
        Self { operation_id: Some(operation_id), ..self }
    }

    /// Whether it is for operators alone. With a port of their own these are served there only.
    fn is_for_operators(&self) -> bool {
        self.role == Admin || self.path == "/metrics" || self.path == "/console" || self.path.starts_with("/console/")
    }

    pub(super) fn is_on(&self, surface: Surface) -> bool {
        match surface {
            Surface::All => true,
            Surface::Public => !self.is_for_operators(),
            Surface::Operators => self.is_for_operators() || self.role == Probe,
        }
    }

    /// What the handler documents.
    pub(super) fn parts(&self) -> OperationParts {
        let mut parts = OperationParts::default();
        ((self.handler)().document)(&mut parts);
        parts
    }

    /// The operation's id in the OpenAPI document.
    pub(super) fn operation_id(&self) -> String {
        self.operation_id.map_or_else(|| self.action.replace('-', "_"), str::to_owned)
    }
}

pub(super) const fn get(path: &'static str, action: &'static str, role: Role, handler: fn() -> Handler) -> Endpoint {
    Endpoint::new(Method::Get, path, action, role, handler)
}

pub(super) const fn post(path: &'static str, action: &'static str, role: Role, handler: fn() -> Handler) -> Endpoint {
    Endpoint::new(Method::Post, path, action, role, handler)
}

pub(super) const fn delete(path: &'static str, action: &'static str, role: Role, handler: fn() -> Handler) -> Endpoint {
    Endpoint::new(Method::Delete, path, action, role, handler)
}
