use std::net::SocketAddr;

use crate::http_client;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::eventually::eventually;

/// A client of one broker, with a method for each endpoint that several tests call.
pub struct ApiClient {
    pub address: SocketAddr,
    http: reqwest::Client,
    track_token: String,
    admin_token: String,
}

/// A whole answer. The body is a JSON string if it is not JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The error code, or a text that is none.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("no error code")
    }

    /// # Panics
    ///
    /// Panics if the answer names no sandbox.
    pub fn sandbox_id(&self) -> &str {
        self.body["sandbox_id"].as_str().unwrap_or_else(|| panic!("no sandbox: {self:?}"))
    }
}

impl ApiClient {
    /// A client of the broker at this address.
    pub fn new(address: SocketAddr, track_token: &str, admin_token: &str) -> Self {
        let (track_token, admin_token) = (track_token.to_owned(), admin_token.to_owned());
        Self { address, http: http_client(), track_token, admin_token }
    }

    /// Waits until the broker is ready.
    pub async fn wait_until_ready(&self) {
        eventually("the broker is ready", async || (self.get("/readyz").await.status == 200).then_some(())).await;
    }

    /// A request without a token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    /// A request of a track, with the track token and the track's name.
    pub fn track(&self, method: Method, path: &str, track: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.track_token).header("X-Track-ID", track)
    }

    /// A request of an operator, with the admin token.
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

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
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

    /// Syncs with the CSP; `query` starts with `?` or is empty.
    pub async fn sync(&self, query: &str) -> Answer {
        self.post_admin(&format!("/v1/admin/sync{query}")).await
    }

    /// The ids on all pages of a listing, in their order. `query` has no cursor.
    pub async fn list_all(&self, query: &str) -> Vec<String> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get_admin(&format!("/v1/admin/sandboxes?{query}{cursor}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            let sandboxes = page.body["sandboxes"].as_array().unwrap();
            assert_eq!(page.body["count"], sandboxes.len());
            ids.extend(sandboxes.iter().map(|sandbox| sandbox["sandbox_id"].as_str().unwrap().to_owned()));
            match page.body["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return ids,
            }
        }
    }

    /// The sum of a metric over all series whose labels contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Sends the request and reads the whole answer.
pub async fn send(request: RequestBuilder) -> Answer {
    read_answer(request.send().await.unwrap()).await
}

/// Reads the whole answer.
pub async fn read_answer(response: Response) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

/// Asserts status, code and the form that all error answers share.
pub fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{answer:?}");
    let error = &answer.body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    assert_eq!(error["request_id"], answer.headers["x-request-id"].to_str().unwrap(), "{answer:?}");
    let retry_after = answer.headers.get("retry-after").map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
    assert_eq!(error["retry_after"].as_u64(), retry_after, "header and field agree: {answer:?}");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{answer:?}");
}
