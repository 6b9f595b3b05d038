//! The simulated NIOSXaaS: every account has a service of tracks and one of another kind. The password of every user is
//! the simulator's token.

use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::{Tenant, number_of};

/// The name of the services of tracks.
const TRACK_SERVICE: &str = "Instrqt-SaaS";

#[derive(Deserialize)]
pub(super) struct SignIn {
    password: String,
}

pub(super) async fn sign_in(tenant: web::Data<Tenant>, body: web::Json<SignIn>) -> HttpResponse {
    tenant.state.lock().calls.push("sign_in".to_owned());
    let expected = tenant.token.expose_secret().as_bytes();
    if !bool::from(body.password.as_bytes().ct_eq(expected)) {
        return HttpResponse::Unauthorized().json(json!({ "detail": "wrong password" }));
    }
    let mut state = tenant.state.lock();
    state.session += 1;
    HttpResponse::Ok().json(json!({ "jwt": format!("session-{}", state.session) }))
}

#[derive(Deserialize)]
pub(super) struct Switch {
    id: String,
}

/// Only the last session counts, so that a test can end one.
pub(super) async fn switch(tenant: web::Data<Tenant>, request: HttpRequest, body: web::Json<Switch>) -> HttpResponse {
    let mut state = tenant.state.lock();
    state.calls.push(format!("switch {}", body.id));
    if bearer(&request) != Some(format!("session-{}", state.session).as_str()) {
        return HttpResponse::Unauthorized().json(json!({ "detail": "unknown session" }));
    }
    let Some(uuid) = body.id.strip_prefix("identity/accounts/") else {
        return HttpResponse::BadRequest().json(json!({ "detail": "no account" }));
    };
    HttpResponse::Ok().json(json!({ "jwt": format!("account-{uuid}") }))
}

pub(super) async fn list(tenant: web::Data<Tenant>, request: HttpRequest) -> HttpResponse {
    let mut state = tenant.state.lock();
    state.calls.push("services".to_owned());
    let Some(number) = account(&request) else {
        return HttpResponse::Unauthorized().json(json!({ "detail": "no account" }));
    };
    let services = [(format!("{number}-track"), TRACK_SERVICE), (format!("{number}-other"), "other")];
    let results: Vec<_> = services
        .iter()
        .filter(|(id, _)| !state.deleted_services.contains(id))
        .map(|(id, name)| json!({ "id": format!("infra/universal_service/{id}"), "name": name }))
        .collect();
    HttpResponse::Ok().json(json!({ "results": results }))
}

pub(super) async fn delete(tenant: web::Data<Tenant>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let mut state = tenant.state.lock();
    state.calls.push(format!("delete {id}"));
    let is_own = account(&request).is_some_and(|number| id.starts_with(&format!("{number}-")));
    if !is_own {
        return HttpResponse::Unauthorized().json(json!({ "detail": "another account" }));
    }
    if state.deleted_services.insert(id.into_inner()) {
        HttpResponse::NoContent().finish()
    } else {
        HttpResponse::NotFound().json(json!({ "detail": "no such service" }))
    }
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    request.headers().get("Authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The account of a session in it.
fn account(request: &HttpRequest) -> Option<u64> {
    number_of(bearer(request)?.strip_prefix("account-")?)
}

/// Whether the account has a service of tracks.
pub(super) fn has_track_service(deleted_services: &std::collections::BTreeSet<String>, number: u64) -> bool {
    !deleted_services.contains(&format!("{number}-track"))
}
