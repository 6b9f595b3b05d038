//! Traces, as a collector of OTLP over HTTP receives them.

use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use serde_json::json;
use test_support::{Broker, DynamoServer, send};

/// A collector of spans that is also a CSP with one sandbox. It keeps what it receives.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// The `traceparent` header of each request to the CSP.
    csp_contexts: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn start() -> (Self, String) {
        let collector = Self::default();
        let kept = collector.clone();
        let app = move || {
            App::new()
                .app_data(web::Data::new(kept.clone()))
                .app_data(web::PayloadConfig::new(16 << 20))
                .route("/v1/traces", web::post().to(Self::take))
                .route("/current_user/accounts", web::get().to(Self::list))
        };
        let server = HttpServer::new(app).workers(1).bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        actix_web::rt::spawn(server.disable_signals().run());
        (collector, url)
    }

    async fn take(collector: web::Data<Self>, body: web::Bytes) -> HttpResponse {
        let batch = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = batch.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        collector.spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        HttpResponse::Ok().finish()
    }

    async fn list(collector: web::Data<Self>, request: HttpRequest) -> HttpResponse {
        let context = request.headers().get("traceparent").expect("the header is sent").to_str().unwrap().to_owned();
        collector.csp_contexts.lock().unwrap().push(context);
        let account = json!({
            "id": "identity/accounts/0f8fad5b", "name": "one", "csp_id": 4711, "account_type": "sandbox",
            "state": "active", "created_at": "2026-01-01T00:00:00Z",
        });
        HttpResponse::Ok().json(json!({ "results": [account] }))
    }

    /// The only span of this name, with this parent if one is given.
    fn span(&self, name: &str, parent: Option<&[u8]>) -> Span {
        let spans = self.spans.lock().unwrap();
        let is_match = |span: &&Span| span.name == name && parent.is_none_or(|parent| span.parent_span_id == parent);
        match spans.iter().filter(is_match).collect::<Vec<_>>()[..] {
            [span] => span.clone(),
            _ => {
                let all = spans.iter().map(|span| (&span.name, hex(&span.span_id), hex(&span.parent_span_id)));
                panic!("there is not one {name} with parent {parent:?}: {:#?}", all.collect::<Vec<_>>())
            }
        }
    }
}

#[actix_web::test]
async fn an_allocation_is_one_trace_from_the_track_to_dynamodb() {
    let (collector, url) = Collector::start();
    let server = DynamoServer::start().await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("CSP_MODE", "http"),
        ("CSP_BASE_URL", &url),
        ("CSP_API_TOKEN", "csp-token"),
    ];
    let mut broker = Broker::on_server(&server, &settings).await;
    assert_eq!(broker.sync("").await.status, 200);
    let request = broker.track(Method::POST, "/v1/allocate", "student-1");
    let answer = send(request.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")).await;
    assert_eq!((answer.status.as_u16(), answer.sandbox_id()), (201, "4711"));
    assert!(broker.process.terminate().await.success(), "buffered spans are sent before the exit");

    let request = collector.span("POST /v1/allocate", None);
    assert_eq!(hex(&request.trace_id), "0af7651916cd43dd8448eb211c80319c", "the track's trace is continued");
    assert_eq!(hex(&request.parent_span_id), "b7ad6b7169203331");
    let claim = collector.span("claim", Some(&request.span_id));
    let call = collector.span("DynamoDB.TransactWriteItems", Some(&claim.span_id));
    assert_eq!((&claim.trace_id, &call.trace_id), (&request.trace_id, &request.trace_id));

    let contexts = collector.csp_contexts.lock().unwrap().clone();
    let listings = contexts.iter().map(|context| context.split('-').nth(2).unwrap().to_owned());
    for listing in listings {
        let spans = collector.spans.lock().unwrap();
        let listing = spans.iter().find(|span| hex(&span.span_id) == listing).expect("the CSP receives the span's id");
        let run = spans.iter().find(|span| span.span_id == listing.parent_span_id).expect("the run is a span");
        assert_eq!((listing.name.as_str(), run.name.as_str()), ("csp list", "csp-sync"));
    }
    assert!(!contexts.is_empty());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
