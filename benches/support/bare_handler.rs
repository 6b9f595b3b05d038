//! The least that serves claims over HTTP: one actix-web handler around the bare SDK, with nothing that makes it a broker.
//! It is no measure of usefulness but of what is to be had: what it costs, every service costs here.

use std::net::SocketAddr;
use std::path::Path;

use actix_web::web::{Data, post};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use serde_json::json;

use crate::claims::{Claims, external_id};
use crate::support::processes::{Process, executable, listening_address};

/// Set in the process that serves: how many sandboxes it has.
const POOL: &str = "BARE_HANDLER_POOL";
/// Where its engine's file is; without it the engine is in memory.
const DIRECTORY: &str = "BARE_HANDLER_DIRECTORY";

/// The handler in a process of its own.
pub(crate) struct BareHandler {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl BareHandler {
    /// Starts this program again, to be the server.
    pub(crate) async fn start(directory: Option<&Path>, pool: u64) -> Self {
        let mut command = executable(&std::env::current_exe().expect("this program has a path"), &[]);
        command.env(POOL, pool.to_string()).envs(directory.map(|directory| (DIRECTORY, directory)));
        let (process, _, address) = Process::listening(&mut command, listening_address).await;
        Self { address, _process: process }
    }

    /// How many sandboxes this process is to serve, if it was started for that.
    pub(crate) fn pool_to_serve() -> Option<u64> {
        std::env::var(POOL).ok().map(|pool| pool.parse().expect("the pool is a number"))
    }
}

/// Serves until it is killed.
#[actix_web::main]
pub(crate) async fn serve(pool: u64) {
    let directory = std::env::var_os(DIRECTORY);
    let claims = Data::new(Claims::on_engine(directory.as_deref().map(Path::new), pool).await);
    let server =
        HttpServer::new(move || App::new().app_data(claims.clone()).route("/v1/allocate", post().to(allocate)))
            .bind("127.0.0.1:0")
            .expect("a port is free");
    println!("{}", json!({"message": "listening", "address": server.addrs()[0].to_string()}));
    server.run().await.expect("the server runs");
}

async fn allocate(claims: Data<Claims>, request: HttpRequest) -> HttpResponse {
    let track = request.headers().get("x-track-id").and_then(|track| track.to_str().ok()).expect("the track is text");
    let sandbox = claims.make(track).await;
    HttpResponse::Created().json(json!({
        "sandbox_id": sandbox.to_string(),
        "name": format!("lab-{sandbox:05}"),
        "external_id": external_id(sandbox),
        "allocated_at": 1_800_000_000,
        "expires_at": 1_800_014_400,
        "sfdc_account_id": format!("crm-{sandbox:05}"),
    }))
}
