//! The OpenAPI document, and Swagger UI to read and try it.

use std::sync::{Arc, LazyLock};

use actix_web::web::Bytes;
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

/// Of Swagger UI's files, those that the page uses: name, content type, bytes. Unpacked once and shared by all answers;
/// the script alone is more than a megabyte.
static SWAGGER_UI: LazyLock<Vec<(&str, String, Bytes)>> = LazyLock::new(|| {
    let config = Arc::new(Config::from("/v1/openapi.json"));
    let unpacked = ["swagger-ui.css", "swagger-ui-bundle.js"].map(|name| {
        let file = utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten()?;
        Some((name, file.content_type, Bytes::from(file.bytes.into_owned())))
    });
    unpacked.into_iter().flatten().collect()
});

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
    match SWAGGER_UI.iter().find(|(of, _, _)| *of == name) {
        Some((_, content_type, bytes)) => HttpResponse::Ok().content_type(content_type.as_str()).body(bytes.clone()),
        None => assets::serve(OWN, &name),
    }
}
