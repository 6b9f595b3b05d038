//! The server over HTTP, as the SDK sees it. On the real clock.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem};
use test_support::metering::{Fault, FaultRule, MeteringServer, MeteringSettings, Placement};

use super::support::{TABLE, cold_key, plain, pool, settings};

fn client(server: &MeteringServer, attempts: u32) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .http_client(sandbox_broker::tls::aws_client())
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(server.url())
        .retry_config(
            RetryConfig::standard().with_max_attempts(attempts).with_initial_backoff(Duration::from_millis(1)),
        )
        .build();
    Client::from_conf(config)
}

async fn server(settings: MeteringSettings) -> MeteringServer {
    let server = MeteringServer::start(settings);
    let created = server.engine().answer("CreateTable", pool()).await;
    assert!(matches!(created, test_support::metering::Reply::Json(200, _)), "{created:?}");
    server
}

fn put(id: &str) -> TransactWriteItem {
    let put = Put::builder()
        .table_name(TABLE)
        .item("PK", AttributeValue::S(id.to_owned()))
        .item("SK", AttributeValue::S("META".to_owned()))
        .condition_expression("attribute_not_exists(PK)")
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()
        .unwrap();
    TransactWriteItem::builder().put(put).build()
}

#[tokio::test]
async fn the_sdk_reads_the_reasons_of_a_throttled_transaction() {
    let server = server(MeteringSettings { placement: Placement::together(TABLE, "hot"), ..settings() }).await;
    // So little that one transaction uses a partition up for minutes.
    server.engine().set_limits(|limits| limits.partition_write = 0.01);
    let cold = &cold_key(TABLE);
    server.engine().load(TABLE, [plain(cold, 10)]);
    let client = client(&server, 1);
    client.transact_write_items().transact_items(put("hot")).send().await.unwrap();
    let error = client.transact_write_items().transact_items(put(cold)).transact_items(put("hot-too")).send().await;
    let error = error.unwrap_err().into_service_error();
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else { panic!("{error:?}") };
    let codes: Vec<_> = cancelled.cancellation_reasons().iter().map(|reason| reason.code().unwrap()).collect();
    assert_eq!(codes, ["ConditionalCheckFailed", "ThrottlingError"]);
    assert!(cancelled.cancellation_reasons()[0].item().is_some());
}

#[tokio::test]
async fn a_lost_answer_is_repeated_by_the_sdk_and_changes_nothing_twice() {
    let server = server(settings()).await;
    server.engine().add_fault(FaultRule::after(Fault::Closed).on(&["TransactWriteItems"]).next(1));
    client(&server, 3).transact_write_items().transact_items(put("s")).send().await.unwrap();
    let counters = server.engine().counters().operation("TransactWriteItems");
    assert_eq!((counters.requests, counters.succeeded, counters.write_units), (2, 2, 2.0));
}

#[tokio::test]
async fn the_sdk_meets_the_faults_that_are_switched_on() {
    let server = server(settings()).await;
    let client = client(&server, 1);
    let read = || {
        client
            .get_item()
            .table_name(TABLE)
            .key("PK", AttributeValue::S("s".to_owned()))
            .key("SK", AttributeValue::S("META".to_owned()))
    };
    for (fault, code) in [
        (Fault::internal_server_error(), "InternalServerError"),
        (Fault::expired_token(), "ExpiredTokenException"),
        (Fault::kms("KMSDisabledException"), "KMSDisabledException"),
    ] {
        server.engine().add_fault(FaultRule::before(fault).next(1));
        assert_eq!(read().send().await.unwrap_err().code(), Some(code));
    }
    server.engine().add_fault(FaultRule::before(Fault::html(502)).next(1));
    let error = read().send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 502);
    server.engine().add_fault(FaultRule::before(Fault::Silent).next(1));
    assert!(tokio::time::timeout(Duration::from_millis(200), read().send()).await.is_err());
    read().send().await.expect("no fault is left");
}
