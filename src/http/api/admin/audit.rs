//! The record of operators' orders.

use actix_web::web;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::audit::{AuditFilter, AuditLog};
use crate::http::api::body::AuditPage;
use crate::http::api::input::{Query, page_limit};
use crate::http::error::ApiError;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// The largest number of orders on a page; 50 if it is not given
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// Where the page starts: the `cursor` of the page before
    cursor: Option<String>,
    /// Only orders of operators whose name contains this, in upper or lower case
    by: Option<String>,
    /// Only orders of this kind, such as `pause` or `force-release`
    action: Option<String>,
    /// Only orders about this sandbox or actor
    target: Option<String>,
}

pub(crate) async fn audit(
    log: web::Data<AuditLog>,
    Query(query): Query<AuditQuery>,
) -> Result<web::Json<AuditPage>, ApiError> {
    let limit = page_limit(query.limit)?;
    let filter = AuditFilter { by: query.by, action: query.action, target: query.target };
    Ok(web::Json(log.list(&filter, limit as usize, query.cursor.as_deref()).await?.into()))
}
