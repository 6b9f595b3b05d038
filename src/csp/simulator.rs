//! A CSP to try the broker with, over real HTTP.
//!
//! It answers the tenant's two calls, with `lab-00001` and on as sandboxes, and replaces each one that is deleted,
//! as the real tenant does. Beside them:
//!
//! - `GET`, `PUT`, `DELETE /sim/faults`: the faults that are on ([`Faults`]); what is not named in a `PUT` is off.
//! - `GET /sim/stats`: how often each call came, and how often each account was deleted.
//!
//! Its state can be kept in a file, so that what was deleted stays deleted over a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;

/// `csp_id`s of the simulated accounts begin above this.
const FIRST_CSP_ID: u64 = 2_000_000;

/// How long a call hangs when hanging is on; longer than any client waits.
const HANG: Duration = Duration::from_secs(600);

/// How the simulator is set up.
#[derive(Clone, Debug)]
pub struct SimulatorSettings {
    /// Where it listens; port 0 is a free one.
    pub address: SocketAddr,
    /// How many sandboxes it keeps.
    pub sandboxes: u64,
    /// The token that callers must present.
    pub token: SecretString,
    /// Where its state is kept; in memory only without.
    pub state_file: Option<PathBuf>,
}

/// What goes wrong, until it is switched off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Each call takes at least this long.
    pub latency_ms: u64,
    /// So large a share of the calls fails (0 to 1) with `error_status`.
    pub error_rate: f64,
    /// The status of those failures; 503 if it is not given.
    pub error_status: Option<u16>,
    /// The `Retry-After` of those failures, in seconds.
    pub retry_after: Option<u64>,
    /// Calls get no answer.
    pub hang: bool,
    /// The listing is not JSON.
    pub malformed_body: bool,
    /// The listing is empty.
    pub empty_listing: bool,
    /// Accounts that the listing lacks, by `csp_id`.
    pub missing: BTreeSet<u64>,
    /// Accounts whose deletion fails with 500, by `csp_id`.
    pub undeletable: BTreeSet<u64>,
}

/// A simulator that is bound to its port.
pub struct Simulator {
    address: SocketAddr,
    server: Server,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Accounts {
    /// The numbers of the accounts that are there.
    present: BTreeSet<u64>,
    /// The highest number ever given out.
    last: u64,
}

#[derive(Debug, Default)]
struct State {
    accounts: Accounts,
    faults: Faults,
    lists: u64,
    deletes: BTreeMap<u64, u64>,
}

struct Tenant {
    state: Mutex<State>,
    token: SecretString,
    state_file: Option<PathBuf>,
}

impl Simulator {
    /// Binds the simulator's port; it serves once [`Self::run`] is awaited.
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
        tenant.save(&tenant.state().accounts)?;
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

    /// What stops it.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until it is stopped.
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the state file in one step, so that a crash leaves the old one or the new one.
    fn save(&self, accounts: &Accounts) -> io::Result<()> {
        let Some(path) = &self.state_file else { return Ok(()) };
        let draft = path.with_extension("draft");
        std::fs::write(&draft, serde_json::to_vec(accounts)?)?;
        std::fs::rename(&draft, path)
    }

    /// What every call of the tenant goes through: faults, then the token.
    async fn admit(&self, request: &HttpRequest) -> Result<Faults, HttpResponse> {
        let faults = self.state().faults.clone();
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
        let expected = format!("Token {}", self.token.expose_secret());
        let presented = request.headers().get("Authorization").map_or(&b""[..], |value| value.as_bytes());
        if !bool::from(presented.ct_eq(expected.as_bytes())) {
            return Err(HttpResponse::Unauthorized().json(json!({ "detail": "unknown token" })));
        }
        Ok(faults)
    }
}

fn routes(services: &mut web::ServiceConfig) {
    services
        .route("/current_user/accounts", web::get().to(list))
        .route("/sandbox/accounts/{uuid}", web::delete().to(delete))
        .route("/sim/faults", web::get().to(show_faults))
        .route("/sim/faults", web::put().to(set_faults))
        .route("/sim/faults", web::delete().to(clear_faults))
        .route("/sim/stats", web::get().to(stats));
}

/// An account's uuid, made of its number, so that a restart finds the same ones.
fn uuid_of(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn number_of(uuid: &str) -> Option<u64> {
    let number = uuid.rsplit('-').next()?.parse().ok()?;
    (uuid_of(number) == uuid).then_some(number)
}

async fn list(tenant: web::Data<Tenant>, request: HttpRequest) -> HttpResponse {
    tenant.state().lists += 1;
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
        let state = tenant.state();
        let listed = state.accounts.present.iter().filter(|number| !faults.missing.contains(&(FIRST_CSP_ID + *number)));
        results.extend(listed.map(|number| {
            json!({
                "account_type": "sandbox",
                "state": "active",
                "id": format!("identity/accounts/{}", uuid_of(*number)),
                "name": format!("lab-{number:05}"),
                "csp_id": FIRST_CSP_ID + number,
                "created_at": "2025-03-27T16:53:47Z",
                "sfdc_account_id": format!("crm-{number:05}"),
            })
        }));
    }
    HttpResponse::Ok().json(json!({ "results": results }))
}

async fn delete(tenant: web::Data<Tenant>, request: HttpRequest, uuid: web::Path<String>) -> HttpResponse {
    let number = number_of(&uuid);
    if let Some(number) = number {
        *tenant.state().deletes.entry(FIRST_CSP_ID + number).or_default() += 1;
    }
    let faults = match tenant.admit(&request).await {
        Ok(faults) => faults,
        Err(answer) => return answer,
    };
    let mut state = tenant.state();
    match number {
        Some(number) if faults.undeletable.contains(&(FIRST_CSP_ID + number)) => {
            HttpResponse::InternalServerError().json(json!({ "detail": "simulated failure of this account" }))
        }
        Some(number) if state.accounts.present.remove(&number) => {
            state.accounts.add_next();
            match tenant.save(&state.accounts) {
                Ok(()) => HttpResponse::NoContent().finish(),
                Err(error) => HttpResponse::InternalServerError().json(json!({ "detail": error.to_string() })),
            }
        }
        _ => HttpResponse::NotFound().json(json!({ "detail": "no such account" })),
    }
}

async fn show_faults(tenant: web::Data<Tenant>) -> HttpResponse {
    HttpResponse::Ok().json(&tenant.state().faults)
}

async fn set_faults(tenant: web::Data<Tenant>, body: web::Bytes) -> HttpResponse {
    let faults: Faults = match serde_json::from_slice(&body) {
        Ok(faults) => faults,
        Err(error) => return HttpResponse::BadRequest().json(json!({ "detail": error.to_string() })),
    };
    if !(0.0..=1.0).contains(&faults.error_rate) {
        return HttpResponse::BadRequest().json(json!({ "detail": "error_rate takes a number from 0 to 1" }));
    }
    tenant.state().faults = faults.clone();
    HttpResponse::Ok().json(faults)
}

async fn clear_faults(tenant: web::Data<Tenant>) -> HttpResponse {
    tenant.state().faults = Faults::default();
    HttpResponse::NoContent().finish()
}

async fn stats(tenant: web::Data<Tenant>) -> HttpResponse {
    let state = tenant.state();
    HttpResponse::Ok().json(json!({
        "accounts": state.accounts.present.len(),
        "lists": state.lists,
        "deletes": state.deletes,
    }))
}
