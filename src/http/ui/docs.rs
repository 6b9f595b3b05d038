//! The OpenAPI document, and Swagger UI to read and try it.

use std::io::Read as _;
use std::sync::LazyLock;

use actix_web::body::BoxBody;
use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use flate2::read::GzDecoder;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::Type;

use super::assets::{Asset, AssetVersion, Bundle, Content, Page, Source};
use crate::http::api::input::Query;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{OperationParts, Output};

/// The OpenAPI document as JSON, made when it is first asked for.
pub(crate) struct Document(LazyLock<Content, Box<dyn FnOnce() -> Content + Send>>);

impl Document {
    pub(crate) fn new(make: fn() -> String) -> Self {
        Self(LazyLock::new(Box::new(move || Content::new("application/json", make().into_bytes()))))
    }
}

macro_rules! unpacked {
    ($name:literal) => {
        unpacked(include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")))
    };
}

/// The page with the files of Swagger UI, whose script alone has more than a megabyte.
static DOCS: LazyLock<Bundle> = LazyLock::new(|| {
    let files = vec![
        Source::style("swagger-ui.css", &unpacked!("swagger-ui.css")),
        Source::script("swagger-ui-bundle.js", &unpacked!("swagger-ui-bundle.js")),
        Source::script("start.js", include_bytes!("docs/start.js")),
    ];
    Bundle::new("/v1/docs", include_str!("docs/index.html"), files)
});

fn unpacked(compressed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(compressed).read_to_end(&mut bytes).expect("the build compressed them");
    bytes
}

/// The document, as an answer.
pub(crate) struct OpenApiJson(web::Data<Document>);

impl Responder for OpenApiJson {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        self.0.0.answer(request, false)
    }
}

impl Output for OpenApiJson {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["application/json"], Type::Object, "The document");
    }
}

pub(crate) async fn openapi(document: web::Data<Document>) -> OpenApiJson {
    OpenApiJson(document)
}

pub(crate) async fn page() -> Page {
    Page::with_inline_styles(DOCS.html())
}

/// Where the Python broker had its documentation.
pub(crate) async fn redoc() -> ToDocs {
    ToDocs
}

/// A redirect to the page.
pub(crate) struct ToDocs;

impl Responder for ToDocs {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::PermanentRedirect().insert_header((LOCATION, "/v1/docs")).finish()
    }
}

impl Output for ToDocs {
    fn document(parts: &mut OperationParts) {
        parts.answers_nothing(308, "`Location` is `/v1/docs`");
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct DocsAsset {
    /// The name of the file
    #[param(example = "swagger-ui.css")]
    asset: String,
}

pub(crate) async fn asset(
    path: web::Path<DocsAsset>,
    Query(AssetVersion { v }): Query<AssetVersion>,
) -> Result<Asset, ApiError> {
    Ok(DOCS.asset(&path.asset, v.as_deref()).ok_or(ErrorCode::NotFound)?)
}
