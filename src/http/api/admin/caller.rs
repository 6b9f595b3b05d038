//! Who calls the admin API.

use actix_web::{HttpRequest, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::tokens::TokenRole;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::middleware::auth;

/// The token of the caller
#[derive(Serialize, ToSchema)]
pub(crate) struct Caller {
    /// The name of the token in logs, journal and metrics
    token: String,
    /// `admin`, or `viewer` for a token that only reads
    role: &'static str,
}

impl Caller {
    pub(crate) fn example() -> Self {
        Self { token: "admin".to_owned(), role: "admin" }
    }
}

pub(crate) async fn whoami(request: HttpRequest) -> Result<web::Json<Caller>, ApiError> {
    let caller = auth::caller(&request).ok_or(ErrorCode::Unauthorized)?;
    let role = match caller.role() {
        TokenRole::Admin => "admin",
        TokenRole::Viewer => "viewer",
        TokenRole::Track => "track",
    };
    Ok(web::Json(Caller { token: caller.name().to_owned(), role }))
}
