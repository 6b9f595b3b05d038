//! The CSP's two calls over HTTP: list the accounts, delete one.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use broker_actors::SPANS;
use broker_actors::error::cause;
use broker_actors::ports::{CspClient, CspDeletion, CspError, CspListing};
use broker_actors::sandbox::{CspAccount, SandboxId, Timestamp};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tracing::Instrument as _;
use url::Url;

use crate::{telemetry, tls};

/// The largest listing that is read (I8). It holds more than a hundred thousand accounts.
const MAX_LISTING_BYTES: usize = 64 * 1024 * 1024;

/// The longest `Retry-After` of the CSP that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Number of ids of skipped records in the log line.
const SKIPPED_SAMPLE: usize = 5;

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
        let url = self.url(&["current_user", "accounts"]);
        let answer = check(self.send("csp list", self.http.get(url)).await?)?;
        if answer.status() != StatusCode::OK {
            return Err(CspError::BadAnswer(cause(format!("HTTP {} to the listing", answer.status()))));
        }
        read_listing(&read_body(answer).await?)
    }

    async fn delete(&self, external_id: &str) -> Result<CspDeletion, CspError> {
        let uuid = external_id.rsplit('/').next().unwrap_or(external_id);
        let url = self.url(&["sandbox", "accounts", uuid]);
        let answer = self.send("csp delete", self.http.delete(url)).await?;
        match check(answer)?.status() {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(CspDeletion::Deleted),
            StatusCode::NOT_FOUND => Ok(CspDeletion::AlreadyGone),
            other => Err(CspError::BadAnswer(cause(format!("HTTP {other} to a deletion")))),
        }
    }
}

/// Turns the statuses that mean the same for both calls into errors.
fn check(answer: Response) -> Result<Response, CspError> {
    match answer.status() {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(CspError::Unauthorized { status: status.as_u16() })
        }
        StatusCode::TOO_MANY_REQUESTS => Err(CspError::Throttled { retry_after: retry_after(answer.headers()) }),
        status if status.is_server_error() => Err(CspError::Unavailable(cause(format!("HTTP {status}")))),
        _ => Ok(answer),
    }
}

/// The wait that the CSP asks for, in its form in seconds. With the other form, a date, the job's own backoff applies.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

fn unreachable_csp(error: reqwest::Error) -> CspError {
    CspError::Unavailable(cause(error))
}

async fn read_body(mut answer: Response) -> Result<Vec<u8>, CspError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable_csp)? {
        if body.len() + chunk.len() > MAX_LISTING_BYTES {
            return Err(CspError::BadAnswer(cause(format!("the listing is larger than {MAX_LISTING_BYTES} bytes"))));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[derive(Deserialize)]
struct ListingBody {
    results: Vec<serde_json::Value>,
}

/// The fields of a record that are read. All others are ignored.
#[derive(Deserialize)]
struct Record {
    id: String,
    name: String,
    csp_id: serde_json::Number,
    created_at: Option<String>,
    sfdc_account_id: Option<String>,
}

fn read_listing(body: &[u8]) -> Result<CspListing, CspError> {
    let body: ListingBody = serde_json::from_slice(body).map_err(|error| CspError::BadAnswer(cause(error)))?;
    let mut listing = CspListing::default();
    let mut seen = HashSet::new();
    let mut skipped_ids = Vec::new();
    for record in body.results {
        if record["account_type"] != "sandbox" || record["state"] != "active" {
            continue;
        }
        let id = record["id"].to_string();
        match read_record(record).filter(|account| seen.insert(account.sandbox_id.clone())) {
            Some(account) => listing.accounts.push(account),
            None => {
                listing.skipped += 1;
                skipped_ids.push(id);
            }
        }
    }
    if listing.skipped > 0 {
        skipped_ids.truncate(SKIPPED_SAMPLE);
        tracing::warn!(
            event = "csp_records_skipped",
            skipped = listing.skipped,
            sample = ?skipped_ids,
            "the CSP's listing has records that cannot be used"
        );
    }
    Ok(listing)
}

/// The account, if the record has a whole number, a name, and an id that fits into the path of a deletion.
fn read_record(record: serde_json::Value) -> Option<CspAccount> {
    let record: Record = serde_json::from_value(record).ok()?;
    let uuid = record.id.strip_prefix("identity/accounts/")?;
    let is_segment = !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_segment || record.name.is_empty() {
        return None;
    }
    let created_at = record.created_at.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    Some(CspAccount {
        sandbox_id: SandboxId::new(record.csp_id.as_u64()?.to_string()),
        name: record.name,
        external_id: record.id,
        sfdc_account_id: record.sfdc_account_id.filter(|account| !account.is_empty()),
        created_at: created_at.and_then(|at| u64::try_from(at.as_second()).ok()).map(Timestamp),
    })
}
