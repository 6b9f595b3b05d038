//! What a connection may cost, and how many there may be (I8). actix bounds how long a connection rests between requests;
//! heads that do not end, bodies that nobody reads, answers that the peer does not take, requests that come faster than
//! their answers go, and the memory and files of all connections together are bounded here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{Extensions, Protocol};
use actix_web::http::StatusCode;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use uuid::Uuid;

use super::edge::SECURITY_HEADERS;
use super::error::ApiError;
use super::state::{ConnectionState, Phase};

/// The longest that a client may take to send a request's head, and once more the rest of a body that nobody reads.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept; longer than an AWS load balancer keeps its own (60 s), so that the balancer
/// never sends on a connection that is being closed.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a client that was answered before it had sent all may take to read the answer; closing over what it sends
/// would take the answer back.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// The longest that a client may take nothing of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head. Ours are far below 4 KiB even with every header at its bound; the rest is for what proxies add.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// So much is read before the parser looks whether it is a request. The parser makes requests of all that it is given,
/// each of them many times as large in memory as on the wire; so few bytes are not many requests, and are enough for one
/// of ours.
const LOOK_BYTES: usize = 1024;

/// So much of an answer is copied to be sent; a piece may come on top.
pub(super) const SEND_BUFFER_BYTES: usize = 8 * 1024;

/// Connections of this process, if it may open at least twice as many files. At 13 KiB for an idle one and 85 KiB for
/// the worst that was found, this is what bounds the memory that strangers can make it use.
const MAX_CONNECTIONS: usize = 4096;

/// Half of the files that this process may open are for clients, the other half for the store and the CSP.
const CLIENTS_SHARE: usize = 2;

/// Where the system tells nothing, this many files are assumed: the smallest limit in use.
const ASSUMED_FILES: usize = 1024;

/// So many more connections of one worker are taken to be told that there are too many; the rest wait in the kernel.
pub(super) const REFUSED_AT_ONCE: usize = 64;

/// All connections of this process.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    limit: usize,
}

/// One of the places for connections; free again when this is dropped.
#[derive(Debug)]
struct Place(Connections);

impl Connections {
    /// None yet.
    pub(super) fn new() -> Self {
        let limit = MAX_CONNECTIONS.min(open_files() / CLIENTS_SHARE);
        // A rate needs a zero to start from.
        Cut::ALL.iter().for_each(|reason| reason.count(0));
        Self { open: Arc::default(), limit }
    }

    /// How many there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a connection in, or tells it that there are too many.
    pub(super) async fn admit(
        self,
        socket: TcpStream,
    ) -> Result<(Connection, Protocol, Option<SocketAddr>), DispatchError> {
        let place = Place::take(self);
        if place.number() > place.0.limit {
            drop(place);
            Cut::TooMany.count(1);
            // Whether the client hears it is up to the client.
            let _ = timeout(LINGER, refuse(&socket)).await;
            return Err(DispatchError::Io(io::Error::other("too many connections")));
        }
        let peer = socket.peer_addr().ok();
        // The end of an answer must not wait for the client's word on the part before. A socket that cannot do this is
        // only slower.
        let _ = socket.set_nodelay(true);
        Ok((Connection::new(socket, place), Protocol::Http1, peer))
    }
}

impl Place {
    fn take(connections: Connections) -> Self {
        connections.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("broker_connections").increment(1.0);
        Self(connections)
    }

    /// How many are taken, this one included.
    fn number(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Whether places get scarce: then nobody holds one for nothing.
    fn are_scarce(&self) -> bool {
        self.number() > self.0.limit / 4 * 3
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("broker_connections").decrement(1.0);
    }
}

/// How many files this process may open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.map_or(ASSUMED_FILES, |soft| soft.parse().unwrap_or(usize::MAX))
}

async fn refuse(socket: &TcpStream) -> io::Result<()> {
    socket.writable().await?;
    Cut::TooMany.tell(socket);
    // Closing over unread bytes would take the answer back.
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

/// Why a connection is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    TooMany,
    SlowHead,
    LargeHead,
    SlowBody,
    Idle,
    NotReading,
}

impl Cut {
    const ALL: [Self; 6] =
        [Self::TooMany, Self::SlowHead, Self::LargeHead, Self::SlowBody, Self::Idle, Self::NotReading];

    fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::SlowHead => "slow_head",
            Self::LargeHead => "large_head",
            Self::SlowBody => "slow_body",
            Self::Idle => "idle",
            Self::NotReading => "not_reading",
        }
    }

    fn count(self, times: u64) {
        metrics::counter!("broker_connections_cut_total", "reason" => self.label()).increment(times);
    }

    /// What the client is told, if an answer is due.
    fn answer(self) -> Option<ApiError> {
        match self {
            Self::TooMany => Some(ApiError::too_many_connections()),
            Self::SlowHead => Some(ApiError::of_status(StatusCode::REQUEST_TIMEOUT)),
            Self::LargeHead => Some(ApiError::of_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
            Self::SlowBody | Self::Idle | Self::NotReading => None,
        }
    }

    /// Tells the client, as far as the socket takes it at once: nobody waits for a peer like this.
    fn tell(self, socket: &TcpStream) {
        let Some(error) = self.answer() else { return };
        let request_id = Uuid::now_v7().to_string();
        let body = error.body(&request_id).to_string();
        let retry_after = error.retry_after_seconds().map(|seconds| format!("retry-after: {seconds}\r\n"));
        let security: String = SECURITY_HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer = format!(
            "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-request-id: {request_id}\r\n{}{security}\r\n{body}",
            error.status,
            body.len(),
            retry_after.unwrap_or_default(),
        );
        let _ = socket.try_write(answer.as_bytes());
    }
}

