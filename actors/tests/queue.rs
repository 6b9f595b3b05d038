//! The queue with whole brokers on a model store (I11).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker_actors::allocation::held::{Held, HeldError};
use broker_actors::allocation::{AllocateError, AllocateRequest, Allocation};
use broker_actors::ports::{ClaimOutcome, Clock as _, Coordination as _, SandboxStore as _};
use broker_actors::sandbox::{Holding, IdempotencyKey, LabTime, Owner, Status, TrackId};
use broker_actors::testing::{FakeCsp, Fault, ModelStore, PausedClock, TestBroker};
use futures_util::future::join_all;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

const MINUTE: Duration = Duration::from_secs(60);

/// A broker whose pool is empty.
async fn empty_broker() -> TestBroker {
    tokio::time::pause();
    let (csp, clock) = (Arc::new(FakeCsp::with_accounts(0)), Arc::new(PausedClock::new()));
    let broker = TestBroker::start(ModelStore::with_sandboxes(0), csp, clock, TestBroker::settings("replica-1")).await;
    sleep(Duration::from_secs(1)).await;
    broker
}

fn request(track: &str, prefix: Option<&str>, wait: Duration) -> AllocateRequest {
    AllocateRequest {
        owner: Owner::named(TrackId::new(track)),
        track_name: None,
        key: IdempotencyKey::new(track),
        name_prefix: prefix.map(str::to_owned),
        lab_duration: None,
        standby: false,
        wait: Some(wait),
        quota: None,
    }
}

type Answer = Result<Allocation, AllocateError>;

/// A request that waits, in the background.
fn wait(broker: &TestBroker, track: &str, prefix: Option<&str>, wait: Duration) -> JoinHandle<Answer> {
    let (broker, request) = (broker.broker.clone(), request(track, prefix, wait));
    spawn_local(async move { broker.allocator().allocate(request).await })
}

/// These sandboxes appear, as a sync makes them.
async fn supply(broker: &TestBroker, numbers: std::ops::RangeInclusive<u32>) {
    let count = numbers.clone().count() as u64;
    for number in numbers {
        assert!(broker.store.create(&ModelStore::sandbox(number)).await.unwrap());
    }
    broker.store.add_supply(count).await.unwrap();
}

fn key(track: &str) -> (Owner, IdempotencyKey) {
    (Owner::named(TrackId::new(track)), IdempotencyKey::new(track))
}

async fn held(broker: &TestBroker, track: &str) -> Result<Held, HeldError> {
    let (owner, key) = key(track);
    broker.broker.allocator().held(&owner, &key).await
}

fn position(answer: &Answer) -> usize {
    match answer {
        Err(AllocateError::Waiting(standing)) => standing.position,
        other => panic!("it does not wait: {other:?}"),
    }
}

#[actix::test]
async fn i11_a_waiter_gets_a_sandbox_within_two_seconds_of_its_appearance() {
    let broker = empty_broker().await;
    let other = broker.replica("replica-2").await;
    let waiting = [wait(&broker, "t1", None, MINUTE), wait(&other, "t2", None, MINUTE)];
    sleep(Duration::from_secs(20)).await;
    supply(&broker, 1..=2).await;
    let appeared = Instant::now();
    for answer in join_all(waiting).await {
        assert!(!answer.unwrap().unwrap().replayed);
    }
    assert!(appeared.elapsed() <= Duration::from_secs(2), "I11: {:?}", appeared.elapsed());
    assert!(broker.store.tickets_left().is_empty(), "a grant removes its ticket");
    broker.store.assert_consistent();
}

