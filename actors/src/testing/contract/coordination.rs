use super::{NOW, Store, unique};
use crate::actor::{ActorName, Control, DesiredState};
use crate::ports::{ClusterState, DueCondition, JobLease, LabStats, LeaseOutcome, LeaseRequest, Stats, StoredLabs};
use crate::sandbox::{ReplicaId, Timestamp};

const JOB: ActorName = ActorName::CspSync;
const UNTIL: Timestamp = Timestamp(NOW.0 + 30);

fn replica() -> ReplicaId {
    ReplicaId::new(unique("replica"))
}

fn request(holder: &ReplicaId) -> LeaseRequest {
    LeaseRequest { job: JOB, holder: holder.clone(), until: UNTIL, stale: None, due: None }
}

async fn acquired(store: &Store, request: LeaseRequest) -> JobLease {
    match store.acquire_lease(&request).await.unwrap() {
        LeaseOutcome::Acquired(lease) => lease,
        LeaseOutcome::Refused(held) => panic!("held: {held:?}"),
    }
}

async fn refused(store: &Store, request: LeaseRequest) -> JobLease {
    match store.acquire_lease(&request).await.unwrap() {
        LeaseOutcome::Refused(held) => held,
        LeaseOutcome::Acquired(lease) => panic!("acquired: {lease:?}"),
    }
}

/// While a replica holds the lease no one gets it, not even the holder again, whatever time it is.
pub async fn a_lease_has_one_holder(store: Store) {
    let (one, other) = (replica(), replica());
    assert_eq!(store.read_lease(JOB).await.unwrap(), None);
    let lease = acquired(&store, request(&one)).await;
    assert_eq!((lease.holder.clone(), lease.expires_at, lease.term), (one.clone(), UNTIL, 1));
    assert_eq!(store.read_lease(JOB).await.unwrap(), Some(lease.clone()));
    for asker in [&one, &other] {
        let much_later = LeaseRequest { until: Timestamp(NOW.0 + 999_999), ..request(asker) };
        assert_eq!(refused(&store, much_later).await, lease);
    }
    let extended = Timestamp(NOW.0 + 60);
    assert!(store.extend_lease(&lease, extended).await.unwrap());
    assert_eq!(refused(&store, request(&other)).await, JobLease { expires_at: extended, ..lease });
}

/// A lease that was observed to be stale can be taken over, in a new term, but not once its holder has extended it.
pub async fn a_stale_lease_is_taken_over_unless_it_changed(store: Store) {
    let (holder, heir) = (replica(), replica());
    let observed = acquired(&store, request(&holder)).await;
    let takeover = LeaseRequest { stale: Some(observed.clone()), ..request(&heir) };
    assert!(store.extend_lease(&observed, Timestamp(UNTIL.0 + 1)).await.unwrap());
    let extended = refused(&store, takeover.clone()).await;
    let lease = acquired(&store, LeaseRequest { stale: Some(extended), ..takeover }).await;
    assert_eq!((lease.holder, lease.term), (heir, 2));
}

/// With a due condition, the lease of a job that ran recently is refused; a run stamped in the future is no obstacle.
pub async fn a_lease_is_not_given_before_the_job_is_due(store: Store) {
    let (one, other) = (replica(), replica());
    for (ran_at, is_given) in
        [(NOW.0 - 1, true), (NOW.0, true), (NOW.0 + 1, false), (NOW.0 + 10, false), (NOW.0 + 11, true)]
    {
        let mut lease = acquired(&store, request(&one)).await;
        lease.ran_at = Some(Timestamp(ran_at));
        assert!(store.release_lease(&lease).await.unwrap());
        let due = Some(DueCondition { ran_until: NOW, not_after: Timestamp(NOW.0 + 10) });
        let outcome = store.acquire_lease(&LeaseRequest { due, ..request(&other) }).await.unwrap();
        assert_eq!(matches!(outcome, LeaseOutcome::Acquired(_)), is_given, "ran at {ran_at}");
        if let LeaseOutcome::Acquired(lease) = outcome {
            assert!(store.release_lease(&lease).await.unwrap());
        }
    }
}

/// The holder of an old term can neither extend nor release the lease.
pub async fn a_lost_lease_cannot_be_extended_or_released(store: Store) {
    let holder = replica();
    let old = acquired(&store, request(&holder)).await;
    let new = acquired(&store, LeaseRequest { stale: Some(old.clone()), ..request(&holder) }).await;
    assert!(!store.extend_lease(&old, Timestamp(NOW.0 + 99)).await.unwrap(), "the term has changed");
    assert!(!store.release_lease(&old).await.unwrap());
    assert_eq!(store.read_lease(JOB).await.unwrap(), Some(new));
}

