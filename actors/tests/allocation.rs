//! Allocation, release, renewal and read with a whole broker on a model store.

use std::collections::BTreeSet;
use std::time::Duration;

use broker_actors::actor::ActorName;
use broker_actors::allocation::AllocateError;
use broker_actors::ports::{Clock as _, SandboxStore as _, StoreError};
use broker_actors::sandbox::{CspAccount, Event, Owner, Sandbox, SandboxId, Status, TrackId};
use broker_actors::testing::{Fault, ModelStore, TestBroker};
use broker_actors::update::SandboxError;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

fn owner(name: &str) -> Owner {
    Owner::named(TrackId::new(name))
}

#[actix::test]
async fn a_repeated_allocation_gets_the_same_sandbox() {
    let broker = TestBroker::with_sandboxes(3).await;
    let first = broker.allocate("t1").await.unwrap();
    let again = broker.allocate("t1").await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.claim, again.claim);
    assert_eq!(broker.sandbox(&first.claim.sandbox_id).status, Status::Allocated);
    broker.store.assert_consistent();
}

#[actix::test]
async fn i2_concurrent_duplicates_share_one_claim() {
    let broker = TestBroker::with_sandboxes(50).await;
    let answers = join_all((0..40).map(|_| broker.allocate("t1"))).await;
    let sandboxes: BTreeSet<_> = answers.iter().map(|answer| &answer.as_ref().unwrap().claim.sandbox_id).collect();
    assert_eq!(sandboxes.len(), 1, "I2");
    assert_eq!(answers.iter().filter(|answer| !answer.as_ref().unwrap().replayed).count(), 1, "one is new");
    assert_eq!(broker.store.requests()["claim"], 1, "duplicates in one process are coalesced");
}

#[actix::test]
async fn sandboxes_that_are_too_young_are_counted_apart() {
    let broker = TestBroker::with_sandboxes(3).await;
    let account = CspAccount {
        sandbox_id: SandboxId::new("young"),
        name: Some("lab-young".to_owned()),
        external_id: "identity/accounts/young".to_owned(),
        sfdc_account_id: None,
        created_at: Some(broker.clock.now()),
    };
    let young = Sandbox::discovered(&account, Duration::from_secs(600), broker.clock.now_millis());
    assert!(broker.store.create(&young).await.unwrap());
    assert_eq!(broker.broker.available(Some("lab-")).await.unwrap(), (3, 1));
    assert_eq!(broker.broker.available(Some("gpu-")).await.unwrap(), (0, 0));
    sleep(Duration::from_secs(601)).await;
    assert_eq!(broker.broker.available(None).await.unwrap(), (4, 0));
}

#[actix::test]
async fn keys_belong_to_their_track() {
    let broker = TestBroker::with_sandboxes(3).await;
    let one = broker.allocate_with("t1", "key", None).await.unwrap();
    let other = broker.allocate_with("t2", "key", None).await.unwrap();
    let more = broker.allocate_with("t1", "another key", None).await.unwrap();
    let distinct: BTreeSet<_> = [&one, &other, &more].map(|answer| &answer.claim.sandbox_id).into();
    assert_eq!(distinct.len(), 3);
}

#[actix::test]
async fn i1_every_sandbox_goes_to_one_track_until_none_is_left() {
    let broker = TestBroker::with_sandboxes(200).await;
    let tracks: Vec<_> = (0..200).map(|number| format!("t{number}")).collect();
    let answers = join_all(tracks.iter().map(|track| broker.allocate(track))).await;
    let distinct: BTreeSet<_> = answers.into_iter().map(|answer| answer.unwrap().claim.sandbox_id).collect();
    assert_eq!(distinct.len(), 200, "I1");
    assert!(matches!(broker.allocate("one too many").await, Err(AllocateError::NoneAvailable)));
    assert!(broker.allocate("t7").await.unwrap().replayed, "a replay gets its sandbox although the pool is empty");
    broker.store.assert_consistent();
}

#[actix::test]
async fn a_prefix_selects_by_name() {
    let broker = TestBroker::with_sandboxes(120).await;
    for prefix in ["lab-0000", "lab-0011", "lab-001"] {
        let answer = broker.allocate_with(prefix, "key", Some(prefix)).await.unwrap();
        assert!(answer.claim.name.starts_with(prefix), "{} for {prefix}", answer.claim.name);
    }
    let none = broker.allocate_with("t", "key", Some("gpu-")).await;
    assert!(matches!(none, Err(AllocateError::NoneAvailable)), "{none:?}");
}

