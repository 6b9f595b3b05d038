//! Sends the body of an answer in pieces.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;

/// The size of a piece. The rest of an answer that the peer does not take waits as shared bytes, not as a copy.
const PIECE_BYTES: usize = 8 * 1024;

/// A body in pieces. `in_progress` is dropped when the body has been sent.
pub(super) struct PiecewiseBody<P> {
    body: BoxBody,
    rest: Bytes,
    _in_progress: P,
}

impl<P> PiecewiseBody<P> {
    pub(super) fn new(body: BoxBody, in_progress: P) -> Self {
        Self { body, rest: Bytes::new(), _in_progress: in_progress }
    }

    /// The answer to HEAD: the size of the body, and nothing of it. A body that never ends must not be sent in vain.
    pub(super) fn without_content(body: &BoxBody, in_progress: P) -> Self {
        Self::new(BoxBody::new(NoContent(body.size())), in_progress)
    }
}

struct NoContent(BodySize);

impl MessageBody for NoContent {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}

impl<P: Unpin> MessageBody for PiecewiseBody<P> {
    type Error = Box<dyn Error>;

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
