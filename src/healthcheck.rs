//! The check that a container runtime runs every few seconds: one request over plain TCP, without an HTTP client, which
//! would cost more than the check.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(8);

/// Why the broker on this machine is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// No connection, or it broke.
    #[error("cannot ask the broker on port {port}")]
    Unreachable {
        /// The port.
        port: u16,
        /// What failed.
        source: io::Error,
    },
    /// Another answer than 200.
    #[error("the broker on port {port} answers {answer:?}")]
    Answer {
        /// The port.
        port: u16,
        /// The start of the answer.
        answer: String,
    },
    /// Nothing in time.
    #[error("the broker on port {port} does not answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// The port.
        port: u16,
    },
}

/// Asks the broker on this machine for `/healthz`.
///
/// # Errors
///
/// If it does not answer 200 in time.
pub async fn check(port: u16) -> Result<(), Unhealthy> {
    let answer = timeout(PATIENCE, status_line(port)).await.map_err(|_| Unhealthy::Silent { port })?;
    let answer = answer.map_err(|source| Unhealthy::Unreachable { port, source })?;
    if answer == "HTTP/1.1 200" { Ok(()) } else { Err(Unhealthy::Answer { port, answer }) }
}

/// Version and status of the answer.
async fn status_line(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut start = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut start).await?;
    Ok(String::from_utf8_lossy(&start).into_owned())
}
