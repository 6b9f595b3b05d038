//! Why a connection is cut off, and the client's last answer.

use actix_web::rt::net::TcpStream;

use crate::http::error::{ApiError, ErrorCode, ErrorForm};
use crate::http::middleware::request_id;
use crate::http::middleware::security_headers::SECURITY_HEADERS;

/// A reason to cut a connection off.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cutoff {
    TooMany,
    SlowHead,
    LargeHead,
    /// The parser refused the request.
    Malformed,
    SlowBody,
    Idle,
    NotReading,
}

impl Cutoff {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::SlowHead => "slow_head",
            Self::LargeHead => "large_head",
            Self::Malformed => "malformed",
            Self::SlowBody => "slow_body",
            Self::Idle => "idle",
            Self::NotReading => "not_reading",
        }
    }

    pub(super) fn count(self, times: u64) {
        metrics::counter!("broker_connections_cut_total", "reason" => self.label()).increment(times);
    }

    /// Answers the client if it is owed an answer, as far as the socket takes it at once.
    pub(super) fn answer(self, socket: &TcpStream, form: ErrorForm) {
        let code = match self {
            Self::TooMany => ErrorCode::TooManyConnections,
            Self::SlowHead => ErrorCode::RequestTimeout,
            Self::LargeHead => ErrorCode::HeadTooLarge,
            Self::Malformed => ErrorCode::BadRequest,
            Self::SlowBody | Self::Idle | Self::NotReading => return,
        };
        let error = ApiError::from(code);
        let request_id = request_id::new();
        let body = serde_json::to_string(&error.body(&request_id, form)).unwrap_or_default();
        let retry_after = error.retry_after_seconds().map(|seconds| format!("retry-after: {seconds}\r\n"));
        let security: String = SECURITY_HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer = format!(
            "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-request-id: {request_id}\r\n{}{security}\r\n{body}",
            code.status(),
            body.len(),
            retry_after.unwrap_or_default(),
        );
        if matches!(self, Self::Malformed | Self::LargeHead) {
            // The access log has no line of it, because it never becomes a request.
            tracing::info!(
                event = "request",
                request_id,
                status = code.status().as_u16(),
                action = self.label(),
                outcome = "error",
                code = code.as_str(),
                peer = socket.peer_addr().ok().map(|peer| peer.to_string()),
                "request"
            );
        }
        let _ = socket.try_write(answer.as_bytes());
    }
}
