//! The event stream of the consoles.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use test_support::{ApiClient, Broker, TestApp, assert_error, eventually, read_answer, send};
use tokio::time::timeout;

/// The stream, as a console reads it.
struct Stream {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<actix_web::web::Bytes>>,
    text: String,
    last_id: Option<String>,
}

impl Stream {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.bytes_stream().boxed(), text: String::new(), last_id: None }
    }

    async fn open(app: &ApiClient) -> Self {
        Self::of(app.admin(Method::GET, "/v1/admin/events").send().await.unwrap())
    }

    /// The next event's name and data; `None` once the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let event = (field("event: ").unwrap(), serde_json::from_str(&field("data: ").unwrap()).unwrap());
                self.last_id = field("id: ").or(self.last_id.take());
                self.text = rest.to_owned();
                return Some(event);
            }
            let bytes = timeout(Duration::from_secs(20), self.body.next()).await.expect("the stream sends nothing")?;
            self.text.push_str(std::str::from_utf8(&bytes.ok()?).unwrap());
        }
    }

    /// Reads until the data of an event with this name fits, and returns that data.
    async fn until(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (event, data) = self.next().await.expect("the stream goes on");
            if event == name && fits(&data) {
                return data;
            }
        }
    }
}

fn holds(events: &Value, action: &str, subject: &str) -> bool {
    let fits = |event: &Value| event["action"] == action && event.to_string().contains(subject);
    events.as_array().unwrap().iter().any(fits)
}

#[actix_web::test]
async fn snapshots_and_events_show_what_happens() {
    let app = TestApp::start(&[]).await;
    let mut stream = Stream::open(&app).await;
    // The first count may have been made before the sync.
    let first = stream.until("snapshot", |snapshot| snapshot["stats"]["available"] == 50).await;
    assert_eq!(first["actors"].as_array().unwrap().len(), 6);
    assert_eq!(first["circuit_breaker"]["state"], "closed");

    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    let busy = |snapshot: &Value| snapshot["throughput"]["allocations_per_second"].as_f64().unwrap() > 0.0;
    let snapshot = stream.until("snapshot", busy).await;
    assert!(snapshot["throughput"]["p99_ms"].as_f64().unwrap() >= snapshot["throughput"]["p50_ms"].as_f64().unwrap());
    stream.until("snapshot", |snapshot| snapshot["stats"]["allocated"] == 1).await;

    // A second stream starts at the first event that is kept.
    let mut late = Stream::open(&app).await;
    let is_of_token = |events: &Value| holds(events, "allocate", r#""token":"default""#);
    late.until("journal", |events| holds(events, "allocate", &id) && is_of_token(events)).await;

    let pause = app.admin(Method::POST, "/v1/admin/actors/cleanup/pause").json(&json!({ "reason": "freeze" }));
    assert_eq!(send(pause).await.status, 200);
    stream.until("journal", |events| holds(events, "pause", "freeze")).await;
    app.post_admin("/v1/admin/sync").await;
    stream.until("journal", |events| holds(events, "run", "csp-sync")).await;
    app.post_admin(&format!("/v1/admin/sandboxes/{id}/release")).await;
    stream.until("journal", |events| holds(events, "force-release", &id)).await;
}

#[actix_web::test]
async fn a_reconnected_stream_sends_missed_events_and_nothing_twice() {
    let app = TestApp::start(&[]).await;
    app.allocate("before").await;
    let mut stream = Stream::open(&app).await;
    stream.until("journal", |events| holds(events, "allocate", "before")).await;
    let last_id = stream.last_id.clone().unwrap();
    drop(stream);
    app.allocate("meanwhile").await;
    let back = app.admin(Method::GET, "/v1/admin/events").header("Last-Event-ID", last_id);
    let events = Stream::of(back.send().await.unwrap()).until("journal", |_| true).await;
    assert!(holds(&events, "allocate", "meanwhile") && !holds(&events, "allocate", "before"), "{events}");

    let stranger = app.admin(Method::GET, "/v1/admin/events").header("Last-Event-ID", "of-another-process-7");
    let events = Stream::of(stranger.send().await.unwrap()).until("journal", |_| true).await;
    assert!(holds(&events, "allocate", "before"), "{events}");
}

#[actix_web::test]
async fn the_journal_keeps_only_the_last_events() {
    let app = TestApp::start(&["--csp-sim-sandboxes=210"]).await;
    for number in 0..210 {
        app.allocate(&format!("student-{number}-")).await;
    }
    let events = Stream::open(&app).await.until("journal", |_| true).await;
    assert_eq!(events.as_array().unwrap().len(), 200);
    assert!(!holds(&events, "allocate", "student-0-"));
}

#[actix_web::test]
async fn streams_are_for_operators_and_bounded() {
    let app = TestApp::start(&[]).await;
    let open = |request: reqwest::RequestBuilder| async { read_answer(request.send().await.unwrap()).await };
    assert_error(&open(app.request(Method::GET, "/v1/admin/events")).await, 401, "UNAUTHORIZED");
    assert_error(&open(app.track(Method::GET, "/v1/admin/events", "student-1")).await, 403, "FORBIDDEN");

    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(Stream::open(&app).await);
    }
    let refused = open(app.admin(Method::GET, "/v1/admin/events")).await;
    assert_error(&refused, 503, "TOO_MANY_STREAMS");
    drop(streams);
    eventually("another stream is accepted", async || {
        let response = app.admin(Method::GET, "/v1/admin/events").send().await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_broker_that_stops_ends_its_streams() {
    let mut broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    let mut stream = Stream::open(&broker).await;
    stream.until("snapshot", |_| true).await;
    let status = broker.process.terminate().await;
    assert!(status.success(), "{status}");
    while stream.next().await.is_some() {}
}