#[actix::test]
async fn i11_rank_survives_retries_replicas_and_restarts() {
    let broker = empty_broker().await;
    let first = wait(&broker, "t1", None, Duration::from_secs(5)).await.unwrap();
    let second = wait(&broker, "t2", None, Duration::from_secs(5)).await.unwrap();
    assert_eq!(position(&first), 1);
    assert_eq!(position(&second), 1, "the first one is absent, and does not count");
    // The replica dies. Another one serves the retries, the second one's first.
    broker.broker.stop().await;
    let other = broker.replica("replica-2").await;
    let second = wait(&other, "t2", None, MINUTE);
    sleep(Duration::from_secs(1)).await;
    let first = wait(&other, "t1", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    supply(&other, 1..=1).await;
    assert!(first.await.unwrap().is_ok(), "I11: the older ticket is first");
    assert!(!second.is_finished());
}

#[actix::test]
async fn an_absent_one_is_passed_over_and_keeps_its_rank() {
    let broker = empty_broker().await;
    let absent = wait(&broker, "t1", None, Duration::from_secs(5)).await.unwrap();
    assert_eq!(position(&absent), 1);
    let present = wait(&broker, "t2", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    supply(&broker, 1..=1).await;
    assert!(present.await.unwrap().is_ok());
    let newcomer = wait(&broker, "t3", None, MINUTE);
    sleep(Duration::from_secs(1)).await;
    let back = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_secs(3)).await;
    supply(&broker, 2..=2).await;
    assert!(back.await.unwrap().is_ok(), "I11: it was there before the newcomer");
    assert!(!newcomer.is_finished());
}

#[actix::test]
async fn one_that_nothing_fits_blocks_no_other() {
    let broker = empty_broker().await;
    let unfit = wait(&broker, "t1", Some("gpu-"), MINUTE);
    sleep(Duration::from_secs(1)).await;
    let fit = wait(&broker, "t2", Some("lab-"), MINUTE);
    sleep(Duration::from_secs(1)).await;
    supply(&broker, 1..=1).await;
    assert!(fit.await.unwrap().is_ok());
    assert!(!unfit.is_finished());
}

#[actix::test]
async fn a_newcomer_waits_behind_those_who_wait() {
    let broker = empty_broker().await;
    let waiting: Vec<_> = (0..3).map(|number| wait(&broker, &format!("t{number}"), None, MINUTE)).collect();
    sleep(Duration::from_secs(10)).await;
    // A replica without waiters knows from the announcement that some wait.
    let other = broker.replica("replica-2").await;
    supply(&broker, 1..=2).await;
    let newcomer = wait(&other, "newcomer", None, Duration::ZERO).await.unwrap();
    assert_eq!(position(&newcomer), 4 - 2, "it did not overtake: {newcomer:?}");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(waiting.iter().filter(|waiter| waiter.is_finished()).count(), 2);
}

#[actix::test]
async fn twins_get_one_sandbox() {
    let broker = empty_broker().await;
    let other = broker.replica("replica-2").await;
    let twins = [&broker, &broker, &other].map(|replica| wait(replica, "t1", None, MINUTE));
    sleep(Duration::from_secs(5)).await;
    supply(&broker, 1..=3).await;
    let answers = join_all(twins).await;
    let sandboxes: BTreeSet<_> = answers.into_iter().map(|answer| answer.unwrap().unwrap().claim.sandbox_id).collect();
    assert_eq!(sandboxes.len(), 1, "I2");
    assert_eq!(broker.count(Status::Available), 2);
    broker.store.assert_consistent();
}

#[actix::test]
async fn nothing_is_granted_to_a_withdrawn_ticket() {
    let broker = empty_broker().await;
    let other = broker.replica("replica-2").await;
    let waiting = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    assert!(matches!(held(&other, "t1").await, Ok(Held::Place(standing)) if standing.position == 1));
    let (owner, key) = key("t1");
    let released = other.broker.allocator().release_held(&owner, &key).await.unwrap();
    assert!(released.released && released.sandbox_id.is_none(), "{released:?}");
    supply(&broker, 1..=1).await;
    assert!(matches!(waiting.await.unwrap(), Err(AllocateError::Withdrawn)));
    assert_eq!(broker.count(Status::Available), 1, "I11");
    assert!(matches!(held(&other, "t1").await, Err(HeldError::NothingHeld)));
}

#[actix::test]
async fn a_client_that_goes_away_is_granted_nothing() {
    let broker = empty_broker().await;
    let gone = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    gone.abort();
    sleep(Duration::from_secs(1)).await;
    supply(&broker, 1..=1).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(broker.count(Status::Available), 1);
    assert!(wait(&broker, "t1", None, MINUTE).await.unwrap().is_ok(), "it keeps its rank");
}

#[actix::test]
async fn an_expired_ticket_starts_again_at_the_end() {
    let broker = empty_broker().await;
    assert_eq!(position(&wait(&broker, "t1", None, Duration::from_secs(5)).await.unwrap()), 1);
    let second = wait(&broker, "t2", None, 5 * MINUTE);
    sleep(Duration::from_secs(91)).await;
    let late = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    supply(&broker, 1..=1).await;
    assert!(second.await.unwrap().is_ok());
    assert!(!late.is_finished());
}

#[actix::test]
async fn i10_a_ticket_belongs_to_its_owners_secret() {
    let broker = empty_broker().await;
    let track = TrackId::new("t1");
    let own = AllocateRequest {
        owner: Owner::with_secret(track.clone(), b"a secret of sixteen"),
        ..request("t1", None, Duration::from_secs(5))
    };
    let answer = broker.broker.allocator().allocate(own).await;
    assert_eq!(position(&answer), 1);
    let stranger = wait(&broker, "t1", None, MINUTE).await.unwrap();
    assert!(matches!(stranger, Err(AllocateError::NotOwner)), "{stranger:?}");
    assert!(matches!(held(&broker, "t1").await, Err(HeldError::NotOwner)));
    let (owner, key) = key("t1");
    let released = broker.broker.allocator().release_held(&owner, &key).await;
    assert!(matches!(released, Err(HeldError::NotOwner)));
}

#[actix::test]
async fn those_who_wait_for_nothing_are_told_so() {
    let broker = empty_broker().await;
    assert_eq!(position(&wait(&broker, "t1", None, Duration::from_secs(5)).await.unwrap()), 1, "what came is unknown");
    sleep(15 * MINUTE).await;
    let hopeless = wait(&broker, "t1", None, Duration::from_secs(5)).await.unwrap();
    assert!(matches!(hopeless, Err(AllocateError::NoneAvailable)), "{hopeless:?}");
}

#[actix::test]
async fn a_stopping_replica_sends_its_waiters_away() {
    let broker = empty_broker().await;
    let waiting = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    broker.broker.queue().close();
    assert!(matches!(waiting.await.unwrap(), Err(AllocateError::Stopping)));
    assert_eq!(broker.store.tickets_left().len(), 1, "the ticket stays");
}

/// A grant whose answer is lost is found by reading the claim back.
#[actix::test]
async fn a_grant_without_an_answer_is_answered() {
    let broker = empty_broker().await;
    let waiting = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    broker.store.fail_next("grant", Fault::LostResponse);
    supply(&broker, 1..=2).await;
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(broker.count(Status::Allocated), 1);
    broker.store.assert_consistent();
}

/// A twin of a waiter is served past the queue, at a replica that does not know of it. The ticket must not take a turn.
#[actix::test]
async fn the_ticket_of_a_key_that_holds_a_sandbox_takes_no_turn() {
    let broker = empty_broker().await;
    let twin = wait(&broker, "t1", None, MINUTE);
    sleep(Duration::from_millis(100)).await;
    let behind = wait(&broker, "t2", None, MINUTE);
    sleep(Duration::from_secs(5)).await;
    let claimed = ModelStore::sandbox(1);
    assert!(broker.store.create(&claimed).await.unwrap());
    let (owner, key) = key("t1");
    let expires_at = broker.clock.now().plus(MINUTE);
    let holding = Holding { owner, track_name: None, key, expires_at, lab: LabTime::default() };
    let (update, claim) = claimed.claim(holding, broker.clock.now()).unwrap();
    assert_eq!(broker.store.claim(&update, &claim).await.unwrap(), ClaimOutcome::Claimed);
    supply(&broker, 2..=2).await;
    let answer = twin.await.unwrap().unwrap();
    assert!(answer.replayed && answer.claim.sandbox_id == claimed.sandbox_id, "{answer:?}");
    let answered = Instant::now();
    assert!(behind.await.unwrap().is_ok());
    assert!(answered.elapsed() <= Duration::from_secs(2), "I11: {:?}", answered.elapsed());
    sleep(Duration::from_secs(1)).await;
    assert!(broker.store.tickets_left().is_empty());
}

#[actix::test]
async fn the_fast_path_stays_one_request() {
    let broker = TestBroker::with_sandboxes(50).await;
    let before = broker.store.requests();
    broker.broker.allocator().allocate(request("t1", None, MINUTE)).await.unwrap();
    let after = broker.store.requests();
    let sent: u64 = after.values().sum::<u64>() - before.values().sum::<u64>();
    assert_eq!(sent, 1, "{before:?} {after:?}");
}

#[actix::test]
async fn a_release_without_an_id_takes_two_requests() {
    let broker = TestBroker::with_sandboxes(50).await;
    broker.allocate("t1").await.unwrap();
    let before: u64 = broker.store.requests().values().sum();
    let (owner, key) = key("t1");
    assert!(broker.broker.allocator().release_held(&owner, &key).await.unwrap().sandbox_id.is_some());
    assert_eq!(broker.store.requests().values().sum::<u64>() - before, 2);
}

/// The scripts in the wild, unchanged: five tries, each read for at most 30 s; 503 is repeated after `Retry-After`, 409 is
/// final. The broker makes each of them wait.
async fn unchanged_script(broker: TestBroker, track: String) -> Result<Allocation, String> {
    for _ in 0..5 {
        let started = Instant::now();
        let answer = wait(&broker, &track, None, Duration::from_secs(20)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(30), "it would have stopped reading");
        match answer {
            Ok(allocation) => return Ok(allocation),
            Err(AllocateError::Waiting(standing)) => sleep(standing.retry_after).await,
            Err(error) => return Err(format!("{track}: {error}")),
        }
    }
    Err(format!("{track}: no try is left"))
}

#[actix::test]
async fn unchanged_scripts_get_their_sandboxes_from_a_pool_that_is_empty_for_100_seconds() {
    let broker = empty_broker().await;
    let other = broker.replica("replica-2").await;
    let scripts: Vec<_> = (0..50)
        .map(|number| {
            let replica = if number % 2 == 0 { broker.clone() } else { other.clone() };
            spawn_local(unchanged_script(replica, format!("t{number}")))
        })
        .collect();
    sleep(Duration::from_secs(100)).await;
    supply(&broker, 1..=50).await;
    let sandboxes: BTreeSet<_> =
        join_all(scripts).await.into_iter().map(|answer| answer.unwrap().unwrap().claim.sandbox_id).collect();
    assert_eq!(sandboxes.len(), 50);
    broker.store.assert_consistent();
}

/// The order holds at scale, over replicas that each see a part of the waiters.
#[actix::test]
async fn i11_of_ten_thousand_on_four_replicas_the_first_thousand_are_served() {
    const WAITING: usize = 10_000;
    const SUPPLY: usize = 1_000;
    let broker = empty_broker().await;
    let mut replicas = vec![broker.clone()];
    for number in 2..=4 {
        replicas.push(broker.replica(&format!("replica-{number}")).await);
    }
    let mut waiting = Vec::new();
    for number in 0..WAITING {
        // A millisecond between them, so that the order is known.
        waiting.push(wait(&replicas[number % 4], &format!("t{number:05}"), None, 5 * MINUTE));
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(5)).await;
    supply(&broker, 1..=SUPPLY as u32).await;
    sleep(Duration::from_secs(2)).await;
    let served = waiting.iter().take_while(|waiter| waiter.is_finished()).count();
    let all_served = waiting.iter().filter(|waiter| waiter.is_finished()).count();
    assert_eq!((served, all_served), (SUPPLY, SUPPLY), "I11: within two seconds, and in order");
    broker.store.assert_consistent();
    waiting.iter().for_each(JoinHandle::abort);
}
