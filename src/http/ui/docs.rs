//! The OpenAPI document, and Swagger UI to read and try it.

use std::io::Read;
use std::sync::LazyLock;

use actix_web::body::BoxBody;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse, Responder};
use flate2::read::GzDecoder;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::Type;

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

macro_rules! compressed {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"))
    };
}

/// The files of Swagger UI that the page uses, unpacked when they are first asked for.
static SWAGGER_UI: LazyLock<[Asset; 2]> = LazyLock::new(|| {
    [
        Asset { name: "swagger-ui.css", content_type: "text/css", bytes: unpacked(compressed!("swagger-ui.css")) },
        Asset {
            name: "swagger-ui-bundle.js",
            content_type: "text/javascript",
            bytes: unpacked(compressed!("swagger-ui-bundle.js")),
        },
    ]
});

fn unpacked(compressed: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    GzDecoder::new(compressed).read_to_end(&mut bytes).expect("the build compressed them");
    Bytes::from(bytes)
}

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
