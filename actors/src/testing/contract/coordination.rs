use super::{NOW, Store, unique};
use crate::actor::{ActorName, Control, DesiredState};
use crate::ports::{JobLease, LeaseOutcome};
use crate::sandbox::{ReplicaId, Timestamp};

const JOB: ActorName = ActorName::CspSync;
const UNTIL: Timestamp = Timestamp(NOW.0 + 30);

fn replica() -> ReplicaId {
    ReplicaId::new(unique("replica"))
}

async fn acquired(store: &Store, holder: &ReplicaId, now: Timestamp) -> JobLease {
    let until = Timestamp(now.0 + 30);
    match store.acquire_lease(JOB, holder, now, until, None).await.unwrap() {
        LeaseOutcome::Acquired(lease) => lease,
        LeaseOutcome::Refused(held) => panic!("held: {held:?}"),
    }
}

/// While a replica holds the lease no one gets it, not even the holder again.
pub async fn a_lease_has_one_holder(store: Store) {
    let (one, other) = (replica(), replica());
    assert_eq!(store.read_lease(JOB).await.unwrap(), None);
    let lease = acquired(&store, &one, NOW).await;
    assert_eq!((lease.holder.clone(), lease.expires_at, lease.term), (one.clone(), UNTIL, 1));
    assert_eq!(store.read_lease(JOB).await.unwrap(), Some(lease.clone()));
    for holder in [&one, &other] {
        let refused = store.acquire_lease(JOB, holder, Timestamp(NOW.0 + 29), UNTIL, None).await.unwrap();
        assert_eq!(refused, LeaseOutcome::Refused(lease.clone()));
    }
    assert!(store.extend_lease(&lease, Timestamp(NOW.0 + 60)).await.unwrap());
    let refused = store.acquire_lease(JOB, &other, Timestamp(NOW.0 + 59), UNTIL, None).await.unwrap();
    assert!(matches!(refused, LeaseOutcome::Refused(_)), "extended");
}

/// An expired lease can be acquired, in a new term.
pub async fn a_lease_is_taken_over_once_it_expired(store: Store) {
    let (dead, successor) = (replica(), replica());
    acquired(&store, &dead, NOW).await;
    let lease = acquired(&store, &successor, UNTIL).await;
    assert_eq!((lease.holder, lease.term), (successor, 2));
}

/// With a due time, the lease of a job that ran later is refused.
pub async fn a_lease_is_not_given_before_the_job_is_due(store: Store) {
    let (one, other) = (replica(), replica());
    let mut lease = acquired(&store, &one, NOW).await;
    lease.ran_at = Some(Timestamp(NOW.0 + 5));
    assert!(store.release_lease(&lease).await.unwrap());
    for (due_since, is_given) in [(NOW.0 + 4, false), (NOW.0 + 5, true)] {
        let outcome = store.acquire_lease(JOB, &other, UNTIL, UNTIL, Some(Timestamp(due_since))).await.unwrap();
        assert_eq!(matches!(outcome, LeaseOutcome::Acquired(_)), is_given, "due since {due_since}");
    }
}

/// The holder of an old term can neither extend nor release the lease.
pub async fn a_lost_lease_cannot_be_extended_or_released(store: Store) {
    let holder = replica();
    let old = acquired(&store, &holder, NOW).await;
    let new = acquired(&store, &holder, UNTIL).await;
    assert!(!store.extend_lease(&old, Timestamp(NOW.0 + 99)).await.unwrap(), "the term has changed");
    assert!(!store.release_lease(&old).await.unwrap());
    assert_eq!(store.read_lease(JOB).await.unwrap(), Some(new));
}

/// A released lease is free at once and keeps the record of the run.
pub async fn a_released_lease_keeps_the_record_of_the_run(store: Store) {
    let (one, other) = (replica(), replica());
    let mut lease = acquired(&store, &one, NOW).await;
    lease.ran_at = Some(NOW);
    lease.last_run = Some(r#"{"report":"é"}"#.to_owned());
    assert!(store.release_lease(&lease).await.unwrap());
    let released = store.read_lease(JOB).await.unwrap().unwrap();
    assert_eq!(released, JobLease { expires_at: Timestamp(0), ..lease.clone() });
    let next = acquired(&store, &other, NOW).await;
    assert_eq!((next.term, next.ran_at, next.last_run), (2, lease.ran_at, lease.last_run));
}

/// Of many concurrent requests for a lease, one succeeds.
pub async fn one_of_many_concurrent_requests_gets_the_lease(store: Store) {
    let requests = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.acquire_lease(JOB, &replica(), NOW, UNTIL, None).await.unwrap() })
    });
    let outcomes = futures_util::future::join_all(requests).await;
    let acquired = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(LeaseOutcome::Acquired(_))));
    assert_eq!(acquired.count(), 1);
}

/// A newer command replaces an older one, never the other way round.
pub async fn the_newest_control_counts(store: Store) {
    let (actor, other) = (ActorName::Cleanup, ActorName::CspSync);
    assert_eq!(store.controls(&[actor]).await.unwrap(), []);
    let control = |desired_state, at| Control {
        actor,
        desired_state,
        reason: "maintenance – é".to_owned(),
        requested_by: "ops".to_owned(),
        updated_at: Timestamp(at),
    };
    store.put_control(&control(DesiredState::Paused, 10)).await.unwrap();
    store.put_control(&control(DesiredState::Running, 9)).await.unwrap();
    assert_eq!(store.controls(&[actor, other]).await.unwrap(), [control(DesiredState::Paused, 10)]);
    store.put_control(&Control { reason: String::new(), ..control(DesiredState::Running, 10) }).await.unwrap();
    let latest = store.controls(&[actor]).await.unwrap();
    assert_eq!((latest[0].desired_state, latest[0].reason.as_str()), (DesiredState::Running, ""));
}

/// A replica is listed until its heartbeat expires or it leaves.
pub async fn replicas_come_and_go(store: Store) {
    let (one, other) = (replica(), replica());
    assert!(store.heartbeat(&one, NOW, UNTIL).await.unwrap().contains(&one));
    let listed = store.heartbeat(&other, NOW, Timestamp(NOW.0 + 60)).await.unwrap();
    assert!(listed.contains(&one) && listed.contains(&other));
    let listed = store.heartbeat(&other, UNTIL, Timestamp(NOW.0 + 60)).await.unwrap();
    assert!(!listed.contains(&one), "its heartbeat expired");
    store.leave(&other).await.unwrap();
    assert!(!store.heartbeat(&one, NOW, UNTIL).await.unwrap().contains(&other), "left");
}

/// A store that works answers a ping.
pub async fn the_store_answers(store: Store) {
    store.ping().await.unwrap();
}
