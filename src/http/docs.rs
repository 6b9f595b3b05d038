//! The OpenAPI document, and Swagger UI to read and try it.

use std::sync::{Arc, LazyLock};

use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::Config;

use super::assets::{self, Asset};
use super::openapi::{self, OBSERVABILITY};

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| openapi::document().to_pretty_json().expect("the document holds nothing that JSON cannot"));

const OWN: &[Asset] = &[Asset {
    name: "start.js",
    content_type: "text/javascript; charset=utf-8",
    bytes: include_bytes!("docs/start.js"),
}];

/// Of Swagger UI's files, those that the page uses.
const SWAGGER_UI: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

/// This API as an OpenAPI 3.1 document
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    operation_id = "openapi",
    tag = OBSERVABILITY,
    responses((status = 200, description = "The document", body = Object))
)]
pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT.as_str())
}

/// This API, to read and to try
#[utoipa::path(
    get,
    path = "/v1/docs",
    operation_id = "docs",
    tag = OBSERVABILITY,
    responses((status = 200, description = "Swagger UI", body = String, content_type = "text/html"))
)]
pub(super) async fn page() -> HttpResponse {
    assets::page_with_inline_styles(include_str!("docs/index.html"))
}

/// What Swagger UI is made of
#[utoipa::path(
    get,
    path = "/v1/docs/{asset}",
    operation_id = "docs_asset",
    tag = OBSERVABILITY,
    params(("asset" = String, Path, description = "A file's name", example = "swagger-ui.css")),
    responses((status = 200, description = "The file", content((String = "text/css"), (String = "text/javascript"))))
)]
pub(super) async fn asset(name: web::Path<String>) -> HttpResponse {
    let name = name.into_inner();
    if !SWAGGER_UI.contains(&name.as_str()) {
        return assets::serve(OWN, &name);
    }
    match utoipa_swagger_ui::serve(&name, Arc::new(Config::from("/v1/openapi.json"))) {
        Ok(Some(file)) => HttpResponse::Ok().content_type(file.content_type).body(file.bytes.into_owned()),
        Ok(None) | Err(_) => HttpResponse::InternalServerError().finish(),
    }
}
