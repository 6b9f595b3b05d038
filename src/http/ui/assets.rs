//! Files of the program for browsers: pages, scripts, styles. Their content policies allow no other host.

use actix_web::body::BoxBody;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, Responder};
use utoipa::openapi::schema::Type;

use crate::http::operation::{OperationParts, Output};

/// A script or a style sheet.
#[derive(Clone)]
pub(crate) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: Bytes,
}

impl Asset {
    pub(super) const fn style(name: &'static str, bytes: &'static [u8]) -> Self {
        Self { name, content_type: "text/css; charset=utf-8", bytes: Bytes::from_static(bytes) }
    }

    pub(super) const fn script(name: &'static str, bytes: &'static [u8]) -> Self {
        Self { name, content_type: "text/javascript; charset=utf-8", bytes: Bytes::from_static(bytes) }
    }
}

impl Responder for Asset {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().content_type(self.content_type).body(self.bytes)
    }
}

impl Output for Asset {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["text/css", "text/javascript"], Type::String, "The file");
    }
}

/// Scripts, styles and calls of this host only; no frames, no forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for a page that sets styles on its elements.
const POLICY_INLINE_STYLES: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page.
pub(crate) struct Page {
    html: &'static str,
    policy: &'static str,
}

impl Page {
    pub(crate) fn new(html: &'static str) -> Self {
        Self { html, policy: POLICY }
    }

    /// A page that sets styles on its elements.
    pub(super) fn with_inline_styles(html: &'static str) -> Self {
        Self { html, policy: POLICY_INLINE_STYLES }
    }
}

impl Responder for Page {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header(("content-security-policy", self.policy))
            .body(self.html)
    }
}

impl Output for Page {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["text/html"], Type::String, "The page");
    }
}
