//! Boots the application as `main` does, and has one method for each endpoint.

use std::net::SocketAddr;

use clap::Parser as _;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use sandbox_broker::app::Application;
use sandbox_broker::config::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, Settings};
use serde_json::Value;
use tokio::sync::oneshot;

pub use crate::support::eventually;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

/// A running broker, in this process or in one of its own. One in this process stops when this is dropped.
pub struct TestApp {
    pub address: SocketAddr,
    http: reqwest::Client,
    track_token: String,
    admin_token: String,
    _stop: Option<oneshot::Sender<()>>,
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("no error code")
    }

    pub fn sandbox_id(&self) -> &str {
        self.body["sandbox_id"].as_str().unwrap_or_else(|| panic!("no sandbox: {self:?}"))
    }
}

/// Settings of a broker that keeps nothing, with these flags on top.
pub fn settings(flags: &[&str]) -> Settings {
    let fixed = ["test", "--broker-host=127.0.0.1", "--broker-port=0"];
    let memory = ["--broker-store=memory"];
    let memory = if flags.iter().any(|flag| flag.starts_with("--broker-store")) { &[][..] } else { &memory[..] };
    let all = fixed.iter().chain(memory).chain(flags);
    Settings::check(Flags::parse_from(all).settings).unwrap()
}

impl TestApp {
    /// A broker on a store in memory, with these flags, whose pool is filled.
    pub async fn start(flags: &[&str]) -> Self {
        let app = Self::start_empty(flags).await;
        app.sync("").await;
        app
    }

    /// The same, without waiting for the first sync.
    pub async fn start_empty(flags: &[&str]) -> Self {
        let application = Application::build(settings(flags)).await.unwrap();
        let address = application.address();
        let (stop, stopped) = oneshot::channel::<()>();
        actix_web::rt::spawn(application.run_until_stopped(async {
            let _ = stopped.await;
        }));
        let app = Self { _stop: Some(stop), ..Self::at(address, DEVELOPMENT_TOKEN, DEVELOPMENT_ADMIN_TOKEN) };
        app.is_ready().await;
        app
    }

    /// A broker that runs already.
    pub fn at(address: SocketAddr, track_token: &str, admin_token: &str) -> Self {
        let (track_token, admin_token) = (track_token.to_owned(), admin_token.to_owned());
        Self { address, http: reqwest::Client::new(), track_token, admin_token, _stop: None }
    }

    /// Returns once the broker is ready.
    pub async fn is_ready(&self) {
        eventually("the broker is ready", async || (self.get("/readyz").await.status == 200).then_some(())).await;
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    /// A request of a track that is in order but for what the test changes.
    pub fn track(&self, method: Method, path: &str, track: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.track_token).header("X-Track-ID", track)
    }

    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.admin_token)
    }

    pub async fn allocate(&self, track: &str) -> Answer {
        send(self.track(Method::POST, "/v1/allocate", track)).await
    }

    pub async fn read(&self, id: &str, track: &str) -> Answer {
        send(self.track(Method::GET, &format!("/v1/sandboxes/{id}"), track)).await
    }

    pub async fn renew(&self, id: &str, track: &str) -> Answer {
        send(self.track(Method::POST, &format!("/v1/sandboxes/{id}/renew"), track)).await
    }

    pub async fn mark_for_deletion(&self, id: &str, track: &str) -> Answer {
        send(self.track(Method::POST, &format!("/v1/sandboxes/{id}/mark-for-deletion"), track)).await
    }

    pub async fn get_admin(&self, path: &str) -> Answer {
        send(self.admin(Method::GET, path)).await
    }

    pub async fn post_admin(&self, path: &str) -> Answer {
        send(self.admin(Method::POST, path)).await
    }

    pub async fn stats(&self) -> Answer {
        self.get_admin("/v1/admin/stats").await
    }

    pub async fn sync(&self, query: &str) -> Answer {
        self.post_admin(&format!("/v1/admin/sync{query}")).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// The sum of a metric over all labels that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

pub async fn send(request: RequestBuilder) -> Answer {
    taken_apart(request.send().await.unwrap()).await
}

pub async fn taken_apart(response: Response) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

/// Asserts the one error form, and what every error answer has.
pub fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{answer:?}");
    let error = &answer.body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    assert_eq!(error["request_id"], answer.headers["x-request-id"].to_str().unwrap(), "{answer:?}");
    let retry_after = answer.headers.get("retry-after").map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
    assert_eq!(error["retry_after"].as_u64(), retry_after, "the header goes with the field: {answer:?}");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{answer:?}");
}