/// A socket that fails when its peer is too slow or sends too much.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    state: Rc<ConnectionState>,
    place: Place,
    /// Since when the peer takes nothing of what is to be sent.
    stalled_since: Option<Instant>,
    /// Bytes that the parser has not looked at.
    unlooked: usize,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(socket: TcpStream, place: Place) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT));
        Self { socket, state: Rc::new(ConnectionState::new()), place, stalled_since: None, unlooked: 0, timer }
    }

    /// Makes the connection's state known to the requests that come over it.
    pub(super) fn introduce(&self, requests: &mut Extensions) {
        requests.insert(Rc::clone(&self.state));
    }

    /// When the peer must have done something, and what it is accused of then.
    fn deadline(&self) -> Option<(Instant, Cut)> {
        let ConnectionState { phase, since, is_new, head_since, .. } = &*self.state;
        let since = since.get();
        let of_phase = match (phase.get(), head_since.get()) {
            (Phase::Waiting, Some(first)) => Some((first + HEAD_TIMEOUT, Cut::SlowHead)),
            (Phase::Waiting, None) if is_new.get() => Some((since + HEAD_TIMEOUT, Cut::SlowHead)),
            (Phase::Waiting, None) if self.place.are_scarce() => Some((since + HEAD_TIMEOUT, Cut::Idle)),
            // actix closes an idle connection after `KEEP_ALIVE`, but not if a part of the next head has come together
            // with the request before.
            (Phase::Waiting, None) => Some((since + KEEP_ALIVE + HEAD_TIMEOUT, Cut::Idle)),
            (Phase::Draining, _) => Some((since + HEAD_TIMEOUT, Cut::SlowBody)),
            (Phase::Handling | Phase::Answering, _) => None,
        };
        let of_peer = self.stalled_since.map(|since| (since + STALL_TIMEOUT, Cut::NotReading));
        of_phase.into_iter().chain(of_peer).min_by_key(|(at, _)| *at)
    }

    /// Waits for the peer, but not too long. Looks again every few seconds, because the phase may change and places may
    /// get scarce without a word from the peer.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let now = Instant::now();
            let mut next_look = now + HEAD_TIMEOUT;
            if let Some((deadline, reason)) = self.deadline() {
                if now >= deadline {
                    return Poll::Ready(Err(self.cut(reason)));
                }
                next_look = next_look.min(deadline);
            }
            if self.timer.is_elapsed() || self.timer.deadline() > next_look {
                self.timer.as_mut().reset(next_look);
            }
            ready!(self.timer.as_mut().poll(context));
        }
    }

    /// Reads a part of a head, as much as the parser should see at once.
    fn read_piece(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unlooked >= LOOK_BYTES {
            self.unlooked = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let state = &self.state;
        if state.head_bytes.get() >= MAX_HEAD_BYTES {
            return Poll::Ready(Err(self.cut(Cut::LargeHead)));
        }
        let mut bytes = [0; LOOK_BYTES];
        let length = LOOK_BYTES.min(buffer.remaining());
        let mut piece = ReadBuf::new(&mut bytes[..length]);
        match Pin::new(&mut self.socket).poll_read(context, &mut piece) {
            Poll::Pending => self.wait(context),
            Poll::Ready(read) => {
                let piece = piece.filled();
                buffer.put_slice(piece);
                self.unlooked += piece.len();
                state.head_bytes.set(state.head_bytes.get() + piece.len());
                if state.head_since.get().is_none() && !piece.is_empty() {
                    state.head_since.set(Some(Instant::now()));
                }
                Poll::Ready(read)
            }
        }
    }

    fn cut(&self, reason: Cut) -> io::Error {
        reason.count(1);
        tracing::debug!(reason = reason.label(), "a connection is cut");
        if self.stalled_since.is_none() {
            reason.tell(&self.socket);
        }
        io::Error::new(io::ErrorKind::TimedOut, reason.label())
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.state.remember_reader(context.waker());
        // A peer that does not listen is not listened to, or its requests would pile up as answers.
        if this.stalled_since.is_some() {
            return this.wait(context);
        }
        match this.state.phase.get() {
            Phase::Waiting => this.read_piece(context, buffer),
            Phase::Handling if this.state.has_unread_body.get() => {
                Pin::new(&mut this.socket).poll_read(context, buffer)
            }
            Phase::Handling | Phase::Answering => {
                let is_more_there = this.socket.poll_read_ready(context).is_ready();
                this.state.reader_waits.set(is_more_there);
                this.wait(context)
            }
            Phase::Draining => match Pin::new(&mut this.socket).poll_read(context, buffer) {
                Poll::Pending => this.wait(context),
                read => read,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.socket).poll_write(context, bytes) {
            Poll::Pending => {
                this.stalled_since.get_or_insert_with(Instant::now);
                this.wait(context)
            }
            Poll::Ready(written) => {
                if this.stalled_since.take().is_some() {
                    this.state.wake_reader();
                }
                Poll::Ready(written)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}
