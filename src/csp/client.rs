//! The CSP's two calls over HTTP: list the accounts, delete one.

use std::time::Duration;

use async_trait::async_trait;
use broker_actors::SPANS;
use broker_actors::error::{Cause, Chain, cause};
use broker_actors::ports::{CspClient, CspDeletion, CspError, CspListing};
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tracing::Instrument as _;
use url::Url;

use super::listing::Pages;
use crate::{telemetry, tls};

/// The largest listing that is read, over all its pages (I8). It holds more than a hundred thousand accounts.
const MAX_LISTING_BYTES: usize = 64 * 1024 * 1024;

/// The largest page that is read.
const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The longest `Retry-After` of the CSP that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The largest answer to a deletion that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The longest part of an answer that errors quote, in characters.
const MAX_QUOTE_CHARS: usize = 300;

/// Why the settings make no client.
#[derive(Debug, thiserror::Error)]
pub enum CspConfigError {
    /// An HTTP header cannot carry the token.
    #[error("CSP_API_TOKEN has characters that an HTTP header cannot carry")]
    Token,
    /// The HTTP client cannot be built.
    #[error("the HTTP client for the CSP cannot be built")]
    Client(#[source] reqwest::Error),
}

/// A client for the CSP's API.
#[derive(Clone, Debug)]
pub struct HttpCsp {
    /// Sends the token with every request.
    http: reqwest::Client,
    base_url: Url,
}

impl HttpCsp {
    /// A client for the CSP at `base_url`. `connect_timeout` bounds the connecting, `read_timeout` each wait for more of
    /// the answer.
    ///
    /// # Errors
    ///
    /// See [`CspConfigError`].
    pub fn new(
        base_url: Url,
        token: &SecretString,
        connect_timeout: Duration,
        read_timeout: Duration,
    ) -> Result<Self, CspConfigError> {
        let mut authorization = HeaderValue::try_from(format!("Token {}", token.expose_secret().trim()))
            .map_err(|_| CspConfigError::Token)?;
        authorization.set_sensitive(true);
        let http = tls::client_builder(&base_url)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]))
            .connect_timeout(connect_timeout)
            .read_timeout(read_timeout)
            // Otherwise a CSP that sends one byte at a time would hold a job forever.
            .timeout((connect_timeout + read_timeout) * 4)
            // A redirect would send the token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(CspConfigError::Client)?;
        Ok(Self { http, base_url })
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    async fn send(&self, name: &'static str, request: RequestBuilder) -> Result<Response, CspError> {
        let span = tracing::info_span!(target: SPANS, "csp", otel.name = name, otel.kind = "client");
        async {
            let mut context = HeaderMap::new();
            telemetry::inject_context(&mut context);
            request.headers(context).send().await.map_err(unreachable_csp)
        }
        .instrument(span)
        .await
    }
}

#[async_trait]
impl CspClient for HttpCsp {
    async fn list(&self) -> Result<CspListing, CspError> {
        let first = self.url(&["current_user", "accounts"]);
        let mut pages = Pages::new(first.clone());
        let (mut next, mut bytes_left) = (Some(first), MAX_LISTING_BYTES);
        while let Some(url) = next {
            next = match self.page(&mut pages, &url, &mut bytes_left).await {
                Ok(next) => next,
                // What was read so far shows which accounts exist, and no more.
                Err(error) if pages.has_any() && !is_about_all_calls(&error) => {
                    tracing::warn!(event = "csp_page_failed", error = %Chain(&error), "a page of the listing failed");
                    None
                }
                Err(error) => return Err(error),
            };
        }
        Ok(pages.finish())
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        let uuid = external_id.rsplit('/').next().unwrap_or(external_id);
        let url = self.url(&["sandbox", "accounts", uuid]);
        let answer = self.send("csp delete", self.http.delete(url)).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => return Ok(CspDeletion::Deleted),
            StatusCode::ACCEPTED => return Ok(CspDeletion::Accepted),
            StatusCode::GONE => return Ok(CspDeletion::AlreadyGone),
            _ => {}
        }
        let body = read_quotable(answer).await;
        let quoted = || cause(quote(status, &body));
        Err(match status {
            StatusCode::NOT_FOUND if is_of_api(&body) => return Ok(CspDeletion::AlreadyGone),
            StatusCode::NOT_FOUND => CspError::ForeignNotFound(quoted()),
            StatusCode::UNAUTHORIZED => CspError::Unauthorized { status: status.as_u16() },
            status if is_overload(status) => overload(status, &headers, quoted),
            status if status.is_client_error() => CspError::Refused { status: status.as_u16(), answer: quoted() },
            _ => CspError::BadAnswer(quoted()),
        })
    }
}

