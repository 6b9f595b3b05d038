//! A client for the admin API.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::Url;

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
    #[error("the broker does not answer")]
    Unreachable(#[source] reqwest::Error),
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
    /// Some of several requests failed.
    #[error("{failed} of {total} failed; the first: {first}")]
    Partial {
        failed: usize,
        total: usize,
        /// The first failure with its sandbox.
        first: String,
    },
}

impl CtlError {
    /// The documented exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Client(_) => 2,
            Self::Unreachable(_) | Self::NotABroker(_) => 6,
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

/// A client for the admin API.
pub(super) struct AdminClient {
    /// Sends token and operator with every request.
    http: reqwest::Client,
    url: Url,
}

impl AdminClient {
    /// A client that sends the first of the comma-separated tokens.
    pub(super) fn new(url: Url, tokens: &SecretString, operator: Option<&str>) -> Result<Self, CtlError> {
        let usage = |text: &str| CtlError::Usage(text.to_owned());
        let token = tokens.expose_secret().split(',').next().unwrap_or_default().trim();
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| usage("BROKER_ADMIN_TOKEN holds characters that an HTTP header cannot carry"))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, authorization)]);
        // A name that the API would refuse is omitted. The broker then records only the address.
        let is_fit = |name: &&str| (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(Ok(operator)) = operator.filter(is_fit).map(HeaderValue::from_str) {
            headers.insert(HeaderName::from_static("x-operator"), operator);
        }
        let http = tls::client_builder(&url)
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .map_err(CtlError::Client)?;
        Ok(Self { http, url })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Value, CtlError> {
        self.send(Method::POST, path, None).await
    }

    /// Sends a request to the admin API. It is repeated while the broker answers that it was not carried out and when to
    /// try again.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CtlError> {
        let url = format!("{}/v1/admin/{path}", self.url.as_str().trim_end_matches('/'));
        for attempt in 1.. {
            let mut request = self.http.request(method.clone(), &url);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = read(request.send().await.map_err(CtlError::Unreachable)?).await;
            match answer.as_ref().err().and_then(|error| requested_wait(error, &method)) {
                Some(wait) if attempt < MAX_ATTEMPTS => tokio::time::sleep(wait).await,
                _ => return answer,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The sandboxes of all pages, filtered by status and search text.
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

async fn read(answer: Response) -> Result<Value, CtlError> {
    let status = answer.status();
    let text = answer.text().await.map_err(CtlError::Unreachable)?;
    let body: Value = serde_json::from_str(&text).map_err(|_| CtlError::NotABroker(status))?;
    if status.is_success() { Ok(body) } else { Err(CtlError::Refused { status, body }) }
}

/// Encodes a text for a path or a query.
pub(super) fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
