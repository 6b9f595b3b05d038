//! One request and its answer, as the connection sees them: where it stands, and an answer in pieces.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use tokio::time::Instant;

/// Answers are handed over in such pieces, so that one that is not taken waits as shared bytes, not as a copy.
const PIECE_BYTES: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is under way.
    Waiting,
    /// A request is being answered; whoever does it has limits of its own.
    Handling,
    /// The answer is on its way.
    Answering,
    /// It was answered with its body unread. The rest may still come, then the connection ends.
    Draining,
}

/// Where a connection stands. Its socket and the requests that come over it share this.
#[derive(Debug)]
pub(super) struct ConnectionState {
    pub(super) phase: Cell<Phase>,
    pub(super) since: Cell<Instant>,
    /// Whether no request has come yet.
    pub(super) is_new: Cell<bool>,
    /// Bytes of a head that is not complete.
    pub(super) head_bytes: Cell<usize>,
    /// When the first of them came.
    pub(super) head_since: Cell<Option<Instant>>,
    pub(super) has_unread_body: Cell<bool>,
    /// Whoever reads from the socket, to look again when the phase has changed.
    reader: RefCell<Option<Waker>>,
    /// Whether there is something to read that was not read, because a request is under way.
    pub(super) reader_waits: Cell<bool>,
}

impl ConnectionState {
    pub(super) fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Waiting),
            since: Cell::new(Instant::now()),
            is_new: Cell::new(true),
            head_bytes: Cell::new(0),
            head_since: Cell::new(None),
            has_unread_body: Cell::new(false),
            reader: RefCell::new(None),
            reader_waits: Cell::new(false),
        }
    }

    /// Whether the request that is about to begin came together with the one before it.
    pub(super) fn is_pipelined(&self) -> bool {
        self.head_bytes.get() == 0
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
    }

    pub(super) fn remember_reader(&self, reader: &Waker) {
        let mut remembered = self.reader.borrow_mut();
        if !remembered.as_ref().is_some_and(|remembered| remembered.will_wake(reader)) {
            *remembered = Some(reader.clone());
        }
    }

    pub(super) fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// The body of the request under way is read.
    pub(super) fn body_is_read(&self) {
        self.has_unread_body.set(false);
    }
}

/// One request and its answer; over when this is dropped.
#[derive(Debug)]
pub(super) struct RequestInProgress(Rc<ConnectionState>);

impl RequestInProgress {
    /// A request has come.
    pub(super) fn begin(state: &Rc<ConnectionState>, has_body: bool) -> Self {
        state.enter(Phase::Handling);
        state.is_new.set(false);
        state.head_bytes.set(0);
        state.head_since.set(None);
        state.has_unread_body.set(has_body);
        Self(Rc::clone(state))
    }

    /// The answer is there. Returns whether the connection must end after it, because the body was not read.
    pub(super) fn answer(&self) -> bool {
        let has_unread_body = self.0.has_unread_body.get();
        self.0.enter(if has_unread_body { Phase::Draining } else { Phase::Answering });
        if has_unread_body {
            self.0.wake_reader();
        }
        has_unread_body
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        if self.0.phase.get() == Phase::Draining {
            return;
        }
        self.0.enter(Phase::Waiting);
        if self.0.reader_waits.take() {
            self.0.wake_reader();
        }
    }
}

/// The body of an answer, in pieces. The in_progress is over when it is sent.
pub(super) struct Answer {
    body: BoxBody,
    rest: Bytes,
    _exchange: Option<RequestInProgress>,
}

impl Answer {
    pub(super) fn new(body: BoxBody, in_progress: Option<RequestInProgress>) -> Self {
        Self { body, rest: Bytes::new(), _exchange: in_progress }
    }
}

impl MessageBody for Answer {
    type Error = Box<dyn StdError>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_next(context)) {
                Some(Ok(bytes)) => this.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let length = this.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(this.rest.split_to(length))))
    }
}
