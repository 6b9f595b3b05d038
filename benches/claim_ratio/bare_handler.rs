//! The smallest service that claims over HTTP: one actix-web handler around the bare SDK. Its overhead is a lower bound for
//! every service on this stack.

use std::net::SocketAddr;
use std::path::Path;

use actix_web::web::{Data, post};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use serde_json::json;
use test_support::{Process, executable, listening_address};

use crate::claims::{Claims, external_id};

/// Environment variable of the server process: the number of its sandboxes.
const POOL: &str = "BARE_HANDLER_POOL";
/// Environment variable of the server process: the directory of its engine. Without it the engine is in memory.
const DIRECTORY: &str = "BARE_HANDLER_DIRECTORY";

/// The handler as a process.
pub(crate) struct BareHandler {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl BareHandler {
    /// Starts this executable again as the server.
    pub(crate) async fn start(directory: Option<&Path>, pool: u64) -> Self {
        let mut command = executable(&std::env::current_exe().expect("this program has a path"), &[]);
        command.env(POOL, pool.to_string()).envs(directory.map(|directory| (DIRECTORY, directory)));
        let (process, _, address) = Process::listening(&mut command, listening_address).await;
        Self { address, _process: process }
    }

    /// The number of sandboxes to serve, if this process is the server.
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
    let sandbox = claims.claim_next(track).await;
    HttpResponse::Created().json(json!({
        "sandbox_id": sandbox.to_string(),
        "name": format!("lab-{sandbox:05}"),
        "external_id": external_id(sandbox),
        "allocated_at": 1_800_000_000,
        "expires_at": 1_800_014_400,
        "sfdc_account_id": format!("crm-{sandbox:05}"),
    }))
}
