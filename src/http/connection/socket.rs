//! A socket with deadlines: it fails when its peer is too slow or sends too much.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::Extensions;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::cutoff::Cutoff;
use super::limit::Slot;
use super::missing_length::MissingLength;
use super::refusal::refusal_in;
use super::stall::Stall;
use super::state::{ConnectionState, Phase};

/// How long an idle connection is kept. An AWS load balancer keeps its own for 60 s; ours last longer, so that the
/// balancer never sends on a connection that is being closed.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a client may take to send the head of a request; and, after an answer to a request whose body was not read,
/// the rest of that body.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The same on a connection that only a probe may use. There are few of them.
const PROBE_HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest head. Even with every header at its limit a head is far below 4 KiB; the rest is for what proxies add.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The bytes that the parser gets at a time. It makes requests of everything it gets, each many times as large in memory
/// as on the wire. This is enough for one request of ours and little enough to be few requests.
const PARSE_BYTES: usize = 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    state: Rc<ConnectionState>,
    slot: Slot,
    /// Whether the peer takes its answers.
    stall: Stall,
    /// The bytes that were passed to the parser in a row.
    unparsed: usize,
    missing_length: MissingLength,
    /// Bytes that were read and that the parser has not got yet.
    passed: Vec<u8>,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(socket: TcpStream, slot: Slot) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT));
        Self {
            socket,
            state: Rc::new(ConnectionState::new(slot.is_for_probes())),
            slot,
            stall: Stall::default(),
            unparsed: 0,
            missing_length: MissingLength::default(),
            passed: Vec::new(),
            timer,
        }
    }

    /// Shares the connection's state with the requests that come over it.
    pub(super) fn share_state(&self, requests: &mut Extensions) {
        requests.insert(Rc::clone(&self.state));
    }

    /// When the connection is cut off unless the peer acts first, and why.
    fn deadline(&self) -> Option<(Instant, Cutoff)> {
        let state = &self.state;
        let since = state.phase_since();
        let of_phase = match (state.phase(), state.head_since()) {
            (Phase::Waiting, first) if state.is_for_probes() => {
                Some((first.unwrap_or(since) + PROBE_HEAD_TIMEOUT, Cutoff::SlowHead))
            }
            (Phase::Waiting, Some(first)) => Some((first + HEAD_TIMEOUT, Cutoff::SlowHead)),
            (Phase::Waiting, None) if state.is_new() => Some((since + HEAD_TIMEOUT, Cutoff::SlowHead)),
            (Phase::Waiting, None) if self.slot.are_scarce() => Some((since + HEAD_TIMEOUT, Cutoff::Idle)),
            // actix closes an idle connection after `KEEP_ALIVE`, except where a part of the next head came together
            // with the last request.
            (Phase::Waiting, None) => Some((since + KEEP_ALIVE + HEAD_TIMEOUT, Cutoff::Idle)),
            (Phase::Draining, _) => Some((since + HEAD_TIMEOUT, Cutoff::SlowBody)),
            (Phase::Handling | Phase::Answering, _) => None,
        };
        let of_peer = self.stall.deadline().map(|at| (at, Cutoff::NotReading));
        of_phase.into_iter().chain(of_peer).min_by_key(|(at, _)| *at)
    }

    /// Waits for the peer until the deadline. Computes the deadline again every few seconds, because the phase may change
    /// and slots may become scarce meanwhile.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let now = Instant::now();
            let mut next_look = now + HEAD_TIMEOUT;
            if let Some((deadline, reason)) = self.deadline() {
                if now >= deadline {
                    return Poll::Ready(Err(self.cut_off(reason)));
                }
                next_look = next_look.min(deadline);
            }
            if self.timer.is_elapsed() || self.timer.deadline() > next_look {
                self.timer.as_mut().reset(next_look);
            }
            ready!(self.timer.as_mut().poll(context));
        }
    }

    /// Reads a part of a head, as much as the parser should get at a time.
    fn read_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unparsed >= PARSE_BYTES {
            // Lets the parser run before more is read.
            self.unparsed = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Without bytes for the parser it would take the connection for closed.
        while self.passed.is_empty() {
            if self.state.head_bytes() >= MAX_HEAD_BYTES {
                return Poll::Ready(Err(self.cut_off(Cutoff::LargeHead)));
            }
            let mut bytes = [0; PARSE_BYTES];
            let mut part = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.socket).poll_read(context, &mut part) {
                Poll::Pending => return self.wait(context),
                Poll::Ready(Ok(())) if !part.filled().is_empty() => {
                    let part = part.filled();
                    if self.state.head_bytes() == 0 {
                        self.missing_length.start();
                    }
                    self.state.head_read(part.len());
                    self.missing_length.pass(part, &mut self.passed);
                }
                end => return end,
            }
        }
        self.unparsed += self.deliver(buffer);
        Poll::Ready(Ok(()))
    }

    /// Reads a part of a body.
    fn read_body(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.passed.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        self.deliver(buffer);
        Poll::Ready(Ok(()))
    }

    /// Gives the parser bytes that were read before. Returns their number.
    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) -> usize {
        let length = PARSE_BYTES.min(buffer.remaining()).min(self.passed.len());
        buffer.put_slice(&self.passed[..length]);
        self.passed.drain(..length);
        length
    }

    fn cut_off(&self, reason: Cutoff) -> io::Error {
        reason.count(1);
        tracing::debug!(reason = reason.label(), "a connection is cut off");
        if !self.stall.is_on() {
            reason.answer(&self.socket, self.slot.error_form());
        }
        io::Error::new(io::ErrorKind::TimedOut, reason.label())
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.state.remember_reader(context.waker());
        // While the peer does not read its answers, its requests are not read either; their answers would pile up.
        if this.stall.is_on() {
            return this.wait(context);
        }
        match this.state.phase() {
            Phase::Waiting => this.read_head(context, buffer),
            Phase::Handling if this.state.has_unread_body() => this.read_body(context, buffer),
            Phase::Handling | Phase::Answering => {
                let is_more_there = !this.passed.is_empty() || this.socket.poll_read_ready(context).is_ready();
                this.state.set_reader_waits(is_more_there);
                this.wait(context)
            }
            Phase::Draining => match this.read_body(context, buffer) {
                Poll::Pending => this.wait(context),
                read => read,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = match refusal_in(bytes) {
            Some(0) => {
                // Too many headers are the only refusal with another status.
                let reason = if bytes[8..].starts_with(b" 431 ") { Cutoff::LargeHead } else { Cutoff::Malformed };
                reason.count(1);
                reason.answer(&this.socket, this.slot.error_form());
                return Poll::Ready(Ok(bytes.len()));
            }
            Some(start) => &bytes[..start],
            None => bytes,
        };
        match Pin::new(&mut this.socket).poll_write(context, bytes) {
            Poll::Pending => {
                this.stall.start();
                this.wait(context)
            }
            Poll::Ready(written) => {
                if this.stall.end(*written.as_ref().unwrap_or(&0)) {
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
