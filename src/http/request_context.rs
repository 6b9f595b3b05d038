//! What the log line of a request and the operators' journal say beyond method, path and status.

use std::time::Duration;

use actix_web::{HttpMessage as _, HttpRequest};

/// The context of a request that was admitted. It is added to while the request is handled.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestContext {
    /// The calling track.
    pub(crate) track_id: Option<String>,
    /// The lab's slug.
    pub(crate) instruqt_track_id: Option<String>,
    /// The sandbox that the request is about.
    pub(crate) sandbox_id: Option<String>,
    /// The calling operator.
    pub(crate) operator: Option<String>,
    /// The outcome, where `ok` or `error` would not say enough.
    pub(crate) outcome: Option<&'static str>,
    /// How long an allocation waited in the queue, if it did.
    pub(crate) waited: Option<Duration>,
}

impl RequestContext {
    /// Starts the context of an admitted request.
    pub(crate) fn start(request: &HttpRequest) {
        request.extensions_mut().insert(Self::default());
    }

    /// Adds to the context of an admitted request.
    pub(crate) fn add(request: &HttpRequest, add: impl FnOnce(&mut Self)) {
        if let Some(context) = request.extensions_mut().get_mut() {
            add(context);
        }
    }

    /// The context so far; `None` if the request was not admitted.
    pub(crate) fn of(request: &HttpRequest) -> Option<Self> {
        request.extensions().get().cloned()
    }
}
