//! A simulated CSP over real HTTP, for trials and tests.
//!
//! It answers the CSP's two calls. Its sandboxes are named `lab-00001` and on, and a new one replaces each one that is
//! deleted, as the real CSP does. It also answers:
//!
//! - `GET`, `PUT` and `DELETE /sim/faults`: the active faults ([`Faults`]). A `PUT` turns off what it omits. Both changes
//!   need the CSP's token.
//! - `GET /sim/stats`: the number of listings, and of deletions by account; the services of accounts that were deleted, and
//!   those that were left behind; the accounts that a false answer called deleted.
//! - the calls of NIOSXaaS, with services that every account has.
//!
//! A file can keep its state, so that a deleted account stays deleted over a restart.

mod niosxaas;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;

/// The `csp_id` of an account is its number plus this.
const FIRST_CSP_ID: u64 = 2_000_000;

/// The most calls of which the order is kept.
const MAX_CALLS: usize = 10_000;

/// How long a call hangs, which is longer than any client waits.
const HANG: Duration = Duration::from_secs(600);

/// The settings of a simulator.
#[derive(Clone, Debug)]
pub struct SimulatorSettings {
    /// Where it listens. Port 0 picks a free one.
    pub address: SocketAddr,
    /// The number of sandboxes that it keeps.
    pub sandboxes: u64,
    /// The token that callers must send.
    pub token: SecretString,
    /// The file that keeps its state. `None` keeps it in memory.
    pub state_file: Option<PathBuf>,
}

/// The faults that are active.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The least duration of a call, in milliseconds.
    pub latency_ms: u64,
    /// The share of calls that fail with `error_status`, from 0 to 1.
    pub error_rate: f64,
    /// The status of these failures. The default is 503.
    pub error_status: Option<u16>,
    /// The `Retry-After` of these failures, in seconds.
    pub retry_after: Option<u64>,
    /// True if calls get no answer.
    pub hang: bool,
    /// True if the listing is not valid JSON.
    pub malformed_body: bool,
    /// True if the listing is empty.
    pub empty_listing: bool,
    /// Accounts that are missing from the listing, by `csp_id`.
    pub missing: BTreeSet<u64>,
    /// Accounts whose deletion fails with 500, by `csp_id`.
    pub undeletable: BTreeSet<u64>,
    /// Accounts whose deletion is refused with 403, by `csp_id`.
    pub forbidden: BTreeSet<u64>,
    /// The answer to every other deletion; the account stays.
    pub deletion: Option<FalseAnswer>,
    /// Accounts whose record has no readable `csp_id`, by `csp_id`.
    pub unreadable: BTreeSet<u64>,
    /// Accounts that are listed under another `csp_id`, by `csp_id`.
    pub renumbered: BTreeSet<u64>,
    /// The largest number of records on a page of the listing. 0 is all.
    pub page_size: usize,
    /// True if every page but the first fails with 500.
    pub failing_pages: bool,
}

/// An answer to a deletion that deletes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FalseAnswer {
    /// 204.
    Deleted,
    /// 202.
    Accepted,
    /// 404 from the API.
    NotFound,
    /// 404 from a gateway.
    NoBackend,
}

/// A renumbered account's `csp_id` is its own plus this.
const RENUMBERED: u64 = 5_000_000;