impl HttpCsp {
    /// Reads one page, and returns the next one.
    async fn page(&self, pages: &mut Pages, url: &Url, bytes_left: &mut usize) -> Result<Option<Url>, CspError> {
        let answer = self.send("csp list", self.http.get(url.clone())).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(CspError::Unauthorized { status: status.as_u16() });
            }
            status if is_overload(status) => {
                return Err(overload(status, &headers, || cause(format!("HTTP {status} to the listing"))));
            }
            _ => return Err(CspError::BadAnswer(cause(format!("HTTP {status} to the listing")))),
        }
        pages.add(url, &headers, &read_body(answer, bytes_left).await?)
    }
}

/// Whether a failed page makes the whole listing fail: the CSP must not be asked again, or the token is wrong.
fn is_about_all_calls(error: &CspError) -> bool {
    matches!(error, CspError::Throttled { .. } | CspError::Unauthorized { .. })
}

/// Whether the status says that the CSP is asked too much, or does not work.
fn is_overload(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn overload(status: StatusCode, headers: &HeaderMap, answer: impl FnOnce() -> Cause) -> CspError {
    match retry_after(headers) {
        None if status != StatusCode::TOO_MANY_REQUESTS => CspError::Unavailable(answer()),
        retry_after => CspError::Throttled { retry_after },
    }
}

/// The wait that the CSP asks for, in seconds or as a date by the CSP's own clock. Of another form, the job's own backoff
/// applies.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(RETRY_AFTER)?;
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp().as_second());
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let seconds = date(value)?.checked_sub(date(text(DATE)?)?)?;
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Whether a 404 comes from the API, which answers in JSON or with no body. Gateways answer with a page or a line of text.
fn is_of_api(body: &[u8]) -> bool {
    body.is_empty() || serde_json::from_slice::<Value>(body).is_ok_and(|body| body.is_object())
}

fn unreachable_csp(error: reqwest::Error) -> CspError {
    CspError::Unavailable(cause(error))
}

async fn read_body(mut answer: Response, bytes_left: &mut usize) -> Result<Vec<u8>, CspError> {
    // A vector that grows would take twice its length for a while.
    let length = answer.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut body = Vec::with_capacity(length.min(MAX_PAGE_BYTES));
    while let Some(chunk) = answer.chunk().await.map_err(unreachable_csp)? {
        if body.len() + chunk.len() > MAX_PAGE_BYTES {
            return Err(CspError::BadAnswer(cause(format!("a page is larger than {MAX_PAGE_BYTES} bytes"))));
        }
        let Some(left) = bytes_left.checked_sub(chunk.len()) else {
            return Err(CspError::BadAnswer(cause(format!("the listing is larger than {MAX_LISTING_BYTES} bytes"))));
        };
        *bytes_left = left;
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The start of an answer. What cannot be read is left out; the status counts.
async fn read_quotable(mut answer: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        let left = MAX_ANSWER_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if body.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    body
}

/// The status and the start of the answer, as one line of text.
fn quote(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.split_whitespace().flat_map(|word| [word, " "]).collect();
    let quoted: String = line.trim_end().chars().filter(|char| !char.is_control()).take(MAX_QUOTE_CHARS).collect();
    if quoted.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {quoted}") }
}
