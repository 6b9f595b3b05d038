//! The start of a broker under a role that may not ask everything.

use std::net::TcpListener;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use reqwest::Client;
use test_support::http_client;

use crate::broker::{ADMIN_TOKEN, Broker, TRACK_TOKEN};
use crate::csp::Csp;
use crate::old_service::fixture;
use crate::table::{Done, Server, program, run};

/// Starts a broker that ends by itself.
async fn start(settings: &[(&str, &str)]) -> Done {
    let common = [
        ("BROKER_HOST", "127.0.0.1"),
        ("BROKER_PORT", "0"),
        ("BROKER_API_TOKEN", TRACK_TOKEN),
        ("BROKER_ADMIN_TOKEN", ADMIN_TOKEN),
        ("LAB_DURATION_HOURS", "48"),
    ];
    run(program(&[], &[&common[..], settings].concat())).await
}

/// What the role of the Python broker's task may not ask.
const DENIED: [&str; 2] = ["DescribeTable", "DescribeTimeToLive"];

/// DynamoDB for a role without these rights, in front of the server.
fn under_the_old_role(server: &Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let behind = web::Data::new((http_client(), server.url.clone()));
    let front = HttpServer::new(move || App::new().app_data(behind.clone()).default_service(web::to(forward)));
    actix_web::rt::spawn(front.workers(1).disable_signals().listen(listener).unwrap().run());
    url
}

async fn forward(behind: web::Data<(Client, String)>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let target = request.headers().get("x-amz-target").unwrap().to_str().unwrap();
    let operation = target.rsplit('.').next().unwrap();
    if DENIED.contains(&operation) {
        let error = serde_json::json!({
            "__type": "com.amazon.coral.service#AccessDeniedException",
            "Message": format!("User is not authorized to perform: dynamodb:{operation}"),
        });
        return HttpResponse::BadRequest().content_type("application/x-amz-json-1.0").body(error.to_string());
    }
    let (http, url) = &**behind;
    let headers = ["x-amz-target", "x-amz-date", "authorization", "content-type"];
    let forwarded = headers.iter().filter_map(|name| Some((*name, request.headers().get(*name)?.to_str().ok()?)));
    let forwarded = forwarded.fold(http.post(url), |forwarded, (name, value)| forwarded.header(name, value));
    let answer = forwarded.body(body).send().await.unwrap();
    let status = actix_web::http::StatusCode::from_u16(answer.status().as_u16()).unwrap();
    HttpResponse::build(status).content_type("application/x-amz-json-1.0").body(answer.bytes().await.unwrap())
}

#[actix_web::test]
async fn a_role_that_may_not_describe_the_table_starts_and_says_what_it_did_not_check() {
    let server = Server::with_items(fixture()).await;
    let csp = Csp::of(&server.dump().await);
    let url = under_the_old_role(&server);
    let store = [("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", url.as_str())];
    let settings = [&store[..], &csp.settings()].concat();
    let refused = start(&settings).await;
    assert_eq!(refused.code, Some(2), "a table that is not adopted is recognized without the right: {refused:?}");
    assert!(refused.err.contains("table adopt"), "{refused:?}");

    server.succeed(&["adopt", "--yes"]).await;
    let broker = Broker::start(&settings).await;
    assert_eq!(broker.allocate("legacy-student", "legacy-student").await.sandbox_id(), "2030006");
    let log = broker.process.output();
    for unchecked in ["the table's keys and indexes were not checked", "the table's TTL was not checked"] {
        assert!(log.contains(unchecked), "{unchecked} is not in {log}");
    }
}
