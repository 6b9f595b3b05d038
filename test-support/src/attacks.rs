//! Attacks of a hostile client on a connection. `tests/hostile` checks how each ends, `benches/hostile` what it costs other
//! clients.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// The time between two bytes of a slow client.
const DRIP_INTERVAL: Duration = Duration::from_millis(100);

/// The receive buffer of a client that does not read, in bytes.
const SMALL_BUFFER: u32 = 4096;

/// A valid request that leaves the connection open.
pub const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// A way to keep a connection busy. An attack ends when the broker closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Nothing is sent.
    Silence,
    /// A head that never ends, byte by byte.
    DrippedHead,
    /// A head that never ends, after a valid request.
    DrippedSecondHead,
    /// The body of an allocation, byte by byte.
    DrippedBody,
    /// A chunked body, byte by byte, for a route that reads no body.
    DrippedChunks,
    /// A chunked body for a route that reads no body; no chunk is sent.
    AnnouncedChunks,
    /// A body, byte by byte, without a token.
    StrangersBody,
    /// Ten requests for the largest answer, none of which is read.
    UnreadAnswers,
    /// Endless requests for the smallest answer, none of which is read.
    UnreadPipeline,
    /// A head of 64 KiB.
    LargeHead,
    /// A head of 64 KiB after a valid request.
    LargeSecondHead,
    /// A URI of 64 KiB.
    LongUri,
    /// 200 headers.
    ManyHeaders,
    /// The start of a TLS handshake.
    Tls,
    /// All byte values.
    Garbage,
    /// A chunk whose size is not a number.
    BadChunk,
    /// A chunk of 2^64 - 1 bytes.
    EndlessChunk,
    /// `Content-Length` and `Transfer-Encoding` together, to hide a request in the body from a proxy (request smuggling).
    TwoLengths,
    /// Two different `Content-Length` headers.
    TwoContentLengths,
    /// A transfer encoding that proxies may read in another way.
    OddEncoding,
}

impl Attack {
    pub const ALL: [Self; 20] = [
        Self::Silence,
        Self::DrippedHead,
        Self::DrippedSecondHead,
        Self::DrippedBody,
        Self::DrippedChunks,
        Self::AnnouncedChunks,
        Self::StrangersBody,
        Self::UnreadAnswers,
        Self::UnreadPipeline,
        Self::LargeHead,
        Self::LargeSecondHead,
        Self::LongUri,
        Self::ManyHeaders,
        Self::Tls,
        Self::Garbage,
        Self::BadChunk,
        Self::EndlessChunk,
        Self::TwoLengths,
        Self::TwoContentLengths,
        Self::OddEncoding,
    ];