/// A released lease is free at once and keeps the record of the run.
pub async fn a_released_lease_keeps_the_record_of_the_run(store: Store) {
    let (one, other) = (replica(), replica());
    let mut lease = acquired(&store, request(&one)).await;
    lease.ran_at = Some(NOW);
    lease.last_run = Some(r#"{"report":"é"}"#.to_owned());
    assert!(store.release_lease(&lease).await.unwrap());
    let released = store.read_lease(JOB).await.unwrap().unwrap();
    assert_eq!(released, JobLease { expires_at: Timestamp(0), ..lease.clone() });
    let next = acquired(&store, request(&other)).await;
    assert_eq!((next.term, next.ran_at, next.last_run), (2, lease.ran_at, lease.last_run));
}

/// Of many concurrent requests for a lease, one succeeds.
pub async fn one_of_many_concurrent_requests_gets_the_lease(store: Store) {
    let requests = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.acquire_lease(&request(&replica())).await.unwrap() })
    });
    let outcomes = futures_util::future::join_all(requests).await;
    let acquired = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(LeaseOutcome::Acquired(_))));
    assert_eq!(acquired.count(), 1);
}

/// A newer command replaces an older one, never the other way round.
pub async fn the_newest_control_counts(store: Store) {
    let actor = ActorName::Cleanup;
    assert_eq!(store.cluster_state().await.unwrap(), ClusterState::default());
    let control = |desired_state, at| Control {
        actor,
        desired_state,
        reason: "maintenance – é".to_owned(),
        requested_by: "ops".to_owned(),
        updated_at: Timestamp(at),
    };
    assert_eq!(store.put_control(&control(DesiredState::Paused, 10)).await.unwrap(), None);
    assert_eq!(store.put_control(&control(DesiredState::Running, 9)).await.unwrap(), Some(Timestamp(10)));
    assert_eq!(store.cluster_state().await.unwrap().controls, [control(DesiredState::Paused, 10)]);
    let resume = Control { reason: String::new(), ..control(DesiredState::Running, 10) };
    assert_eq!(store.put_control(&resume).await.unwrap(), None);
    assert_eq!(store.cluster_state().await.unwrap().controls, [resume]);
}

/// A count and the supply counter share an item and do not overwrite each other.
pub async fn counts_and_supply_are_kept_together(store: Store) {
    let stats = Stats { total: 6, available: 1, allocated: 2, standby: 1, pending_deletion: 3, ..Stats::default() };
    store.add_supply(5).await.unwrap();
    let state = store.cluster_state().await.unwrap();
    assert_eq!((state.stats.counted_at, state.stats.supply), (None, 5));
    store.put_stats(NOW, &stats).await.unwrap();
    store.add_supply(2).await.unwrap();
    let state = store.cluster_state().await.unwrap();
    assert_eq!((state.stats.counted_at, state.stats.stats, state.stats.supply), (Some(NOW), stats, 7));
}

/// The last figures of the labs are read as they were stored.
pub async fn the_figures_of_labs_are_kept(store: Store) {
    let lab = |lab: &str, median_seconds| LabStats { lab: lab.to_owned(), held: 3, standby: 1, median_seconds };
    for labs in [vec![lab("dns", Some(60)), lab("\"ゼロ\"", None)], Vec::new()] {
        store.put_labs(NOW, &labs).await.unwrap();
        assert_eq!(store.labs().await.unwrap(), StoredLabs { counted_at: Some(NOW), labs });
    }
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

/// A heartbeat of a clock that was a day ahead keeps no replica listed, and does not stop that replica from being listed
/// again.
pub async fn a_heartbeat_of_a_clock_that_was_ahead_lists_no_one(store: Store) {
    let (one, other) = (replica(), replica());
    let ahead = |at: Timestamp| Timestamp(at.0 + 86_400);
    store.heartbeat(&one, ahead(NOW), ahead(UNTIL)).await.unwrap();
    assert!(!store.heartbeat(&other, NOW, UNTIL).await.unwrap().contains(&one));
    assert!(store.heartbeat(&one, NOW, UNTIL).await.unwrap().contains(&one));
    assert!(store.heartbeat(&other, NOW, UNTIL).await.unwrap().contains(&one));
}

/// Many dead heartbeats, which a TTL has not removed yet, hide no live one.
pub async fn dead_heartbeats_hide_no_live_one(store: Store) {
    let long_ago = Timestamp(NOW.0 - 1_000_000);
    for _ in 0..120 {
        store.heartbeat(&replica(), long_ago, long_ago).await.unwrap();
    }
    let (one, other) = (replica(), replica());
    store.heartbeat(&one, NOW, UNTIL).await.unwrap();
    let mut listed = store.heartbeat(&other, NOW, UNTIL).await.unwrap();
    listed.sort();
    let mut live = [one, other];
    live.sort();
    assert_eq!(listed, live);
}

/// A store that works takes the writes of a readiness check, before the first heartbeat and after it.
pub async fn a_working_store_passes_the_check(store: Store) {
    let replica = replica();
    store.check(&replica).await.unwrap();
    store.heartbeat(&replica, NOW, UNTIL).await.unwrap();
    store.check(&replica).await.unwrap();
    assert_eq!(store.heartbeat(&replica, NOW, UNTIL).await.unwrap(), [replica], "it stays listed");
}