/// A replay puts its candidate back, so "none available" is not answered while it is in flight.
#[actix::test]
async fn i4_none_available_is_not_answered_while_a_candidate_may_come_back() {
    let broker = TestBroker::with_sandboxes(2).await;
    broker.allocate("holder").await.unwrap();
    // The replay takes the last candidate and is slow.
    broker.store.fail_next("claim", Fault::Delay(Duration::from_secs(2)));
    let (replay, answer) = tokio::join!(broker.allocate("holder"), async {
        sleep(Duration::from_millis(100)).await;
        broker.allocate("newcomer").await
    });
    assert!(replay.unwrap().replayed);
    assert!(!answer.expect("I4: the candidate came back").replayed);
}

/// The refresh gives its only candidate to the replay, which waited longer and will put it back.
#[actix::test]
async fn i4_none_available_is_not_answered_because_a_refresh_served_another_request() {
    let broker = TestBroker::with_sandboxes(1).await;
    broker.allocate("holder").await.unwrap();
    assert!(broker.store.create(&ModelStore::sandbox(2)).await.unwrap());
    let (replay, answer) = tokio::join!(broker.allocate("holder"), broker.allocate("newcomer"));
    assert!(replay.unwrap().replayed);
    assert!(!answer.expect("I4: one was available all the time").replayed);
}

#[actix::test]
async fn i4_a_sandbox_that_was_just_added_is_found() {
    let broker = TestBroker::with_sandboxes(0).await;
    assert!(matches!(broker.allocate("t1").await, Err(AllocateError::NoneAvailable)));
    assert!(broker.store.create(&ModelStore::sandbox(1)).await.unwrap());
    broker.allocate("t1").await.expect("I4: the pool is refreshed before none available is answered");
}

#[actix::test]
async fn i4_none_available_for_one_prefix_is_not_the_answer_for_another() {
    let broker = TestBroker::with_sandboxes(2).await;
    // The first allocation takes a while to find that there is none.
    broker.store.fail_next("find_claim", Fault::Delay(Duration::from_millis(500)));
    let (first, second) = tokio::join!(broker.allocate_with("t1", "key", Some("gpu-")), async {
        sleep(Duration::from_millis(200)).await;
        broker.allocate_with("t1", "key", Some("lab-")).await
    });
    let second = second.expect("I4: two match its prefix");
    assert!(first.is_err() || first.unwrap().claim == second.claim, "I2");
    assert_eq!(broker.count(Status::Allocated), 1, "I2");
}

#[actix::test]
async fn i4_a_duplicate_does_not_get_an_emptiness_from_before_its_start() {
    let broker = TestBroker::with_sandboxes(0).await;
    // The first allocation has found the pool empty and reads the claim of its key.
    broker.store.fail_next("find_claim", Fault::Delay(Duration::from_millis(800)));
    let (first, second) = tokio::join!(broker.allocate("t1"), async {
        sleep(Duration::from_millis(300)).await;
        assert!(broker.store.create(&ModelStore::sandbox(1)).await.unwrap());
        broker.allocate("t1").await
    });
    assert!(matches!(first, Err(AllocateError::NoneAvailable)), "{first:?}");
    second.expect("I4: one was available all the time");
}

#[actix::test]
async fn a_lagging_index_costs_conflicts_but_no_double_allocation() {
    let broker = TestBroker::with_sandboxes(20).await;
    let other = broker.replica("replica-2").await;
    sleep(Duration::from_secs(1)).await;
    broker.store.freeze_index();
    let tracks: Vec<_> = (0..20).map(|number| format!("t{number}")).collect();
    let answers = join_all(
        tracks
            .iter()
            .enumerate()
            .map(|(n, track)| if n % 2 == 0 { broker.allocate(track) } else { other.allocate(track) }),
    )
    .await;
    let distinct: BTreeSet<_> = answers.into_iter().map(|answer| answer.unwrap().claim.sandbox_id).collect();
    assert_eq!(distinct.len(), 20, "I1");
    broker.store.assert_consistent();
}

