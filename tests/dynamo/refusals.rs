//! Refusals that someone has to lift: they are answered as "not available", not as an error of the broker; nothing was
//! written, and credentials that may be out of date are fetched again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_credential_types::provider::future;
use aws_sdk_dynamodb::config::{Credentials, ProvideCredentials, SharedCredentialsProvider};
use broker_actors::ports::{ClaimOutcome, StoreError};
use reqwest::header::RETRY_AFTER;
use test_support::metering::{Fault, FaultRule};
use test_support::{assert_error, eventually};

use crate::table::{Server, Table, claim_of, sandbox};

fn refusals() -> Vec<Fault> {
    vec![
        Fault::access_denied(),
        Fault::expired_token(),
        Fault::unrecognized_client(),
        Fault::error(400, "InvalidSignatureException", "the signature does not match"),
        Fault::error(400, "MissingAuthenticationTokenException", "no token"),
        Fault::resource_not_found(),
        Fault::kms("KMSAccessDeniedException"),
        Fault::kms("KMSDisabledException"),
        Fault::kms("KMSInvalidStateException"),
        Fault::error(400, "LimitExceededException", "too many operations at once"),
        Fault::error(400, "SubscriptionRequiredException", "a code that this version does not know"),
    ]
}

/// The place that credentials come from, with the number of times it was asked.
#[derive(Debug)]
struct CountedCredentials(Arc<AtomicU32>);

impl ProvideCredentials for CountedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::Relaxed);
        future::ProvideCredentials::ready(Ok(Credentials::new("test", "test", None, None, "test")))
    }
}

#[actix_web::test]
async fn a_refusal_makes_the_store_unavailable() {
    tokio::time::pause();
    for fault in refusals() {
        let mut table = Table::new().await;
        table.fill(1);
        table.connection.engine.add_fault(FaultRule::before(fault.clone()));
        let (update, claim) = claim_of(&sandbox(1), "t1");
        let written = table.store.claim(&update, &claim).await;
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{fault:?}: {written:?}");
        let read = table.store.get(&sandbox(1).sandbox_id).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{fault:?}: {read:?}");
        table.connection.engine.clear_faults();
        let written = table.store.claim(&update, &claim).await;
        assert!(matches!(written, Ok(ClaimOutcome::Claimed)), "{fault:?}: {written:?}");
    }
}

#[actix_web::test]
async fn withdrawn_credentials_are_fetched_again_once_and_the_request_repeated() {
    tokio::time::pause();
    let fetches = Arc::new(AtomicU32::new(0));
    let provider = CountedCredentials(Arc::clone(&fetches));
    let mut table = Table::with_credentials(SharedCredentialsProvider::new(provider)).await;
    table.fill(1);
    let fetched = || fetches.load(Ordering::Relaxed);
    table.store.get(&sandbox(1).sandbox_id).await.unwrap();
    let before = fetched();
    table.connection.engine.add_fault(FaultRule::before(Fault::expired_token()).next(1));
    let (update, claim) = claim_of(&sandbox(1), "t1");
    assert!(matches!(table.store.claim(&update, &claim).await, Ok(ClaimOutcome::Claimed)));
    assert_eq!(fetched() - before, 1);

    // A right that is missing does not come with other credentials: they are not fetched with every request.
    table.connection.engine.add_fault(FaultRule::before(Fault::access_denied()));
    for _ in 0..20 {
        assert!(table.store.get(&sandbox(1).sandbox_id).await.is_err());
    }
    assert!(fetched() - before <= 2, "fetched {} times", fetched() - before);
}

/// What clients and operators see of it.
#[actix_web::test]
async fn refusals_are_answered_503_and_fail_readiness_until_they_end() {
    let server = Server::start().await;
    let broker = server.broker(&[("CSP_SIM_SANDBOXES", "30")]).await;
    for (number, fault) in refusals().into_iter().enumerate() {
        server.engine().add_fault(FaultRule::before(fault.clone()).on(&["TransactWriteItems"]));
        let track = format!("t{number}");
        let refused = broker.allocate(&track).await;
        assert_error(&refused, 503, "STORE_UNAVAILABLE");
        assert!(refused.headers.contains_key(RETRY_AFTER), "{fault:?}: {refused:?}");
        server.engine().clear_faults();
        assert_eq!(broker.allocate(&track).await.status, 201, "{fault:?}");
    }

    // Reads work, and writes do not, as on a full disk.
    for operations in [["UpdateItem"], ["TransactWriteItems"]] {
        server.engine().add_fault(FaultRule::before(Fault::internal_server_error()).on(&operations));
    }
    eventually("readiness fails", async || (broker.get("/readyz").await.status == 503).then_some(())).await;
    let answer = broker.get("/readyz").await;
    assert_eq!(answer.body["checks"]["dynamodb"], "unavailable", "{answer:?}");
    server.engine().clear_faults();
    eventually("readiness recovers", async || (broker.get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(broker.allocate("after").await.status, 201);
}
