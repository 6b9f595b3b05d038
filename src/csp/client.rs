//! The CSP's two calls over HTTP: list the accounts, delete one.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use broker_actors::SPANS;
use broker_actors::error::cause;
use broker_actors::ports::{CspClient, CspDeletion, CspError, CspListing};
use broker_actors::sandbox::{CspAccount, SandboxId, Timestamp};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tracing::Instrument as _;
use url::Url;

use crate::{telemetry, tls};

/// The largest listing that is read (I8). It holds more than thirty thousand accounts.
const MAX_LISTING_BYTES: usize = 16 * 1024 * 1024;

/// The longest name or id of an account. Longer ones would make items that are slow to read or that no store takes.
const MAX_TEXT_CHARS: usize = 256;

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
    // A vector that grows would take twice its length for a while.
    let length = answer.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut body = Vec::with_capacity(length.min(MAX_LISTING_BYTES));
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
    results: Records,
}

/// The accounts of the array, which is read record by record: as a whole it takes a hundred times its length in memory.
#[derive(Default)]
struct Records {
    listing: CspListing,
    seen: HashSet<u64>,
    /// Some ids of skipped records.
    skipped_ids: Vec<String>,
}

/// What a record is. A record of another kind is none of ours.
#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    account_type: serde_json::Value,
    #[serde(default)]
    state: serde_json::Value,
    #[serde(default)]
    id: serde_json::Value,
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

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Records;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of accounts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Records, A::Error> {
                let mut records = Records::default();
                while let Some(record) = array.next_element::<&RawValue>()? {
                    records.add(record.get());
                }
                Ok(records)
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

impl Records {
    fn add(&mut self, record: &str) {
        // serde would also read an array as the values of the fields.
        let kind = Some(record).filter(|record| record.starts_with('{'));
        let Some(kind) = kind.and_then(|record| serde_json::from_str::<Kind>(record).ok()) else { return };
        if kind.account_type != "sandbox" || kind.state != "active" {
            return;
        }
        match read_record(record).filter(|(csp_id, _)| self.seen.insert(*csp_id)) {
            Some((_, account)) => self.listing.accounts.push(account),
            None => {
                self.listing.skipped += 1;
                if self.skipped_ids.len() < SKIPPED_SAMPLE {
                    self.skipped_ids.push(kind.id.to_string().chars().take(MAX_TEXT_CHARS).collect());
                }
            }
        }
    }
}

fn read_listing(body: &[u8]) -> Result<CspListing, CspError> {
    let body: ListingBody = serde_json::from_slice(body).map_err(|error| CspError::BadAnswer(cause(error)))?;
    let Records { listing, skipped_ids, .. } = body.results;
    if listing.skipped > 0 {
        tracing::warn!(
            event = "csp_records_skipped",
            skipped = listing.skipped,
            sample = ?skipped_ids,
            "the CSP's listing has records that cannot be used"
        );
    }
    Ok(listing)
}

/// Whether this is 1 to 256 characters, none of which controls a terminal.
fn is_text(text: &str) -> bool {
    (1..=MAX_TEXT_CHARS).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// The account with its number, if the record has a whole number, fit texts, and an id that fits into the path of a
/// deletion.
fn read_record(record: &str) -> Option<(u64, CspAccount)> {
    let record: Record = serde_json::from_str(record).ok()?;
    let uuid = record.id.strip_prefix("identity/accounts/")?;
    let is_segment = !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let sfdc_account_id = record.sfdc_account_id.filter(|account| !account.is_empty());
    let are_texts = is_text(&record.id) && is_text(&record.name) && sfdc_account_id.as_deref().is_none_or(is_text);
    if !is_segment || !are_texts {
        return None;
    }
    let csp_id = record.csp_id.as_u64()?;
    let created_at = record.created_at.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let account = CspAccount {
        sandbox_id: SandboxId::new(csp_id.to_string()),
        name: record.name,
        external_id: record.id,
        sfdc_account_id,
        created_at: created_at.and_then(|at| u64::try_from(at.as_second()).ok()).map(Timestamp),
    };
    Some((csp_id, account))
}
