//! The OpenAPI document, and Swagger UI to read and try it.

use std::sync::{Arc, LazyLock};

use actix_web::body::BoxBody;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse, Responder};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::Type;
use utoipa_swagger_ui::Config;

use super::assets::{Asset, Page};
use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{OperationParts, Output};

/// The OpenAPI document as JSON, made when it is first asked for.
pub(crate) struct Document(LazyLock<Bytes>);

impl Document {
    pub(crate) const fn new(make: fn() -> Bytes) -> Self {
        Self(LazyLock::new(make))
    }
}

static START: Asset = Asset::script("start.js", include_bytes!("docs/start.js"));

/// The files of Swagger UI that the page uses. Unpacked once and shared by all answers: the script alone has more than a
/// megabyte.
static SWAGGER_UI: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let config = Arc::new(Config::from("/v1/openapi.json"));
    let unpacked = ["swagger-ui.css", "swagger-ui-bundle.js"].map(|name| {
        let file = utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten()?;
        let content_type = if name.ends_with(".css") { "text/css" } else { "text/javascript" };
        Some(Asset { name, content_type, bytes: Bytes::from(file.bytes.into_owned()) })
    });
    unpacked.into_iter().flatten().collect()
});

/// The document, as an answer.
pub(crate) struct OpenApiJson(Bytes);

impl Responder for OpenApiJson {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().content_type("application/json").body(self.0)
    }
}

impl Output for OpenApiJson {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["application/json"], Type::Object, "The document");
    }
}

pub(crate) async fn openapi(document: web::Data<Document>) -> OpenApiJson {
    OpenApiJson(document.0.clone())
}

pub(crate) async fn page() -> Page {
    Page::with_inline_styles(include_str!("docs/index.html"))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct DocsAsset {
    /// The name of the file
    #[param(example = "swagger-ui.css")]
    asset: String,
}

pub(crate) async fn asset(path: web::Path<DocsAsset>) -> Result<Asset, ApiError> {
    let asset = SWAGGER_UI.iter().chain([&START]).find(|asset| asset.name == path.asset);
    Ok(asset.ok_or(ErrorCode::NotFound)?.clone())
}