/// A simulator that has its port.
pub struct Simulator {
    address: SocketAddr,
    server: Server,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Accounts {
    /// The numbers of the accounts that exist.
    present: BTreeSet<u64>,
    /// The highest number that was ever used. A deleted number is not used again.
    last: u64,
}

#[derive(Debug, Default)]
struct State {
    accounts: Accounts,
    faults: Faults,
    /// Number of listings.
    lists: u64,
    /// Number of deletions by `csp_id`.
    deletes: BTreeMap<u64, u64>,
    /// The calls of NIOSXaaS and the deletions of accounts, in their order.
    calls: Vec<String>,
    /// The number of the valid session at NIOSXaaS.
    session: u64,
    deleted_services: BTreeSet<String>,
    /// Accounts that were deleted while they had a service of tracks.
    orphaned_services: u64,
    /// Accounts that an answer called deleted while they existed, by `csp_id`.
    falsely_deleted: BTreeSet<u64>,
}

struct Tenant {
    state: Mutex<State>,
    token: SecretString,
    state_file: Option<PathBuf>,
}

impl Simulator {
    /// Binds the port. Requests are served once [`Self::run`] is awaited.
    ///
    /// # Errors
    ///
    /// If the port is taken, or the state file cannot be read or written.
    pub fn bind(settings: SimulatorSettings) -> io::Result<Self> {
        let mut accounts = match &settings.state_file {
            Some(path) if path.exists() => serde_json::from_slice(&std::fs::read(path)?)?,
            _ => Accounts::default(),
        };
        while (accounts.present.len() as u64) < settings.sandboxes {
            accounts.add_next();
        }
        let tenant = web::Data::new(Tenant {
            state: Mutex::new(State { accounts, ..State::default() }),
            token: settings.token,
            state_file: settings.state_file,
        });
        tenant.save(&tenant.state.lock().accounts)?;
        let listener = TcpListener::bind(settings.address)?;
        let address = listener.local_addr()?;
        let server = HttpServer::new(move || App::new().app_data(tenant.clone()).configure(routes))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(1)
            .listen(listener)?
            .run();
        Ok(Self { address, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that stops it.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    ///
    /// If the server fails.
    pub async fn run(self) -> io::Result<()> {
        self.server.await
    }
}

impl Accounts {
    fn add_next(&mut self) {
        self.last += 1;
        self.present.insert(self.last);
    }
}

impl Tenant {
    /// Replaces the state file in one step, so that a crash leaves either the old or the new one.
    fn save(&self, accounts: &Accounts) -> io::Result<()> {
        let Some(path) = &self.state_file else { return Ok(()) };
        let draft = path.with_extension("draft");
        std::fs::write(&draft, serde_json::to_vec(accounts)?)?;
        std::fs::rename(&draft, path)
    }

    /// Applies the active faults to a call of the CSP, then checks its token.
    async fn admit(&self, request: &HttpRequest) -> Result<Faults, HttpResponse> {
        let faults = self.state.lock().faults.clone();
        tokio::time::sleep(Duration::from_millis(faults.latency_ms)).await;
        if faults.hang {
            tokio::time::sleep(HANG).await;
        }
        if fastrand::f64() < faults.error_rate {
            let status = faults.error_status.and_then(|status| StatusCode::from_u16(status).ok());
            let mut answer = HttpResponse::build(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
            if let Some(seconds) = faults.retry_after {
                answer.insert_header(("Retry-After", seconds.to_string()));
            }
            return Err(answer.json(json!({ "detail": "simulated failure" })));
        }
        if self.has_token(request) { Ok(faults) } else { Err(unknown_token()) }
    }

    fn has_token(&self, request: &HttpRequest) -> bool {
        let expected = format!("Token {}", self.token.expose_secret());
        let presented = request.headers().get("Authorization").map_or(&b""[..], |value| value.as_bytes());
        presented.ct_eq(expected.as_bytes()).into()
    }
}

fn unknown_token() -> HttpResponse {
    HttpResponse::Unauthorized().json(json!({ "detail": "unknown token" }))
}

fn routes(services: &mut web::ServiceConfig) {
    services
        .route("/current_user/accounts", web::get().to(list))
        .route("/sandbox/accounts/{uuid}", web::delete().to(delete))
        .route("/sim/faults", web::get().to(show_faults))
        .route("/sim/faults", web::put().to(set_faults))
        .route("/sim/faults", web::delete().to(clear_faults))
        .route("/v2/session/users/sign_in", web::post().to(niosxaas::sign_in))
        .route("/v2/session/account_switch", web::post().to(niosxaas::switch))
        .route("/api/universalinfra/v1/universalservices", web::get().to(niosxaas::list))
        .route("/api/universalinfra/v1/universalservices/{id}", web::delete().to(niosxaas::delete))
        .route("/sim/stats", web::get().to(stats));
}

/// The UUID of an account. It follows from the number, so that it is the same after a restart.
fn uuid_of(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn number_of(uuid: &str) -> Option<u64> {
    let number = uuid.rsplit('-').next()?.parse().ok()?;
    (uuid_of(number) == uuid).then_some(number)
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(rename = "_offset", default)]
    offset: usize,
}

async fn list(tenant: web::Data<Tenant>, request: HttpRequest, query: web::Query<ListQuery>) -> HttpResponse {
    tenant.state.lock().lists += 1;
    let faults = match tenant.admit(&request).await {
        Ok(faults) => faults,
        Err(answer) => return answer,
    };
    if faults.malformed_body {
        return HttpResponse::Ok().content_type("application/json").body(r#"{"results": [{"id": "#);
    }
    let mut results = vec![
        json!({ "account_type": "production", "state": "active", "id": "identity/accounts/main", "name": "main" }),
        json!({ "account_type": "sandbox", "state": "suspended", "id": "identity/accounts/old", "name": "old" }),
    ];
    if !faults.empty_listing {
        let state = tenant.state.lock();
        let listed = state.accounts.present.iter().filter(|number| !faults.missing.contains(&(FIRST_CSP_ID + *number)));
        results.extend(listed.map(|number| {
            let csp_id = FIRST_CSP_ID + number;
            let listed_id = if faults.renumbered.contains(&csp_id) { csp_id + RENUMBERED } else { csp_id };
            json!({
                "account_type": "sandbox",
                "state": "active",
                "id": format!("identity/accounts/{}", uuid_of(*number)),
                "name": format!("lab-{number:05}"),
                "csp_id": (!faults.unreadable.contains(&csp_id)).then_some(listed_id),
                "created_at": "2025-03-27T16:53:47Z",
                "sfdc_account_id": format!("crm-{number:05}"),
            })
        }));
    }
    if faults.page_size == 0 {
        return HttpResponse::Ok().json(json!({ "results": results, "next": null }));
    }
    if query.offset > 0 && faults.failing_pages {
        return HttpResponse::InternalServerError().json(json!({ "detail": "simulated failure of a page" }));
    }
    let page: Vec<_> = results.into_iter().skip(query.offset).take(faults.page_size).collect();
    HttpResponse::Ok().json(json!({ "results": page }))
}

async fn delete(tenant: web::Data<Tenant>, request: HttpRequest, uuid: web::Path<String>) -> HttpResponse {
    let number = number_of(&uuid);
    if let Some(number) = number {
        *tenant.state.lock().deletes.entry(FIRST_CSP_ID + number).or_default() += 1;
    }
    let faults = match tenant.admit(&request).await {
        Ok(faults) => faults,
        Err(answer) => return answer,
    };
    let mut state = tenant.state.lock();
    match number {
        Some(number) if faults.undeletable.contains(&(FIRST_CSP_ID + number)) => {
            HttpResponse::InternalServerError().json(json!({ "detail": "simulated failure of this account" }))
        }
        Some(number) if faults.forbidden.contains(&(FIRST_CSP_ID + number)) => {
            HttpResponse::Forbidden().json(json!({ "detail": "simulated refusal of this account" }))
        }
        _ if faults.deletion.is_some() => match faults.deletion {
            Some(FalseAnswer::Deleted) if number.is_some_and(|number| state.accounts.present.contains(&number)) => {
                // It is replaced, as if it had been deleted.
                if state.falsely_deleted.insert(FIRST_CSP_ID + number.unwrap_or_default()) {
                    state.accounts.add_next();
                }
                match tenant.save(&state.accounts) {
                    Ok(()) => HttpResponse::NoContent().finish(),
                    Err(error) => HttpResponse::InternalServerError().json(json!({ "detail": error.to_string() })),
                }
            }
            Some(FalseAnswer::Accepted) => HttpResponse::Accepted().finish(),
            Some(FalseAnswer::NotFound) => HttpResponse::NotFound().json(json!({ "detail": "no such account" })),
            Some(FalseAnswer::NoBackend) => HttpResponse::NotFound().body("default backend - 404"),
            Some(FalseAnswer::Deleted) | None => HttpResponse::NoContent().finish(),
        },
        Some(number) if state.accounts.present.remove(&number) => {
            state.accounts.add_next();
            state.calls.push(format!("account {number}"));
            state.calls.truncate(MAX_CALLS);
            state.orphaned_services += u64::from(niosxaas::has_track_service(&state.deleted_services, number));
            match tenant.save(&state.accounts) {
                Ok(()) => HttpResponse::NoContent().finish(),
                Err(error) => HttpResponse::InternalServerError().json(json!({ "detail": error.to_string() })),
            }
        }
        _ => HttpResponse::NotFound().json(json!({ "detail": "no such account" })),
    }
}

async fn show_faults(tenant: web::Data<Tenant>) -> HttpResponse {
    HttpResponse::Ok().json(&tenant.state.lock().faults)
}

async fn set_faults(tenant: web::Data<Tenant>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    if !tenant.has_token(&request) {
        return unknown_token();
    }
    let faults: Faults = match serde_json::from_slice(&body) {
        Ok(faults) => faults,
        Err(error) => return HttpResponse::BadRequest().json(json!({ "detail": error.to_string() })),
    };
    if !(0.0..=1.0).contains(&faults.error_rate) {
        return HttpResponse::BadRequest().json(json!({ "detail": "error_rate takes a number from 0 to 1" }));
    }
    tenant.state.lock().faults = faults.clone();
    HttpResponse::Ok().json(faults)
}

async fn clear_faults(tenant: web::Data<Tenant>, request: HttpRequest) -> HttpResponse {
    if !tenant.has_token(&request) {
        return unknown_token();
    }
    tenant.state.lock().faults = Faults::default();
    HttpResponse::NoContent().finish()
}

async fn stats(tenant: web::Data<Tenant>) -> HttpResponse {
    let state = tenant.state.lock();
    HttpResponse::Ok().json(json!({
        "accounts": state.accounts.present.len(),
        "lists": state.lists,
        "deletes": state.deletes,
        "calls": state.calls,
        "services_deleted": state.deleted_services.len(),
        "services_orphaned": state.orphaned_services,
        "falsely_deleted": state.falsely_deleted,
    }))
}
