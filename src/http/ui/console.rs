//! The operators' console: one page, its scripts and its style.

use std::sync::LazyLock;

use actix_web::web;
use serde::Deserialize;
use utoipa::IntoParams;

use super::assets::{Asset, AssetVersion, Bundle, Page, Source};
use crate::http::api::input::Query;
use crate::http::error::{ApiError, ErrorCode};

macro_rules! script {
    ($name:literal) => {
        Source::script($name, include_bytes!(concat!("console/", $name)))
    };
}

static CONSOLE: LazyLock<Bundle> = LazyLock::new(|| {
    let files = vec![
        Source::style("console.css", include_bytes!("console/console.css")),
        script!("actors.js"),
        script!("api.js"),
        script!("audit.js"),
        script!("chart.js"),
        script!("console.js"),
        script!("dialog.js"),
        script!("history.js"),
        script!("journal.js"),
        script!("labs.js"),
        script!("orders.js"),
        script!("overview.js"),
        script!("page.js"),
        script!("queue.js"),
        script!("route.js"),
        script!("sandbox.js"),
        script!("sandboxes.js"),
        script!("stream.js"),
    ];
    Bundle::new("/console", include_str!("console/index.html"), files)
});

pub(crate) async fn page() -> Page {
    Page::new(CONSOLE.html())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ConsoleAsset {
    /// The name of the file
    #[param(example = "console.css")]
    asset: String,
}

pub(crate) async fn asset(
    path: web::Path<ConsoleAsset>,
    Query(AssetVersion { v }): Query<AssetVersion>,
) -> Result<Asset, ApiError> {
    Ok(CONSOLE.asset(&path.asset, v.as_deref()).ok_or(ErrorCode::NotFound)?)
}
