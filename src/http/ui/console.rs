//! The operators' console: one page, its scripts and its style.

use actix_web::web;
use serde::Deserialize;
use utoipa::IntoParams;

use super::assets::{Asset, Page};
use crate::http::error::{ApiError, ErrorCode};

macro_rules! script {
    ($name:literal) => {
        Asset::script($name, include_bytes!(concat!("console/", $name)))
    };
}

static ASSETS: [Asset; 15] = [
    Asset::style("console.css", include_bytes!("console/console.css")),
    script!("actors.js"),
    script!("api.js"),
    script!("audit.js"),
    script!("chart.js"),
    script!("console.js"),
    script!("dialog.js"),
    script!("history.js"),
    script!("journal.js"),
    script!("overview.js"),
    script!("page.js"),
    script!("route.js"),
    script!("sandbox.js"),
    script!("sandboxes.js"),
    script!("stream.js"),
];

pub(crate) async fn page() -> Page {
    Page::new(include_str!("console/index.html"))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ConsoleAsset {
    /// The name of the file
    #[param(example = "console.css")]
    asset: String,
}

pub(crate) async fn asset(path: web::Path<ConsoleAsset>) -> Result<Asset, ApiError> {
    let asset = ASSETS.iter().find(|asset| asset.name == path.asset);
    Ok(asset.ok_or(ErrorCode::NotFound)?.clone())
}
