//! A client for the API.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::Url;

use super::error::CtlError;
use crate::http::error::ErrorCode;
use crate::tls;

/// How long a request may take. A job may run for minutes.
const TIMEOUT: Duration = Duration::from_secs(600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of a request while the broker answers with `Retry-After`.
const MAX_ATTEMPTS: u32 = 4;

/// The longest `Retry-After` that is waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The largest page that the API returns.
const PAGE: u32 = 100;

/// A client for the API of the operators, or for that of the tracks.
pub(super) struct Client {
    /// Sends token and operator with every request.
    http: reqwest::Client,
    url: Url,
    /// What the paths of its requests start with.
    root: &'static str,
}

impl Client {
    /// A client that sends the first of these comma-separated admin tokens.
    pub(super) fn of_operators(url: Url, tokens: &SecretString, operator: Option<&str>) -> Result<Self, CtlError> {
        Self::with_root(url, "v1/admin", tokens, operator)
    }

    /// A client for the API of the tracks, that sends the first of these comma-separated track tokens.
    pub(super) fn of_tracks(url: Url, tokens: &SecretString) -> Result<Self, CtlError> {
        Self::with_root(url, "v1", tokens, None)
    }

    fn with_root(
        url: Url,
        root: &'static str,
        tokens: &SecretString,
        operator: Option<&str>,
    ) -> Result<Self, CtlError> {
        let usage = |text: &str| CtlError::Usage(text.to_owned());
        let token = tokens.expose_secret().split(',').next().unwrap_or_default().trim();
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| usage("the token holds characters that an HTTP header cannot carry"))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, authorization)]);
        if let Some(Ok(operator)) = operator.map(|name| HeaderValue::try_from(encode(name))) {
            headers.insert(HeaderName::from_static("x-operator"), operator);
        }
        let http = tls::client_builder(&url)
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(CtlError::Client)?;
        Ok(Self { http, url, root })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::POST, path, None).await
    }

    /// Sends a request. It is repeated while the broker answers that it was not carried out and when to
    /// try again.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CtlError> {
        for attempt in 1.. {
            let mut request = self.http.request(method.clone(), self.url_of(path)).timeout(TIMEOUT);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let answer = self.read(answer).await;
            match answer.as_ref().err().and_then(|error| requested_wait(error, &method)) {
                Some(wait) if attempt < MAX_ATTEMPTS => tokio::time::sleep(wait).await,
                _ => return answer,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Opens an answer that does not end by itself.
    pub(super) async fn open(&self, path: &str) -> Result<Response, CtlError> {
        let answer = self.http.get(self.url_of(path)).send().await.map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.read(answer).await.err().unwrap_or(CtlError::NotABroker(StatusCode::OK)))
    }

    /// The sandboxes of all pages, or the first ones, filtered by these parameters.
    pub(super) async fn sandboxes(&self, query: &str, limit: Option<u32>) -> Result<Vec<Value>, CtlError> {
        self.pages("sandboxes", "sandboxes", query, limit).await
    }

    /// The operators' last orders that match.
    pub(super) async fn audit(
        &self,
        by: Option<&str>,
        action: Option<&str>,
        target: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Value>, CtlError> {
        let filter = [("by", by), ("action", action), ("target", target)];
        let filter = filter.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encode(value?))));
        self.pages("audit", "entries", &filter.collect::<String>(), Some(limit)).await
    }

    /// The rows of all pages of a listing, or the first ones.
    async fn pages(&self, path: &str, list: &str, query: &str, limit: Option<u32>) -> Result<Vec<Value>, CtlError> {
        let limit = limit.map_or(usize::MAX, |limit| limit as usize);
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let size = (PAGE as usize).min(limit - rows.len());
            let mut page = self.get(&format!("{path}?limit={size}{query}{cursor}")).await?;
            if let Value::Array(listed) = page[list].take() {
                rows.extend(listed);
            }
            match page["cursor"].as_str() {
                Some(next) if rows.len() < limit => cursor = format!("&cursor={}", encode(next)),
                _ => return Ok(rows),
            }
        }
    }

    /// The error for a request without an answer.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> CtlError {
        CtlError::unreachable(&self.url, error)
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}/{}/{path}", self.url.as_str().trim_end_matches('/'), self.root)
    }

    async fn read(&self, answer: Response) -> Result<Value, CtlError> {
        let status = answer.status();
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        let body: Value = serde_json::from_str(&text).map_err(|_| CtlError::NotABroker(status))?;
        if status.is_success() { Ok(body) } else { Err(CtlError::Refused { status, body }) }
    }
}

/// The wait that the broker asks for before another attempt, if the request was not carried out.
fn requested_wait(error: &CtlError, method: &Method) -> Option<Duration> {
    let CtlError::Refused { status, body } = error else { return None };
    let is_temporary = matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let code = body["error"]["code"].as_str().unwrap_or_default();
    // These may have taken effect, in full or in part.
    let is_in_doubt = [ErrorCode::OutcomeUnknown, ErrorCode::RunInterrupted].iter().any(|doubt| doubt.as_str() == code);
    let seconds = body["error"]["retry_after"].as_u64()?;
    let is_safe = !is_in_doubt || *method == Method::GET;
    (is_temporary && is_safe).then(|| Duration::from_secs(seconds).min(MAX_WAIT))
}

/// What is encoded in a path: the broker refuses paths with encoded unreserved characters (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a text for a path, a query or a header.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The path of an actor, with what follows its name.
pub(super) fn actor_path(name: &str, rest: &str) -> String {
    format!("actors/{}{rest}", encode(name))
}

/// The path of a sandbox, with what follows its id.
pub(super) fn sandbox_path(id: &str, rest: &str) -> String {
    format!("sandboxes/{}{rest}", encode(id))
}
