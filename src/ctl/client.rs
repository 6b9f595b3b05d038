//! The admin API, seen from the command line.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::Url;

/// A run of a job may take its time.
const TIMEOUT: Duration = Duration::from_secs(600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// So often a read is asked again when the broker says "later".
const MAX_ATTEMPTS: u32 = 4;

/// The longest that a "later" of the broker is waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The largest page that the API gives.
const PAGE: u32 = 100;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    /// The command cannot be carried out as it was given.
    #[error("{0}")]
    Usage(String),
    /// The broker did not answer.
    #[error("the broker does not answer: {0}")]
    Unreachable(String),
    /// The broker answered with an error.
    #[error("{}", message(body))]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The error form.
        body: Value,
    },
    /// Some of many failed.
    #[error("{failed} of {total} failed; the first: {first}")]
    Partial {
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
        /// What the first failure said.
        first: String,
    },
}

impl CtlError {
    /// The documented exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 6,
            Self::Partial { .. } => 1,
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => 3,
                StatusCode::NOT_FOUND => 4,
                StatusCode::CONFLICT => 5,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => 6,
                _ => 1,
            },
        }
    }
}

fn message(body: &Value) -> String {
    let part = |name: &str| body["error"][name].as_str().unwrap_or("?").to_owned();
    format!("{}: {} (request {})", part("code"), part("message"), part("request_id"))
}

/// The client.
pub(super) struct AdminClient {
    http: reqwest::Client,
    url: Url,
}

impl AdminClient {
    /// A client with the first of these tokens.
    pub(super) fn new(url: Url, tokens: &SecretString, operator: Option<&str>) -> Result<Self, CtlError> {
        let usage = |text: &str| CtlError::Usage(text.to_owned());
        let token = tokens.expose_secret().split(',').next().unwrap_or_default().trim();
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| usage("BROKER_ADMIN_TOKEN has characters that no token has"))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, authorization)]);
        // A name that the API would not take is left away; the broker then notes the address alone.
        let is_fit = |name: &&str| (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(Ok(operator)) = operator.filter(is_fit).map(HeaderValue::from_str) {
            headers.insert(HeaderName::from_static("x-operator"), operator);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| CtlError::Usage(error.to_string()))?;
        Ok(Self { http, url })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::POST, path, None).await
    }

    /// Sends a request to the admin API. A read that comes too early is repeated when the broker says so; an order is
    /// not, since it may have been carried out.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CtlError> {
        let url = format!("{}/v1/admin/{path}", self.url.as_str().trim_end_matches('/'));
        let attempts = if method == Method::GET { MAX_ATTEMPTS } else { 1 };
        for attempt in 1.. {
            let mut request = self.http.request(method.clone(), &url);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = request.send().await.map_err(|error| CtlError::Unreachable(error.to_string()))?;
            match later(&answer) {
                Some(wait) if attempt < attempts => tokio::time::sleep(wait).await,
                _ => return read(answer).await,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// All sandboxes of a status, over all pages.
    pub(super) async fn sandboxes(&self, status: Option<&str>, search: Option<&str>) -> Result<Vec<Value>, CtlError> {
        let parameter =
            |name, value: Option<&str>| value.map_or(String::new(), |value| format!("&{name}={}", encode(value)));
        let filter = parameter("status", status) + &parameter("search", search);
        let mut sandboxes = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = self.get(&format!("sandboxes?limit={PAGE}{filter}{cursor}")).await?;
            if let Value::Array(listed) = page["sandboxes"].take() {
                sandboxes.extend(listed);
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encode(next)),
                None => return Ok(sandboxes),
            }
        }
    }
}

fn later(answer: &Response) -> Option<Duration> {
    let is_later = matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    is_later.then(|| Duration::from_secs(seconds).min(MAX_WAIT))
}

async fn read(answer: Response) -> Result<Value, CtlError> {
    let status = answer.status();
    let text = answer.text().await.map_err(|error| CtlError::Unreachable(error.to_string()))?;
    let body: Value = serde_json::from_str(&text)
        .map_err(|_| CtlError::Unreachable(format!("HTTP {status} and no JSON: is this the broker's address?")))?;
    if status.is_success() { Ok(body) } else { Err(CtlError::Refused { status, body }) }
}

/// Makes a text fit to stand in a path or a query.
pub(super) fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
