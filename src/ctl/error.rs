//! Why a command failed, and its exit code.

use std::error::Error;

use reqwest::StatusCode;
use serde_json::Value;
use url::Url;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    /// The command or the environment is not valid.
    #[error("{0}")]
    Usage(String),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    /// The broker did not answer.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        url: Url,
        /// The innermost cause, such as a refused connection.
        reason: String,
    },
    /// The answer is not from a broker.
    #[error("HTTP {0} without JSON: is this the broker's address?")]
    NotABroker(StatusCode),
    /// The broker answered with an error.
    #[error("{}", message(body))]
    Refused {
        status: StatusCode,
        /// The API's error body.
        body: Value,
    },
    /// Nothing was found.
    #[error("{0}")]
    NotFound(String),
    /// Some of several requests failed.
    #[error("{failed} of {total} failed; the first: {first}")]
    Partial {
        failed: usize,
        total: usize,
        /// The first failure with its sandbox.
        first: String,
    },
    /// The reader of the output ended.
    #[error("the output is closed")]
    OutputClosed,
}

impl CtlError {
    /// No answer, for this reason.
    pub(super) fn unreachable(url: &Url, error: &reqwest::Error) -> Self {
        let mut cause: &dyn Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Unreachable { url: url.clone(), reason: cause.to_string() }
    }

    /// The documented exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Client(_) => 2,
            Self::Unreachable { .. } | Self::NotABroker(_) => 6,
            Self::NotFound(_) => 4,
            Self::Partial { .. } | Self::OutputClosed => 1,
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => 3,
                StatusCode::NOT_FOUND => 4,
                StatusCode::CONFLICT => 5,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => 6,
                _ => 1,
            },
        }
    }

    /// Whether the same request may succeed later: the broker restarts, or has too much to do.
    pub(super) fn is_temporary(&self) -> bool {
        self.exit_code() == 6
    }
}

fn message(body: &Value) -> String {
    let part = |name: &str| body["error"][name].as_str().unwrap_or("?").to_owned();
    format!("{}: {} (request {})", part("code"), part("message"), part("request_id"))
}
