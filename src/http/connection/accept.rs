//! Accepts a socket as a connection, or answers that there are too many.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix_http::Protocol;
use actix_http::error::DispatchError;
use actix_web::rt::net::TcpStream;
use tokio::time::timeout;

use super::cutoff::Cutoff;
use super::limit::Connections;
use super::socket::Connection;
use crate::http::error::ErrorForm;

/// How long a client that was answered before it had sent everything may take to read the answer. Closing the socket
/// over unread bytes would discard the answer.
pub(super) const LINGER: Duration = Duration::from_secs(1);

pub(super) async fn accept(
    connections: Connections,
    socket: TcpStream,
) -> Result<(Connection, Protocol, Option<SocketAddr>), DispatchError> {
    let error_form = connections.error_form();
    let peer = socket.peer_addr().ok();
    let address = peer.map(|peer| peer.ip().to_canonical());
    let Some(slot) = connections.take_slot(address) else {
        Cutoff::TooMany.count(1);
        // Best effort: the client may not read the answer.
        let _ = timeout(LINGER, refuse(&socket, error_form)).await;
        return Err(DispatchError::Io(io::Error::other("too many connections")));
    };
    // The last part of an answer must not wait for the acknowledgement of the part before. A failure costs only speed.
    let _ = socket.set_nodelay(true);
    Ok((Connection::new(socket, slot), Protocol::Http1, peer))
}

/// Answers, then reads until the client closes.
async fn refuse(socket: &TcpStream, error_form: ErrorForm) -> io::Result<()> {
    socket.writable().await?;
    Cutoff::TooMany.answer(socket, error_form);
    let mut unread = [0; 1024];
    loop {
        socket.readable().await?;
        match socket.try_read(&mut unread) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}
