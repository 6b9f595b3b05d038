//! An HTTP client with little overhead.

use std::net::SocketAddr;

use test_support::TRACK_TOKEN;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A persistent connection for one request at a time. A full HTTP client would take CPU time from the broker that is
/// measured.
pub(crate) struct HttpConnection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl HttpConnection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the broker listens");
        stream.set_nodelay(true).expect("the socket takes options");
        Self { stream, answer: Vec::with_capacity(4096) }
    }

    /// Allocates a sandbox and returns the status.
    pub(crate) async fn allocate(&mut self, track: &str) -> u16 {
        self.send(&format!(
            "POST /v1/allocate HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer {TRACK_TOKEN}\r\n\
             X-Track-ID: {track}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await
    }

    async fn send(&mut self, request: &str) -> u16 {
        self.stream.write_all(request.as_bytes()).await.expect("the broker reads");
        self.answer.clear();
        while !is_complete(&self.answer) {
            let read = self.stream.read_buf(&mut self.answer).await.expect("the broker answers");
            assert!(read > 0, "the broker closed the connection");
        }
        let status = self.answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        status.expect("the answer starts with a status line")
    }
}

/// Whether an answer with a `Content-Length` is complete.
fn is_complete(answer: &[u8]) -> bool {
    let text = std::str::from_utf8(answer).expect("the broker answers in UTF-8");
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    body.len() == length.expect("the answer has a length")
}
