//! What clients of the Python broker, browsers, scanners and proxies see.

use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use test_support::{Broker, TestApp, assert_error, eventually, send};

#[actix_web::test]
async fn names_and_texts_may_hold_what_people_write() {
    let app = TestApp::start(&[]).await;
    let spaced = app.track(Method::POST, "/v1/allocate", "student 1 of room 2").header("Idempotency-Key", "first try");
    let allocated = send(spaced).await;
    assert_eq!(allocated.status, 201);
    let read = app.read(allocated.sandbox_id(), "student 1 of room 2").await;
    assert_eq!(read.body["allocated_to_track"], "student 1 of room 2");

    for lab in ["Erste Schritte für Einsteiger", "入門", "a b", &"é".repeat(128)] {
        let request = app.track(Method::POST, "/v1/allocate", &format!("of-{}", lab.len()));
        let request = request.header("X-Instruqt-Track-ID", HeaderValue::from_bytes(lab.as_bytes()).unwrap());
        let allocated = send(request).await;
        let read = app.read(allocated.sandbox_id(), &format!("of-{}", lab.len())).await;
        assert_eq!(read.body["track_name"], lab);
    }
    let prefix = HeaderValue::from_bytes("läb ".as_bytes()).unwrap();
    let none = app.track(Method::POST, "/v1/allocate", "other").header("X-Sandbox-Name-Prefix", prefix);
    assert_error(&send(none).await, 409, "NO_SANDBOXES_AVAILABLE");
}

#[actix_web::test]
async fn an_empty_header_counts_as_absent() {
    let app = TestApp::start(&[]).await;
    let optional = ["X-Instruqt-Track-ID", "Idempotency-Key", "X-Sandbox-Name-Prefix", "X-Track-Secret"];
    let request = app.track(Method::POST, "/v1/allocate", "student-1").header("X-Instruqt-Sandbox-ID", " ");
    let allocated = send(optional.iter().fold(request, |request, name| request.header(*name, ""))).await;
    assert_eq!(allocated.status, 201);
    assert_eq!(app.allocate("student-1").await.sandbox_id(), allocated.sandbox_id(), "the default key");
    let unnamed = app.track(Method::POST, "/v1/allocate", "").header("X-Instruqt-Sandbox-ID", "");
    assert_error(&send(unnamed).await, 400, "MISSING_HEADER");
    let order = app.admin(Method::POST, "/v1/admin/cleanup").header("X-Operator", "");
    assert_eq!(send(order).await.status, 200);
}

#[actix_web::test]
async fn errors_have_the_object_as_detail_too_where_clients_ask_for_it() {
    let [plain, compatible] =
        [TestApp::start_empty(&[]).await, TestApp::start_empty(&["--compat-error-detail=true"]).await];
    for (app, has_detail) in [(&plain, false), (&compatible, true)] {
        for answer in [
            app.get("/nope").await,
            app.get("/v1/admin/stats").await,
            send(app.track(Method::POST, "/v1/allocate", "tab\there")).await,
            send(app.request(Method::PUT, "/healthz")).await,
        ] {
            assert!(answer.body["error"]["code"].is_string(), "{answer:?}");
            let expected = if has_detail { answer.body["error"].clone() } else { Value::Null };
            assert_eq!(answer.body["detail"], expected);
        }
    }
}

/// A CSP with one account that has a CRM account and one that has none. It keeps the headers of its callers.
pub(crate) fn csp_with_and_without_crm() -> (String, Arc<Mutex<Vec<String>>>) {
    let agents = Arc::new(Mutex::new(Vec::new()));
    let kept = web::Data::from(Arc::clone(&agents));
    let list = |agents: web::Data<Mutex<Vec<String>>>, request: HttpRequest| async move {
        agents.lock().unwrap().push(request.headers().get("user-agent").unwrap().to_str().unwrap().to_owned());
        let account = |id: u64, crm: Value| {
            json!({
                "id": format!("identity/accounts/0f8fad5b-{id}"), "name": format!("lab-{id}"), "csp_id": id,
                "account_type": "sandbox", "state": "active", "sfdc_account_id": crm,
            })
        };
        let accounts = [account(1, json!("crm-1")), account(2, Value::Null), account(3, json!(""))];
        HttpResponse::Ok().json(json!({ "results": accounts }))
    };
    let delete = |agents: web::Data<Mutex<Vec<String>>>, request: HttpRequest| async move {
        agents.lock().unwrap().push(request.headers().get("user-agent").unwrap().to_str().unwrap().to_owned());
        HttpResponse::NoContent().finish()
    };
    let server = HttpServer::new(move || {
        App::new()
            .app_data(kept.clone())
            .route("/current_user/accounts", web::get().to(list))
            .route("/sandbox/accounts/{uuid}", web::delete().to(delete))
    });
    let server = server.workers(1).bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    actix_web::rt::spawn(server.disable_signals().run());
    (url, agents)
}

