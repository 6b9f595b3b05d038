//! The transition function as a table: every status with every event.

use broker_actors::sandbox::{
    Event, Field, Holding, IdempotencyKey, LabTime, Mutation, Owner, Refused, Sandbox, Status, Timestamp, TrackId,
    transition,
};
use broker_actors::testing::ModelStore;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1000);
const LATER: Timestamp = Timestamp(2000);

fn holding() -> Holding {
    Holding {
        owner: Owner::named(TrackId::new("track")),
        track_name: Some("lab".to_owned()),
        key: IdempotencyKey::new("key"),
        expires_at: LATER,
        lab: LabTime::default(),
    }
}

fn failed(retry_at: Option<Timestamp>) -> Event {
    Event::DeletionAttemptFailed { attempts: 2, retry_at, error: "no".to_owned() }
}

fn events() -> Vec<Event> {
    vec![
        Event::Claim(holding()),
        Event::Renew { expires_at: LATER },
        Event::Release,
        Event::Expire { due: NOW },
        Event::Expire { due: LATER },
        Event::Listed,
        Event::Missing { keep_until: LATER },
        Event::DeletedAtCsp { keep_until: LATER },
        failed(Some(LATER)),
        failed(None),
        Event::RetryDeletion,
        Event::Discard { keep_until: LATER },
    ]
}

/// The legal transitions: status, event, next status, and the fields that change.
fn allowed() -> Vec<(Status, Event, Status, Vec<Field>)> {
    use Status::*;
    let tombstone = || vec![Field::Ttl(LATER), Field::NextAttemptAt(None)];
    let released = || vec![Field::DeletionRequestedAt(NOW)];
    let attempt = |retry_at| {
        vec![Field::DeletionRetryCount(2), Field::NextAttemptAt(retry_at), Field::LastError(Some("no".to_owned()))]
    };
    let claimed = vec![
        Field::AllocatedAt(NOW),
        Field::ExpiresAt(LATER),
        Field::AllocatedToTrack(TrackId::new("track")),
        Field::TrackName(Some("lab".to_owned())),
        Field::IdempotencyKey(IdempotencyKey::new("key")),
    ];
    let retry = vec![Field::DeletionRetryCount(0), Field::NextAttemptAt(None), Field::LastError(None)];
    vec![
        (Available, Event::Claim(holding()), Allocated, claimed),
        (Available, Event::Missing { keep_until: LATER }, Stale, vec![Field::LastSynced(NOW)]),
        (Allocated, Event::Renew { expires_at: LATER }, Allocated, vec![Field::ExpiresAt(LATER)]),
        (Allocated, Event::Release, PendingDeletion, released()),
        (Allocated, Event::Expire { due: NOW }, PendingDeletion, released()),
        (PendingDeletion, Event::DeletedAtCsp { keep_until: LATER }, Deleted, tombstone()),
        (PendingDeletion, failed(Some(LATER)), PendingDeletion, attempt(Some(LATER))),
        (PendingDeletion, failed(None), DeletionFailed, attempt(None)),
        (Stale, Event::Listed, Available, vec![Field::LastSynced(NOW)]),
        (Stale, Event::Discard { keep_until: LATER }, Deleted, tombstone()),
        (DeletionFailed, Event::RetryDeletion, PendingDeletion, retry),
        (DeletionFailed, Event::Missing { keep_until: LATER }, Deleted, tombstone()),
        (DeletionFailed, Event::Discard { keep_until: LATER }, Deleted, tombstone()),
    ]
}

/// The position in the status index after the event.
fn shard_at(to: Status, event: &Event) -> Timestamp {
    match (to, event) {
        // By the end of the holding, the next attempt, the end of the tombstone.
        (Status::Allocated | Status::Deleted, _) | (_, Event::DeletionAttemptFailed { retry_at: Some(_), .. }) => LATER,
        // Since when it is so.
        _ => NOW,
    }
}

#[test]
fn every_status_accepts_its_events_and_no_others() {
    let allowed = allowed();
    for status in Status::ALL {
        for event in events() {
            let decided = transition(status, event.clone(), NOW);
            let expected = allowed.iter().find(|(from, on, ..)| *from == status && *on == event);
            match expected {
                Some((_, _, to, fields)) => {
                    assert_eq!(
                        decided,
                        Ok(Mutation { to: *to, at: NOW, shard_at: shard_at(*to, &event), fields: fields.clone() }),
                        "{status}, {event:?}"
                    );
                }
                None => assert_eq!(decided, Err(Refused { status, event: event.name() }), "{status}, {event:?}"),
            }
        }
    }
}

#[test]
fn every_status_except_deleted_has_a_transition_to_another() {
    for status in Status::ALL {
        let transitions = events().into_iter().filter_map(|event| transition(status, event, NOW).ok());
        let has_exit = transitions.into_iter().any(|change| change.to != status);
        assert_eq!(has_exit, status != Status::Deleted, "I3: {status}");
    }
}

#[test]
fn deleted_accepts_no_event() {
    for event in events() {
        assert!(transition(Status::Deleted, event.clone(), NOW).is_err(), "{event:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_mutation_increments_the_epoch(steps in prop::collection::vec(0..12usize, 0..40)) {
        let mut sandbox: Sandbox = ModelStore::sandbox(1);
        let (first, mut changes) = (sandbox.epoch.0, 0);
        for step in steps {
            let Ok(write) = sandbox.update(events()[step].clone(), NOW) else { continue };
            prop_assert!(write.is_met_by(&sandbox));
            let after = sandbox.after(&write.mutation);
            prop_assert!(!write.is_met_by(&after), "I5: the same write must not apply twice");
            changes += 1;
            prop_assert_eq!(after.epoch.0, first + changes);
            sandbox = after;
        }
    }
}