    /// Attacks until the broker closes the connection. Returns the broker's answers, as far as they were read.
    pub async fn once(self, address: SocketAddr, track_token: &str) -> io::Result<Vec<u8>> {
        let filler = "x".repeat(64 * 1024);
        let post = |headers: &str| {
            format!("POST /v1/allocate HTTP/1.1\r\nHost: x\r\nX-Track-ID: hostile\r\n{headers}\r\n").into_bytes()
        };
        let allocate = |headers: &str| post(&format!("Authorization: Bearer {track_token}\r\n{headers}"));
        let large_head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Filler: {filler}\r\n\r\n").into_bytes();
        match self {
            Self::Silence => until_closed(connect(address).await?, b"", b"").await,
            Self::DrippedHead => until_closed(connect(address).await?, b"GET /healthz HTTP/1.1\r\nX-A: ", b"a").await,
            Self::DrippedSecondHead => {
                until_closed(connect(address).await?, &[REQUEST, b"GET /h"].concat(), b"a").await
            }
            Self::DrippedBody => {
                until_closed(connect(address).await?, &allocate("Content-Length: 1000\r\n"), b"a").await
            }
            Self::DrippedChunks => {
                let head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
                until_closed(connect(address).await?, head, b"1\r\na\r\n").await
            }
            Self::AnnouncedChunks => {
                let head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
                until_closed(connect(address).await?, head, b"").await
            }
            Self::StrangersBody => {
                until_closed(connect(address).await?, &post("Content-Length: 60000\r\n"), b"a").await
            }
            Self::UnreadAnswers => {
                let request = b"GET /v1/docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n";
                until_refused(address, &request.repeat(10), b"").await
            }
            Self::UnreadPipeline => {
                let request = b"OPTIONS /v1/allocate HTTP/1.1\r\nHost: x\r\nOrigin: https://x.example\r\n\
                                Access-Control-Request-Method: POST\r\n\r\n";
                until_refused(address, &request.repeat(500), &request.repeat(500)).await
            }
            Self::LargeHead => until_closed(connect(address).await?, &large_head, b"").await,
            Self::LargeSecondHead => until_closed(connect(address).await?, &[REQUEST, &large_head].concat(), b"").await,
            Self::LongUri => {
                let request = format!("GET /{filler} HTTP/1.1\r\nHost: x\r\n\r\n");
                until_closed(connect(address).await?, request.as_bytes(), b"").await
            }
            Self::ManyHeaders => {
                let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
                until_closed(connect(address).await?, request.as_bytes(), b"").await
            }
            Self::Tls => {
                until_closed(connect(address).await?, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", b"").await
            }
            Self::Garbage => {
                let bytes: Vec<u8> = (0..=255).cycle().take(4096).collect();
                until_closed(connect(address).await?, &bytes, b"").await
            }
            Self::BadChunk => {
                let request =
                    [&allocate("Transfer-Encoding: chunked\r\n")[..], b"nonsense\r\nxx\r\n0\r\n\r\n"].concat();
                until_closed(connect(address).await?, &request, b"").await
            }
            Self::EndlessChunk => {
                let request = [&allocate("Transfer-Encoding: chunked\r\n")[..], b"FFFFFFFFFFFFFFFF\r\nabc"].concat();
                until_closed(connect(address).await?, &request, b"a").await
            }
            Self::TwoLengths => {
                let hidden = b"0\r\n\r\nPOST /v1/allocate HTTP/1.1\r\nHost: x\r\nX-Track-ID: smuggled\r\n\r\n";
                let headers = "Content-Length: 6\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n";
                until_closed(connect(address).await?, &[&post(headers)[..], hidden].concat(), b"").await
            }
            Self::TwoContentLengths => {
                let request = allocate("Content-Length: 5\r\nContent-Length: 0\r\n");
                until_closed(connect(address).await?, &[&request[..], b"GET / "].concat(), b"").await
            }
            Self::OddEncoding => {
                let request = allocate("Transfer-Encoding: xchunked\r\n");
                until_closed(connect(address).await?, &[&request[..], b"0\r\n\r\n"].concat(), b"").await
            }
        }
    }
}

pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// Sends `first` once, then `then` at each interval, and reads until the broker closes the connection.
pub async fn until_closed(stream: TcpStream, first: &[u8], then: &[u8]) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = stream.into_split();
    let mut answers = Vec::new();
    {
        // The broker may reset the connection instead of reading on; that ends the attack as well.
        let mut read = pin!(reader.read_to_end(&mut answers));
        let mut is_sent = false;
        loop {
            tokio::select! {
                _ = &mut read => break,
                _ = writer.write_all(first), if !is_sent => is_sent = true,
                () = sleep(DRIP_INTERVAL), if is_sent => {
                    let _ = writer.write_all(then).await;
                }
            }
        }
    }
    Ok(answers)
}

/// Sends `first` once and `then` repeatedly, reads nothing, and returns when the broker closes the connection.
async fn until_refused(address: SocketAddr, first: &[u8], then: &[u8]) -> io::Result<Vec<u8>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SMALL_BUFFER)?;
    let mut stream = socket.connect(address).await?;
    let mut rest = first;
    loop {
        match timeout(DRIP_INTERVAL, stream.write(rest)).await {
            Ok(Ok(written)) => rest = &rest[written..],
            Ok(Err(_)) => return Ok(Vec::new()),
            // The broker has stopped reading and has yet to close the connection.
            Err(_) => {}
        }
        if rest.is_empty() {
            sleep(DRIP_INTERVAL).await;
            // A write of one byte fails once the connection is closed.
            rest = if then.is_empty() { b"G" } else { then };
        }
    }
}
