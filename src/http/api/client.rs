//! The client for the scripts of tracks, which the broker serves so that it is always of its own version.

use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, Responder};
use utoipa::openapi::schema::Type;

use crate::http::operation::{OperationParts, Output};

const CLIENT: &str = include_str!("../../../examples/instruqt/client.sh");

pub(crate) async fn client() -> Client {
    Client
}

/// The script.
pub(crate) struct Client;

impl Responder for Client {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().insert_header(ContentType::plaintext()).body(CLIENT)
    }
}

impl Output for Client {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["text/plain"], Type::String, "A bash script");
    }
}
