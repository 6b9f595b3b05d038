//! What a connection's request is doing. The socket and the requests that come over it share this.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is in progress.
    Waiting,
    /// A request is being handled. The handler has time limits of its own.
    Handling,
    /// The answer is being sent.
    Answering,
    /// The request was answered with its body unread. The rest of the body is still taken, then the connection ends.
    Draining,
}

/// The state of one connection. All of it is touched by one thread only.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: Cell<Phase>,
    phase_since: Cell<Instant>,
    /// Whether only probes are answered, because there are too many connections.
    is_for_probes: bool,
    /// Whether no request has come yet.
    is_new: Cell<bool>,
    /// The bytes of a head that is not complete.
    head_bytes: Cell<usize>,
    /// When the first of them came.
    head_since: Cell<Option<Instant>>,
    has_unread_body: Cell<bool>,
    /// The task that reads from the socket. It is woken when it may read again.
    reader: RefCell<Option<Waker>>,
    /// Tells the request in progress that the peer sends no more.
    peer_closed: Notify,
    /// Whether bytes arrived that were not read, because a request is in progress.
    reader_waits: Cell<bool>,
}

impl ConnectionState {
    pub(super) fn new(is_for_probes: bool) -> Self {
        Self {
            is_for_probes,
            phase: Cell::new(Phase::Waiting),
            phase_since: Cell::new(Instant::now()),
            is_new: Cell::new(true),
            head_bytes: Cell::new(0),
            head_since: Cell::new(None),
            has_unread_body: Cell::new(false),
            peer_closed: Notify::new(),
            reader: RefCell::new(None),
            reader_waits: Cell::new(false),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// When the present phase started.
    pub(super) fn phase_since(&self) -> Instant {
        self.phase_since.get()
    }

    pub(super) fn is_for_probes(&self) -> bool {
        self.is_for_probes
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new.get()
    }

    /// The bytes of the incomplete head so far.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes.get()
    }

    /// When the first byte of the incomplete head came.
    pub(super) fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }

    pub(super) fn has_unread_body(&self) -> bool {
        self.has_unread_body.get()
    }

    /// Counts bytes that were read from a head.
    pub(super) fn head_read(&self, bytes: usize) {
        self.head_bytes.set(self.head_bytes.get() + bytes);
        if self.head_since.get().is_none() && bytes > 0 {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// The head of a request is complete. Returns whether the request came in one piece with the one before.
    pub(super) fn start_request(&self, has_body: bool) -> bool {
        let is_pipelined = self.head_bytes.get() == 0;
        self.enter(Phase::Handling);
        self.is_new.set(false);
        self.head_bytes.set(0);
        self.head_since.set(None);
        self.has_unread_body.set(has_body);
        is_pipelined
    }

    /// The body of the request was read to its end.
    pub(super) fn body_read(&self) {
        self.has_unread_body.set(false);
    }

    /// The answer is ready. Returns whether the connection must end after it, because the body was not read.
    pub(super) fn start_answer(&self) -> bool {
        let has_unread_body = self.has_unread_body.get();
        self.enter(if has_unread_body { Phase::Draining } else { Phase::Answering });
        if has_unread_body {
            self.wake_reader();
        }
        has_unread_body
    }

    /// The request is over: answered or dropped.
    pub(super) fn end_request(&self) {
        if self.phase.get() == Phase::Draining {
            return;
        }
        self.enter(Phase::Waiting);
        if self.reader_waits.take() {
            self.wake_reader();
        }
    }

    pub(super) fn remember_reader(&self, reader: &Waker) {
        let mut remembered = self.reader.borrow_mut();
        if !remembered.as_ref().is_some_and(|remembered| remembered.will_wake(reader)) {
            *remembered = Some(reader.clone());
        }
    }

    /// Whether the reader is to be woken at the end of the request.
    pub(super) fn set_reader_waits(&self, waits: bool) {
        self.reader_waits.set(waits);
    }

    pub(super) fn set_peer_closed(&self) {
        self.peer_closed.notify_one();
    }

    /// Waits until the peer has closed its side while a request is in progress.
    pub(super) async fn peer_closed(&self) {
        self.peer_closed.notified().await;
    }

    pub(super) fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.phase_since.set(Instant::now());
    }
}
