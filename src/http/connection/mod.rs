//! What a connection may cost, and how many there may be (I8).
//!
//! actix bounds how long a connection idles between requests. The rest is bounded here: heads that do not end, bodies
//! that are not read, answers that the peer does not take, requests that come faster than their answers leave, and the
//! memory and files of all connections together.
//!
//! [`serve`] is the only way in. `accept` admits sockets within the `limit`; `socket` reads and writes with deadlines and
//! cuts a connection off (`cutoff`) that exceeds them; `missing_length` and `refusal` change what the parser gets and what
//! it answers; `request` wraps the application and reports to the connection's `state` what its request is doing; `answer`
//! sends bodies in pieces.

mod accept;
mod answer;
mod cutoff;
mod limit;
mod missing_length;
mod refusal;
mod request;
mod socket;
mod stall;
mod state;

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Server, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::{App, Error};

use self::limit::Connections;
use self::socket::Connection;
use super::error::ErrorForm;

/// The part of an answer that is copied to be sent; one piece may come on top.
const SEND_BUFFER_BYTES: usize = 8 * 1024;

/// Connections beyond the limit that each worker accepts at a time to answer that there are too many. The others wait in
/// the kernel.
const REFUSED_AT_ONCE: usize = 64;

/// What all connections share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Whether one address may have only a part of the connections when few are left.
    pub(super) is_shared_by_address: bool,
    /// Whether a path is that of a probe. Probes are served when there are too many connections for anything else.
    pub(super) is_probe: fn(&str) -> bool,
    /// The form of the errors that no handler answers.
    pub(super) error_form: ErrorForm,
    /// How long requests in flight get when the server is stopped.
    pub(super) grace_seconds: u64,
}

/// A server of the application on these sockets, each with its surface. It installs no signal handlers.
pub(super) fn serve<T, B, S: Copy + Send + 'static>(
    listeners: Vec<(TcpListener, S)>,
    workers: usize,
    limits: Limits,
    application: impl Fn(S) -> App<T> + Send + Clone + 'static,
) -> io::Result<Server>
where
    T: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<B>, Error = Error, InitError = ()>
        + 'static,
    B: MessageBody + 'static,
{
    let connections = Connections::new(limits);
    let mut server = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections.limit() + REFUSED_AT_ONCE)
        .shutdown_timeout(limits.grace_seconds)
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    for (listener, surface) in listeners {
        let (application, connections, stopping) = (application.clone(), connections.clone(), stopping.clone());
        // As `HttpServer` does, but on sockets with deadlines.
        server = server.listen("http", listener, move || {
            let application =
                application(surface).wrap(from_fn(move |request, next| request::track(limits, request, next)));
            let stopping = stopping.clone();
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                // This timer covers only the first head; the connection's own covers every head.
                .client_request_timeout(Duration::ZERO)
                .client_disconnect_timeout(accept::LINGER)
                .h1_write_buffer_size(SEND_BUFFER_BYTES)
                .keep_alive(socket::KEEP_ALIVE)
                .on_connect_ext(Connection::share_state)
                .finish(map_config(application, |()| AppConfig::default()));
            let connections = connections.clone();
            fn_service(move |socket| accept::accept(connections.clone(), socket)).and_then(http)
        })?;
    }
    Ok(server.run())
}
