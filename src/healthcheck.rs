//! The check that a container runtime runs every few seconds: one request over plain TCP, without an HTTP client, which
//! would cost more than the check.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(8);

/// Why the broker on this machine is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// No connection, or it broke.
    #[error("cannot ask the broker at {address}")]
    Unreachable {
        /// Its address.
        address: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// Another answer than 200.
    #[error("the broker at {address} answers {answer:?}")]
    Answer {
        /// Its address.
        address: SocketAddr,
        /// The start of the answer.
        answer: String,
    },
    /// Nothing in time.
    #[error("the broker at {address} does not answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// Its address.
        address: SocketAddr,
    },
}

/// Asks the broker that listens on this address of this machine for `/healthz`. One that listens on all addresses, as it
/// does by default, listens on loopback too.
///
/// # Errors
///
/// If it does not answer 200 in time.
pub async fn check(host: Option<IpAddr>, port: u16) -> Result<(), Unhealthy> {
    let host = match host {
        None => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V4(host)) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V6(host)) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        Some(host) => host,
    };
    let address = SocketAddr::new(host, port);
    let answer = timeout(PATIENCE, status_line(address)).await.map_err(|_| Unhealthy::Silent { address })?;
    let answer = answer.map_err(|source| Unhealthy::Unreachable { address, source })?;
    if answer == "HTTP/1.1 200" { Ok(()) } else { Err(Unhealthy::Answer { address, answer }) }
}

/// Version and status of the answer.
async fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut start = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut start).await?;
    Ok(String::from_utf8_lossy(&start).into_owned())
}
