//! The OpenAPI document: the snapshot in the repository, every endpoint, every error code.

use std::collections::BTreeSet;

use reqwest::Method;
use sandbox_broker::http::ENDPOINTS;
use sandbox_broker::http::auth::Role;
use sandbox_broker::http::error::ErrorCode;
use serde_json::Value;
use test_support::{TestApp, send};

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

async fn document(app: &TestApp) -> Value {
    let answer = app.get("/v1/openapi.json").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    answer.body
}

#[actix_web::test]
async fn the_snapshot_is_what_the_broker_serves() {
    let served = document(&TestApp::start(&[]).await).await;
    let served = serde_json::to_string_pretty(&served).unwrap() + "\n";
    if std::env::var_os("BROKER_UPDATE_SNAPSHOT").is_some() {
        std::fs::write(SNAPSHOT, &served).unwrap();
    }
    let kept = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    assert!(
        kept == served,
        "the API changed: run BROKER_UPDATE_SNAPSHOT=1 cargo test --test api openapi and review the diff"
    );
}

#[actix_web::test]
async fn the_document_has_every_endpoint_and_no_other() {
    let document = document(&TestApp::start(&[]).await).await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.push((method.to_uppercase(), path.clone()));
        }
    }
    let mut routes: Vec<_> =
        ENDPOINTS.iter().map(|endpoint| (endpoint.method.as_str().to_owned(), endpoint.path.to_owned())).collect();
    documented.sort();
    routes.sort();
    assert_eq!(documented, routes);

    for endpoint in ENDPOINTS {
        let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
        let what = format!("{} {}: {operation}", endpoint.method, endpoint.path);
        assert!(operation["summary"].as_str().is_some_and(|text| !text.starts_with('`')), "{what}");
        let tag = operation["tags"][0].as_str().unwrap();
        assert!(["Sandboxes", "Admin", "Observability"].contains(&tag), "{what}");
        let is_order = endpoint.role == Role::Admin && endpoint.method.as_str() != "GET";
        assert_eq!(operation["parameters"].to_string().contains("X-Operator"), is_order, "{what}");
        let statuses = operation["responses"].as_object().unwrap();
        for (status, response) in statuses {
            if status.starts_with('2') || endpoint.path == "/readyz" {
                assert_example(&document, response, &what);
            }
            assert!(response["headers"]["X-Request-ID"].is_object(), "{status} of {what}");
            let is_error = response["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Error";
            assert_eq!(is_error, status.as_str() >= "400" && endpoint.path != "/readyz", "{status} of {what}");
            if is_error {
                let examples = response["content"]["application/json"]["examples"].as_object().unwrap();
                for (code, example) in examples {
                    assert_eq!(example["value"]["error"]["code"], *code, "{status} of {what}");
                    let waits = example["value"]["error"]["retry_after"].is_number();
                    assert!(!waits || response["headers"]["Retry-After"].is_object(), "{status} of {what}");
                }
            }
        }
        let security = match endpoint.role {
            Role::Probe | Role::Public => None,
            Role::Track => Some("track_token"),
            Role::Admin => Some("admin_token"),
        };
        let required = operation["security"][0].as_object().and_then(|scheme| scheme.keys().next());
        assert_eq!(required.map(String::as_str), security, "{what}");
        if security.is_some() {
            for status in ["401", "403", "429", "500"] {
                assert!(statuses.contains_key(status), "{status} of {what}");
            }
        }
    }
}

#[actix_web::test]
async fn every_error_code_is_documented() {
    let document = document(&TestApp::start_empty(&[]).await).await;
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|item| item.as_object().unwrap().values());
    let responses = operations.flat_map(|operation| operation["responses"].as_object().unwrap().values());
    let examples = responses.filter_map(|response| response["content"]["application/json"]["examples"].as_object());
    let of_operations: BTreeSet<&str> = examples.flat_map(|examples| examples.keys()).map(String::as_str).collect();
    let of_all_requests = document["info"]["description"].as_str().unwrap();
    for code in ErrorCode::ALL.iter().map(|code| code.as_str()) {
        assert!(of_operations.contains(code) || of_all_requests.contains(code), "{code}");
    }
}

/// Asserts that a JSON answer has an example with exactly the fields of its schema, and that a stream has an example.
fn assert_example(document: &Value, response: &Value, what: &str) {
    for (kind, content) in response["content"].as_object().unwrap() {
        match (kind.as_str(), &content["example"]) {
            ("application/json", Value::Object(example)) => {
                let fields: BTreeSet<&str> = example.keys().map(String::as_str).collect();
                let mut known = BTreeSet::new();
                collect_fields(document, &content["schema"], &mut known);
                // Only a sandbox that waits for its learner has it.
                known.retain(|field| *field != "standby" || fields.contains(field));
                assert!(known.is_empty() || known == fields, "{known:?} are the fields, not {fields:?}, of {what}");
            }
            ("application/json", example) => assert!(what.contains("/v1/openapi.json"), "{example} of {what}"),
            ("text/event-stream", example) => assert!(example.as_str().unwrap().contains("event: snapshot"), "{what}"),
            _ => {}
        }
    }
}

fn collect_fields<'a>(document: &'a Value, schema: &'a Value, fields: &mut BTreeSet<&'a str>) {
    if let Some(reference) = schema["$ref"].as_str() {
        collect_fields(document, document.pointer(reference.trim_start_matches('#')).unwrap(), fields);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        collect_fields(document, part, fields);
    }
    fields.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()));
}

#[actix_web::test]
async fn swagger_ui_needs_no_other_host() {
    let app = TestApp::start(&[]).await;
    let page = app.get("/v1/docs").await;
    assert_eq!(page.status, 200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");
    let html = page.body.as_str().unwrap();
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    let assets: Vec<&str> = html.split('"').filter(|word| word.starts_with("/v1/docs/")).collect();
    assert_eq!(assets.len(), 3, "{html}");
    for asset in assets {
        let answer = app.get(asset).await;
        assert_eq!(answer.status, 200, "{asset}");
        let kind = if asset.contains(".css") { "text/css" } else { "text/javascript" };
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with(kind), "{asset}: {:?}", answer.headers);
    }
    for path in ["/v1/docs/no-such-file", "/v1/docs/index.html", "/console/..%2fstart.js"] {
        assert_eq!(send(app.request(Method::GET, path)).await.status, 404, "{path}");
    }
}
