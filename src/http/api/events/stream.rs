//! The endpoint that streams the feed.

use std::convert::Infallible;

use actix_web::body::BoxBody;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse, Responder};
use futures_util::stream;
use utoipa::openapi::schema::Type;

use super::feed::{EventFeed, Snapshot, Subscription};
use super::journal::Event;
use crate::http::api::headers::LastEventId;
use crate::http::api::input::Head;
use crate::http::error::{ApiError, ErrorCode};
use crate::http::operation::{OperationParts, Output};

/// A stream of server-sent events.
pub(crate) struct EventStream(Subscription);

impl Responder for EventStream {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let frames = stream::unfold(self.0, |mut subscription| async {
            let frame = subscription.next().await?;
            Some((Ok::<_, Infallible>(Bytes::from(frame)), subscription))
        });
        HttpResponse::Ok()
            .content_type("text/event-stream")
            .insert_header(("x-accel-buffering", "no"))
            .streaming(frames)
    }
}

impl Output for EventStream {
    fn document(parts: &mut OperationParts) {
        let description = "Events, until the client or the broker ends the stream. The `data` of each is a `Snapshot` or \
                           an array of `Event`";
        parts.answers_content(&["text/event-stream"], Type::String, description);
        parts.mentions::<Snapshot>();
        parts.mentions::<Event>();
    }
}

pub(crate) async fn events(
    feed: web::Data<EventFeed>,
    Head(LastEventId(last)): Head<LastEventId>,
) -> Result<EventStream, ApiError> {
    let subscription = Subscription::new(feed.into_inner(), last.as_deref()).ok_or(ErrorCode::TooManyStreams)?;
    Ok(EventStream(subscription))
}