#[actix_web::test]
async fn an_account_without_a_crm_account_has_no_field_for_it_and_the_csp_sees_who_calls() {
    let (url, agents) = csp_with_and_without_crm();
    let app = TestApp::on_csp(&url, &[], &[]).await;
    for student in ["one", "two", "three"] {
        let allocated = app.allocate(student).await;
        let has_crm = allocated.sandbox_id() == "1";
        let id = allocated.sandbox_id();
        let listed = app.get_admin("/v1/admin/sandboxes?status=allocated").await.body;
        let listed = listed["sandboxes"].as_array().unwrap().iter().find(|it| it["sandbox_id"] == id).unwrap().clone();
        for body in
            [allocated.body.clone(), app.read(id, student).await.body, app.renew(id, student).await.body, listed]
        {
            assert_eq!(body.get("sfdc_account_id"), has_crm.then_some(&json!("crm-1")), "{body}");
        }
        assert_eq!(app.mark_for_deletion(id, student).await.status, 200);
    }
    app.post_admin("/v1/admin/cleanup").await;
    let agents = agents.lock().unwrap();
    assert!(agents.len() >= 4, "{agents:?}");
    assert!(agents.iter().all(|agent| *agent == concat!("sandbox-broker/", env!("CARGO_PKG_VERSION"))), "{agents:?}");
}

#[actix_web::test]
async fn a_path_may_end_in_a_slash_and_head_is_where_get_is() {
    let app = TestApp::start(&[]).await;
    let id = app.allocate("student-1").await.sandbox_id().to_owned();
    let sandbox = format!("/v1/sandboxes/{id}");
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/console",
        "/console/console.css",
        "/v1/docs",
        "/v1/openapi.json",
        &sandbox,
        "/v1/admin/stats",
        "/v1/admin/events",
    ] {
        let request = |method, path: &str| {
            let request = if path.starts_with("/v1/admin") {
                app.admin(method, path)
            } else {
                app.track(method, path, "student-1")
            };
            request.send()
        };
        let head = request(Method::HEAD, path).await.unwrap();
        assert_eq!(head.status(), 200, "{path}");
        assert!(head.headers().contains_key("x-request-id"), "{path}");
        let get = request(Method::GET, path).await.unwrap();
        assert_eq!(get.headers()["content-type"], head.headers()["content-type"], "{path}");
        if !["/metrics", "/v1/admin/events"].contains(&path) {
            assert_eq!(get.headers().get("content-length"), head.headers().get("content-length"), "{path}");
        }
        assert_eq!(head.text().await.unwrap(), "", "{path}");
        if path != "/" {
            assert_eq!(request(Method::GET, &format!("{path}/")).await.unwrap().status(), 200, "{path}/");
        }
    }
    assert_eq!(send(app.track(Method::POST, "/v1/allocate/", "student-1")).await.sandbox_id(), id);
    assert_eq!(send(app.track(Method::HEAD, "/v1/allocate", "student-1")).await.status, 405);
    assert_error(&app.get("/healthz//").await, 404, "NOT_FOUND");
}

#[actix_web::test]
async fn the_other_documentation_of_the_python_broker_leads_to_this_one() {
    let app = TestApp::start_empty(&[]).await;
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client.get(format!("http://{}/v1/redoc", app.address)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["location"]), (308, &HeaderValue::from_static("/v1/docs")));
    assert_eq!(app.get("/v1/redoc").await.headers["content-type"], "text/html; charset=utf-8");
}

#[actix_web::test]
async fn scanners_find_the_headers_that_they_ask_for() {
    let app = TestApp::start_empty(&[]).await;
    for path in ["/", "/console", "/v1/docs", "/nope", "/v1/admin/stats"] {
        let headers = app.get(path).await.headers;
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert!(headers["permissions-policy"].to_str().unwrap().contains("camera=()"), "{path}");
    }
}

#[actix_web::test]
async fn a_removal_of_stale_sandboxes_says_how_long_they_had_been_stale() {
    let app = TestApp::start_empty(&[]).await;
    for (query, hours) in [("", 24.0), ("?grace_period_hours=1.5", 1.5)] {
        let answer = app.post_admin(&format!("/v1/admin/auto-delete-stale{query}")).await;
        assert_eq!(answer.body["grace_period_hours"], hours, "{answer:?}");
    }
}

#[actix_web::test]
async fn request_lines_name_the_lab() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    broker.sync("").await;
    let with_lab = |method, path: &str, lab: &str| {
        let request = broker.track(method, path, "student-1");
        request.header("X-Instruqt-Track-ID", HeaderValue::from_bytes(lab.as_bytes()).unwrap())
    };
    let id = send(with_lab(Method::POST, "/v1/allocate", "erste Schritte für alle")).await.sandbox_id().to_owned();
    let path = format!("/v1/sandboxes/{id}/mark-for-deletion");
    assert_eq!(send(with_lab(Method::POST, &path, "erste Schritte für alle")).await.status, 200);
    eventually("two lines name the lab", async || {
        let log = broker.log();
        let lines = log.lines().filter(|line| line.contains("\"instruqt_track_id\":\"erste Schritte für alle\""));
        (lines.count() == 2).then_some(())
    })
    .await;
}
