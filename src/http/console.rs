//! The operators' console: one page, its script and its style.

use actix_web::{HttpResponse, web};

use super::assets::{self, Asset};
use super::openapi::OBSERVABILITY;

macro_rules! script {
    ($name:literal) => {
        Asset {
            name: $name,
            content_type: "text/javascript; charset=utf-8",
            bytes: include_bytes!(concat!("console/", $name)),
        }
    };
}

const ASSETS: &[Asset] = &[
    Asset {
        name: "console.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("console/console.css"),
    },
    script!("actors.js"),
    script!("api.js"),
    script!("chart.js"),
    script!("console.js"),
    script!("dialog.js"),
    script!("journal.js"),
    script!("overview.js"),
    script!("page.js"),
    script!("sandboxes.js"),
    script!("stream.js"),
];

/// The operators' console
///
/// The page itself is open; it asks for an admin token and sends that with each of its calls.
#[utoipa::path(
    get,
    path = "/console",
    tag = OBSERVABILITY,
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(super) async fn page() -> HttpResponse {
    assets::page(include_str!("console/index.html"))
}

/// What the console's page is made of
#[utoipa::path(
    get,
    path = "/console/{asset}",
    operation_id = "console_asset",
    tag = OBSERVABILITY,
    params(("asset" = String, Path, description = "A file's name", example = "console.css")),
    responses((status = 200, description = "The file", content((String = "text/css"), (String = "text/javascript"))))
)]
pub(super) async fn asset(name: web::Path<String>) -> HttpResponse {
    assets::serve(ASSETS, &name)
}