#[actix::test]
async fn replicas_that_know_each_other_rarely_collide() {
    let broker = TestBroker::with_sandboxes(1000).await;
    let mut replicas = vec![broker.clone()];
    for name in ["replica-2", "replica-3", "replica-4"] {
        replicas.push(broker.replica(name).await);
    }
    // Long enough for a heartbeat of each replica.
    sleep(Duration::from_secs(15)).await;
    let tracks: Vec<_> = (0..1000).map(|number| format!("t{number}")).collect();
    let answers = join_all(tracks.iter().enumerate().map(|(n, track)| replicas[n % 4].allocate(track))).await;
    let distinct: BTreeSet<_> = answers.into_iter().map(|answer| answer.unwrap().claim.sandbox_id).collect();
    assert_eq!(distinct.len(), 1000, "I1, I4");
    let conflicts = broker.store.requests()["claim"] - 1000;
    assert!(conflicts <= 50, "{conflicts} conflicts for 1000 allocations");
}

#[actix::test]
async fn a_lost_response_is_resolved_by_reading_the_claim_back() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.store.fail_next("claim", Fault::LostResponse);
    let answer = broker.allocate("t1").await.unwrap();
    assert!(!answer.replayed, "this request claimed it");
    assert_eq!(broker.count(Status::Allocated), 1, "I3: nothing leaked");
    broker.store.assert_consistent();
}

/// The lagging index offers the sandbox that the key already holds, past its expiry, and the response is lost.
#[actix::test]
async fn an_overdue_holding_is_not_the_answer_to_an_unknown_outcome() {
    let broker = TestBroker::with_sandboxes(1).await;
    broker.broker.pause(ActorName::ExpiryReaper, "keep the holding", "test").await.unwrap();
    broker.store.freeze_index();
    let held = broker.allocate("t1").await.unwrap().claim;
    sleep(Duration::from_secs(5 * 3600)).await;
    let other = broker.replica("replica-2").await;
    sleep(Duration::from_secs(1)).await;
    broker.store.fail_next("claim", Fault::LostResponse);
    let answer = other.allocate("t1").await;
    assert!(matches!(answer, Err(AllocateError::NoneAvailable)), "it has expired: {answer:?}");
    assert_eq!(broker.sandbox(&held.sandbox_id).status, Status::PendingDeletion, "the expired holding is ended");
}

#[actix::test]
async fn a_lost_request_is_followed_by_another_candidate() {
    let broker = TestBroker::with_sandboxes(2).await;
    broker.store.fail_next("claim", Fault::LostRequest);
    broker.allocate("t1").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    broker.allocate("t2").await.expect("the candidate of the lost request is back after a refresh");
}

#[actix::test]
async fn a_request_that_arrives_late_finds_the_key_taken() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.store.fail_next("claim", Fault::LateRequest(Duration::from_secs(3)));
    let answer = broker.allocate("t1").await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(broker.count(Status::Allocated), 1, "I2");
    assert_eq!(broker.allocate("t1").await.unwrap().claim, answer.claim);
    broker.store.assert_consistent();
}

#[actix::test]
async fn an_unknown_outcome_is_an_error_and_a_retry_resolves_it() {
    let broker = TestBroker::with_sandboxes(5).await;
    broker.store.fail_next("claim", Fault::LostResponse);
    broker.store.fail_next("find_claim", Fault::LostRequest);
    let unknown = broker.allocate("t1").await;
    assert!(matches!(unknown, Err(AllocateError::Store(StoreError::OutcomeUnknown(_)))), "{unknown:?}");
    assert!(broker.allocate("t1").await.unwrap().replayed);
    assert_eq!(broker.count(Status::Allocated), 1, "I2");
}

#[actix::test]
async fn a_replay_does_not_get_none_available_while_its_claim_cannot_be_read() {
    let broker = TestBroker::with_sandboxes(1).await;
    let first = broker.allocate("t1").await.unwrap();
    broker.store.fail_next("find_claim", Fault::Delay(Duration::from_secs(5)));
    let unknown = broker.allocate("t1").await;
    assert!(matches!(unknown, Err(AllocateError::TimedOut { .. })), "I3: {unknown:?}");
    assert_eq!(broker.allocate("t1").await.unwrap().claim, first.claim);
}

