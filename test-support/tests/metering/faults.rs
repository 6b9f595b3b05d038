//! Faults that a test switches on.

use serde_json::{Value, json};
use test_support::metering::{Fault, FaultRule, Reply};

use super::support::{Engine, TABLE, key, plain, unlimited};

async fn put(engine: &Engine, id: &str) -> Reply {
    engine.0.answer("PutItem", json!({ "TableName": TABLE, "Item": plain(id, 10) })).await
}

#[tokio::test(start_paused = true)]
async fn a_request_is_refused_before_or_after_it_is_carried_out() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.add_fault(FaultRule::before(Fault::internal_server_error()).on(&["PutItem"]).next(1));
    engine.0.add_fault(FaultRule::after(Fault::service_unavailable()).on(&["PutItem"]).next(1));
    let Reply::Json(500, error) = put(&engine, "before").await else { panic!("no 500") };
    assert_eq!(error["__type"], "com.amazonaws.dynamodb.v20120810#InternalServerError");
    assert!(matches!(put(&engine, "after").await, Reply::Json(503, _)));
    assert!(matches!(put(&engine, "free").await, Reply::Json(200, _)));
    assert_eq!(engine.get("before").await, Value::Null);
    assert_eq!(engine.get("after").await, plain("after", 10));
    let counters = engine.0.counters().operation("PutItem");
    assert_eq!((counters.requests, counters.succeeded, counters.faults), (3, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_rule_meets_its_share_of_its_operations() {
    let engine = Engine::with_pool(unlimited()).await;
    engine.0.add_fault(FaultRule::before(Fault::access_denied()).on(&["PutItem"]).share(0.2));
    let mut refused = 0;
    for n in 0..500 {
        refused += usize::from(matches!(put(&engine, &n.to_string()).await, Reply::Json(400, _)));
    }
    assert!((70..130).contains(&refused), "{refused} of 500");
    engine.0.clear_faults();
    assert!(matches!(put(&engine, "free").await, Reply::Json(200, _)));
}

#[tokio::test(start_paused = true)]
async fn each_fault_has_its_shape() {
    let engine = Engine::with_pool(unlimited()).await;
    let read = json!({ "TableName": TABLE, "Key": key("none") });
    let shapes = [
        (Fault::request_timeout(), 408, "RequestTimeoutException"),
        (Fault::access_denied(), 400, "AccessDeniedException"),
        (Fault::expired_token(), 400, "ExpiredTokenException"),
        (Fault::unrecognized_client(), 400, "UnrecognizedClientException"),
        (Fault::resource_not_found(), 400, "ResourceNotFoundException"),
        (Fault::kms("KMSAccessDeniedException"), 400, "KMSAccessDeniedException"),
    ];
    for (fault, status, code) in shapes {
        engine.0.add_fault(FaultRule::before(fault).next(1));
        let Reply::Json(answered, error) = engine.0.answer("GetItem", read.clone()).await else { panic!("{code}") };
        assert_eq!((answered, super::support::error_name(&error).as_str()), (status, code));
    }
    for (fault, reply) in
        [(Fault::html(502), Reply::Html(502)), (Fault::Closed, Reply::Closed), (Fault::Silent, Reply::Silent)]
    {
        engine.0.add_fault(FaultRule::before(fault).next(1));
        assert_eq!(engine.0.answer("GetItem", read.clone()).await, reply);
    }
}
