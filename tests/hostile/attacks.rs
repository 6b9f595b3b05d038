//! What a hostile client may do with a connection. Tests look at what becomes of it; `benches/hostile.rs` at what becomes
//! of others meanwhile.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// A slow client sends its next byte after this time.
const DRIP: Duration = Duration::from_millis(100);

/// So much of an answer is looked at; a client that does not read has this much room.
const SMALL_BUFFER: u32 = 4096;

/// A request that is in order and leaves the connection open.
pub const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// A way to keep a connection busy. Each goes on until the broker ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Nothing at all is sent.
    Silence,
    /// A head that never ends, a byte now and then.
    DrippedHead,
    /// The same after a request that was in order.
    DrippedSecondHead,
    /// The body of an allocation, a byte now and then.
    DrippedBody,
    /// A chunked body for a route that reads none.
    DrippedChunks,
    /// The same, and nothing of it comes.
    AnnouncedChunks,
    /// A body of a stranger.
    StrangersBody,
    /// The largest answer of all, ten times, and nothing of it is read.
    UnreadAnswers,
    /// Requests with the smallest answers without end, and nothing of them is read.
    UnreadPipeline,
    /// A head of 64 KiB.
    LargeHead,
    /// The same after a request that was in order.
    LargeSecondHead,
    /// A URI of 64 KiB.
    LongUri,
    /// More headers than any request has.
    ManyHeaders,
    /// The beginning of a TLS handshake.
    Tls,
    /// Bytes of all kinds.
    Garbage,
    /// A chunk whose size is no number.
    BadChunk,
    /// A chunk of 2^64 bytes.
    EndlessChunk,
    /// Both ways to tell a body's length, to hide a request in it from a proxy.
    TwoLengths,
    /// Two lengths that differ.
    TwoContentLengths,
    /// An encoding that a proxy may not know.
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

    /// Attacks once. Returns what the broker had to say, as far as it could be read, once it has ended the connection.
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

/// Sends this, then that again and again, and reads until the broker ends the connection.
pub async fn until_closed(stream: TcpStream, first: &[u8], then: &[u8]) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = stream.into_split();
    let mut answers = Vec::new();
    {
        // A broker that has made up its mind resets the connection rather than read on: that is an end too.
        let mut read = pin!(reader.read_to_end(&mut answers));
        let mut is_sent = false;
        loop {
            tokio::select! {
                _ = &mut read => break,
                _ = writer.write_all(first), if !is_sent => is_sent = true,
                () = sleep(DRIP), if is_sent => {
                    let _ = writer.write_all(then).await;
                }
            }
        }
    }
    Ok(answers)
}

/// Sends this, then that again and again, reads nothing, and returns when the broker does not want it any more.
async fn until_refused(address: SocketAddr, first: &[u8], then: &[u8]) -> io::Result<Vec<u8>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SMALL_BUFFER)?;
    let mut stream = socket.connect(address).await?;
    let mut rest = first;
    loop {
        match timeout(DRIP, stream.write(rest)).await {
            Ok(Ok(written)) => rest = &rest[written..],
            Ok(Err(_)) => return Ok(Vec::new()),
            // The broker has stopped reading; now it is to give up.
            Err(_) => {}
        }
        if rest.is_empty() {
            sleep(DRIP).await;
            // A single byte is enough to hear that the connection is gone.
            rest = if then.is_empty() { b"G" } else { then };
        }
    }
}