#[actix::test]
async fn throttling_is_an_error_and_loses_no_candidate() {
    let broker = TestBroker::with_sandboxes(1).await;
    broker.store.fail_next("claim", Fault::Throttle);
    let refused = broker.allocate("t1").await;
    assert!(matches!(refused, Err(AllocateError::Store(StoreError::Throttled(_)))), "{refused:?}");
    broker.allocate("t1").await.expect("the candidate was put back");
}

#[actix::test]
async fn conflicts_are_retried_with_other_candidates() {
    let broker = TestBroker::with_sandboxes(10).await;
    for _ in 0..5 {
        broker.store.fail_next("claim", Fault::Conflict);
    }
    let started = Instant::now();
    broker.allocate("t1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(100), "it waits after three consecutive misses");
    assert_eq!(broker.store.requests()["claim"], 6);
}

#[actix::test]
async fn the_budget_of_an_allocation_is_kept() {
    let broker = TestBroker::with_sandboxes(3).await;
    broker.store.fail_next("claim", Fault::Delay(Duration::from_secs(3600)));
    let started = Instant::now();
    let late = broker.allocate("t1").await;
    assert!(matches!(late, Err(AllocateError::TimedOut { .. })), "{late:?}");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[actix::test]
async fn allocation_resumes_after_a_store_outage() {
    let broker = TestBroker::with_sandboxes(3).await;
    broker.allocate("t1").await.unwrap();
    broker.store.set_down(true);
    assert!(broker.allocate("t2").await.is_err());
    sleep(Duration::from_secs(60)).await;
    broker.store.set_down(false);
    sleep(Duration::from_secs(10)).await;
    broker.allocate("t2").await.unwrap();
    broker.store.assert_consistent();
}

#[actix::test]
async fn a_caller_that_gives_up_does_not_cancel_its_claim() {
    let broker = TestBroker::with_sandboxes(3).await;
    broker.store.fail_next("claim", Fault::Delay(Duration::from_secs(1)));
    let gone = tokio::time::timeout(Duration::from_millis(100), broker.allocate("t1")).await;
    assert!(gone.is_err());
    sleep(Duration::from_secs(2)).await;
    assert!(broker.allocate("t1").await.unwrap().replayed, "the claim ran to its end");
}

#[actix::test]
async fn a_released_sandbox_is_pending_deletion_and_its_key_is_free() {
    let broker = TestBroker::with_sandboxes(3).await;
    let first = broker.allocate("t1").await.unwrap().claim;
    let released = broker.broker.allocator().release(&first.sandbox_id, &owner("t1")).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let again = broker.broker.allocator().release(&first.sandbox_id, &owner("t1")).await.unwrap();
    assert_eq!(released, again, "the same answer again");
    assert_eq!(broker.sandbox(&first.sandbox_id).status, Status::PendingDeletion);
    let second = broker.allocate("t1").await.unwrap();
    assert!(!second.replayed);
    assert_ne!(second.claim.sandbox_id, first.sandbox_id);
    broker.store.assert_consistent();
}

#[actix::test]
async fn release_finds_a_key_that_is_not_the_default() {
    let broker = TestBroker::with_sandboxes(3).await;
    let claim = broker.allocate_with("t1", "my key", None).await.unwrap().claim;
    broker.broker.allocator().release(&claim.sandbox_id, &owner("t1")).await.unwrap();
    assert!(broker.store.claims().is_empty(), "the claim is deleted too");
    assert_eq!(broker.store.requests()["end_claim"], 2);
}

#[actix::test]
async fn only_the_owner_reads_renews_and_releases() {
    let broker = TestBroker::with_sandboxes(3).await;
    let allocator = broker.broker.allocator();
    let claim = broker.allocate("t1").await.unwrap().claim;
    let (id, stranger) = (&claim.sandbox_id, owner("t2"));
    assert!(matches!(allocator.read(id, &stranger).await, Err(SandboxError::NotOwner(_))));
    assert!(matches!(allocator.renew(id, &stranger, None).await, Err(SandboxError::NotOwner(_))));
    assert!(matches!(allocator.release(id, &stranger).await, Err(SandboxError::NotOwner(_))));
    assert_eq!(broker.sandbox(id).status, Status::Allocated);
    assert_eq!(allocator.read(id, &owner("t1")).await.unwrap(), broker.sandbox(id));
    let unknown = SandboxId::new("404");
    assert!(matches!(allocator.read(&unknown, &stranger).await, Err(SandboxError::NotFound(_))));
    assert!(matches!(allocator.release(&unknown, &stranger).await, Err(SandboxError::NotFound(_))));
}

#[actix::test]
async fn a_tombstone_is_not_found() {
    let broker = TestBroker::with_sandboxes(1).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    broker.broker.allocator().release(&claim.sandbox_id, &owner("t1")).await.unwrap();
    let sandbox = broker.sandbox(&claim.sandbox_id);
    let tombstone = sandbox.update(Event::DeletedAtCsp { keep_until: sandbox.updated_at }, sandbox.updated_at).unwrap();
    broker.store.update(&tombstone).await.unwrap();
    let allocator = broker.broker.allocator();
    assert!(matches!(allocator.read(&claim.sandbox_id, &owner("t1")).await, Err(SandboxError::NotFound(_))));
    assert!(matches!(allocator.release(&claim.sandbox_id, &owner("t1")).await, Err(SandboxError::NotFound(_))));
}

#[actix::test]
async fn renewal_restarts_the_lab_duration() {
    let broker = TestBroker::with_sandboxes(1).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    sleep(Duration::from_secs(3600)).await;
    let renewed = broker.broker.allocator().renew(&claim.sandbox_id, &owner("t1"), None).await.unwrap();
    assert_eq!(renewed.claim.expires_at.since(claim.expires_at), Duration::from_secs(3600));
    assert_eq!(broker.allocate("t1").await.unwrap().claim, renewed.claim, "a replay answers with the new expiry");
    broker.store.assert_consistent();
}

#[actix::test]
async fn a_release_whose_response_was_lost_is_answered_the_second_time() {
    let broker = TestBroker::with_sandboxes(1).await;
    let claim = broker.allocate("t1").await.unwrap().claim;
    broker.store.fail_next("end_claim", Fault::LostResponse);
    let allocator = broker.broker.allocator();
    assert!(matches!(allocator.release(&claim.sandbox_id, &owner("t1")).await, Err(SandboxError::Store(_))));
    allocator.release(&claim.sandbox_id, &owner("t1")).await.unwrap();
    broker.store.assert_consistent();
}

#[actix::test]
async fn without_contention_each_call_is_one_request() {
    let broker = TestBroker::with_sandboxes(50).await;
    let allocator = broker.broker.allocator();
    let claim = broker.allocate("t1").await.unwrap().claim;
    assert_eq!(track_requests(&broker), [("claim", 1)], "allocate");
    broker.allocate("t1").await.unwrap();
    assert_eq!(track_requests(&broker), [("claim", 2)], "replay");
    allocator.read(&claim.sandbox_id, &owner("t1")).await.unwrap();
    assert_eq!(track_requests(&broker), [("claim", 2), ("get", 1)], "read");
    allocator.release(&claim.sandbox_id, &owner("t1")).await.unwrap();
    assert_eq!(track_requests(&broker), [("claim", 2), ("end_claim", 1), ("get", 1)], "release");
}

/// The number of requests that calls of tracks send, without those of the actors.
fn track_requests(broker: &TestBroker) -> Vec<(&'static str, u64)> {
    let operations = ["claim", "end_claim", "find_claim", "get", "renew_claim", "update"];
    broker.store.requests().into_iter().filter(|(operation, _)| operations.contains(operation)).collect()
}

#[actix::test]
async fn a_renewal_by_a_replica_whose_clock_is_behind_does_not_shorten_the_holding() {
    let broker = TestBroker::with_sandboxes(1).await;
    let held = broker.allocate("t1").await.unwrap().claim;
    broker.clock.set_skew(-600);
    let renewed = broker.broker.allocator().renew(&held.sandbox_id, &owner("t1"), None).await.unwrap();
    assert_eq!(renewed.claim.expires_at, held.expires_at);
    assert_eq!(broker.sandbox(&held.sandbox_id).expires_at, Some(held.expires_at));
    broker.store.assert_consistent();
}
