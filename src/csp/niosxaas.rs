//! The NIOSXaaS services of an account. The CSP deletes an account without them, so they are deleted before it.

use std::time::Duration;

use async_trait::async_trait;
use broker_actors::SPANS;
use broker_actors::breaker::{Breaker, BreakerSettings, Outcome};
use broker_actors::error::{Cause, Chain, cause};
use broker_actors::ports::{PreDelete, PreDeleteError, Prepared};
use broker_actors::sandbox::Sandbox;
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;
use url::Url;

use crate::tls;

/// The most services of one account (I8).
const MAX_SERVICES: usize = 1000;

/// What the step needs.
#[derive(Clone, Debug)]
pub struct NiosxaasSettings {
    /// The base URL of its API.
    pub base_url: Url,
    /// The user.
    pub email: String,
    /// Its password.
    pub password: SecretString,
    /// The name of the services to delete; empty for all.
    pub service_name: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// The wait before each sandbox.
    pub delay: Duration,
    /// Whether to report the services only.
    pub is_shadow: bool,
    /// Its circuit breaker.
    pub breaker: BreakerSettings,
}

/// The step that deletes the services of an account.
pub struct Niosxaas {
    http: reqwest::Client,
    settings: NiosxaasSettings,
    breaker: Mutex<Breaker>,
    /// The session of the user; renewed when it is refused.
    session: tokio::sync::Mutex<Option<SecretString>>,
}

#[derive(Deserialize)]
struct Session {
    jwt: String,
}

#[derive(Deserialize)]
struct Services {
    results: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    /// `infra/universal_service/<x>`.
    id: String,
    name: Option<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("HTTP {0}")]
    Status(StatusCode),
    #[error("no answer")]
    Http(#[from] reqwest::Error),
}

impl Niosxaas {
    /// The step.
    ///
    /// # Errors
    ///
    /// If the HTTP client cannot be built.
    pub fn new(settings: NiosxaasSettings) -> Result<Self, reqwest::Error> {
        let http = tls::client_builder(&settings.base_url)
            .timeout(settings.timeout)
            // A redirect would send the session to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let breaker = Mutex::new(Breaker::new(settings.breaker));
        Ok(Self { http, settings, breaker, session: tokio::sync::Mutex::new(None) })
    }

    fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.settings.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        self.http.request(method, url)
    }

    /// Deletes the services of an account, or reports them. Returns their number.
    async fn clean(&self, external_id: &str) -> Result<usize, CallError> {
        let session = self.switch_to(external_id).await?;
        let services = self
            .request(Method::GET, &["api", "universalinfra", "v1", "universalservices"])
            .bearer_auth(session.expose_secret());
        let services: Services = send(services).await?.json().await?;
        let wanted = &self.settings.service_name;
        let services = services.results.into_iter().take(MAX_SERVICES);
        let services = services.filter(|service| wanted.is_empty() || service.name.as_ref() == Some(wanted));
        let mut count = 0;
        for Service { id, name } in services {
            count += 1;
            let is_shadow = self.settings.is_shadow;
            tracing::info!(event = "niosxaas_service", external_id, id, name, is_shadow, "a service of the account");
            if is_shadow {
                continue;
            }
            let service = id.rsplit('/').next().unwrap_or(&id);
            let deletion = self
                .request(Method::DELETE, &["api", "universalinfra", "v1", "universalservices", service])
                .bearer_auth(session.expose_secret());
            match send(deletion).await {
                Ok(_) | Err(CallError::Status(StatusCode::NOT_FOUND)) => {
                    metrics::counter!("broker_niosxaas_services_deleted_total").increment(1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// A session in the account. A session of the user that is refused is renewed once.
    async fn switch_to(&self, external_id: &str) -> Result<SecretString, CallError> {
        let mut session = self.session.lock().await;
        if let Some(current) = &*session {
            match self.switch(current, external_id).await {
                Err(CallError::Status(StatusCode::UNAUTHORIZED)) => {}
                switched => return switched,
            }
        }
        let renewed = session.insert(self.sign_in().await?);
        self.switch(renewed, external_id).await
    }

    async fn switch(&self, session: &SecretString, external_id: &str) -> Result<SecretString, CallError> {
        let switch = self
            .request(Method::POST, &["v2", "session", "account_switch"])
            .bearer_auth(session.expose_secret())
            .json(&json!({ "id": external_id }));
        Ok(SecretString::from(send(switch).await?.json::<Session>().await?.jwt))
    }

    async fn sign_in(&self) -> Result<SecretString, CallError> {
        let NiosxaasSettings { email, password, .. } = &self.settings;
        let body: Value = json!({ "email": email, "password": password.expose_secret() });
        let answer = send(self.request(Method::POST, &["v2", "session", "users", "sign_in"]).json(&body)).await;
        let outcome = if answer.is_ok() { "ok" } else { "error" };
        metrics::counter!("broker_niosxaas_auth_total", "outcome" => outcome).increment(1);
        Ok(SecretString::from(answer?.json::<Session>().await?.jwt))
    }
}

/// Sends the request; every status but 2xx is an error.
async fn send(request: RequestBuilder) -> Result<reqwest::Response, CallError> {
    let span = tracing::info_span!(target: SPANS, "niosxaas", otel.kind = "client");
    let answer = request.send().instrument(span).await?;
    if answer.status().is_success() { Ok(answer) } else { Err(CallError::Status(answer.status())) }
}

#[async_trait]
impl PreDelete for Niosxaas {
    async fn prepare(&self, sandbox: &Sandbox) -> Result<Prepared, PreDeleteError> {
        sleep(self.settings.delay).await;
        let started = Instant::now();
        let permit = self.breaker.lock().admit(started);
        let result: Result<usize, Cause> = match permit {
            Err(_) => Err(cause("the circuit breaker in front of NIOSXaaS is open")),
            Ok(permit) => {
                let mut result = Ok(0);
                for account in sandbox.accounts() {
                    result = result.and(self.clean(account).await);
                }
                let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Failure };
                self.breaker.lock().record(permit, outcome, Instant::now());
                metrics::histogram!("broker_niosxaas_cleanup_duration_seconds").record(started.elapsed().as_secs_f64());
                result.map_err(cause)
            }
        };
        let outcome = match (&result, self.settings.is_shadow) {
            (Err(_), _) => "failed",
            (Ok(_), true) => "reported",
            (Ok(_), false) => "cleaned",
        };
        metrics::counter!("broker_niosxaas_cleanup_total", "outcome" => outcome).increment(1);
        match result {
            Ok(_) if self.settings.is_shadow => Ok(Prepared::Reported),
            Ok(_) => Ok(Prepared::Cleaned),
            Err(error) => {
                let sandbox_id = &sandbox.sandbox_id;
                tracing::warn!(event = "niosxaas_failed", %sandbox_id, error = %Chain(&*error), "services are left behind");
                Err(PreDeleteError(error))
            }
        }
    }
}
