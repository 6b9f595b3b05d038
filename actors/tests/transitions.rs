//! The transition function as a table: every status with every event.

use broker_actors::sandbox::{
    AccountChanges, Event, Field, Holding, IdempotencyKey, Mutation, Owner, Refused, Sandbox, Status, Timestamp,
    TrackId, transition,
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
    }
}

fn failed(retry_at: Option<Timestamp>) -> Event {
    Event::DeletionAttemptFailed { attempts: 2, failing_since: NOW, retry_at, error: "no".to_owned() }
}

fn listed() -> Event {
    Event::Listed(AccountChanges {
        name: Some("new".to_owned()),
        external_id: Some("identity/accounts/new".to_owned()),
        sfdc_account_id: Some("crm-new".to_owned()),
        created_at: Some(NOW),
        available_from: Some(LATER),
    })
}

fn observed() -> Event {
    Event::Observed { is_gone: true, replaced_by: Some("identity/accounts/new".to_owned()) }
}

fn listed_after_deletion() -> Event {
    Event::ListedAfterDeletion { deletion_requested_at: NOW, replaced_by: None }
}

fn quarantine() -> Event {
    Event::Quarantine { reason: "damaged".to_owned(), requested_by: "ops".to_owned() }
}

fn events() -> Vec<Event> {
    vec![
        Event::Claim(holding()),
        Event::Renew { expires_at: LATER },
        Event::Release,
        Event::Expire { due: NOW },
        Event::Expire { due: LATER },
        listed(),
        observed(),
        listed_after_deletion(),
        Event::KeepTombstone { keep_until: LATER },
        Event::DeletionAccepted { retry_at: LATER },
        Event::Prepared,
        quarantine(),
        Event::Unquarantine { was_held: true },
        Event::Unquarantine { was_held: false },
        Event::Freeze { until: LATER },
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
    let tombstone = || vec![Field::Ttl(Some(LATER)), Field::DeletedAt(Some(NOW)), Field::NextAttemptAt(None)];
    let released = || vec![Field::DeletionRequestedAt(NOW)];
    let attempt = |retry_at| {
        vec![
            Field::DeletionRetryCount(2),
            Field::DeletionFailingSince(Some(NOW)),
            Field::NextAttemptAt(retry_at),
            Field::LastError(Some("no".to_owned())),
        ]
    };
    let claimed = vec![
        Field::AllocatedAt(NOW),
        Field::ExpiresAt(LATER),
        Field::AllocatedToTrack(TrackId::new("track")),
        Field::TrackName(Some("lab".to_owned())),
        Field::IdempotencyKey(IdempotencyKey::new("key")),
    ];
    let with_fresh_deletion = |others: Vec<Field>| {
        let mut fields = vec![
            Field::DeletionRetryCount(0),
            Field::DeletionFailingSince(None),
            Field::NextAttemptAt(None),
            Field::LastError(None),
        ];
        fields.extend(others);
        fields
    };
    let refreshed = || {
        vec![
            Field::LastSynced(NOW),
            Field::Name("new".to_owned()),
            Field::ExternalId("identity/accounts/new".to_owned()),
            Field::SfdcAccountId("crm-new".to_owned()),
            Field::CreatedAt(NOW),
            Field::AvailableFrom(Some(LATER)),
        ]
    };
    let observation = || vec![Field::GoneAtProvider(true), Field::ReplacedBy(Some("identity/accounts/new".to_owned()))];
    let accepted = || {
        let text = "the CSP has accepted the deletion and not finished it";
        vec![Field::NextAttemptAt(Some(LATER)), Field::LastError(Some(text.to_owned()))]
    };
    let quarantined =
        || vec![Field::QuarantineReason(Some("damaged".to_owned())), Field::QuarantinedBy(Some("ops".to_owned()))];
    let unquarantined = || with_fresh_deletion(vec![Field::QuarantineReason(None), Field::QuarantinedBy(None)]);
    let deleted_again = with_fresh_deletion(vec![
        Field::DeletionRequestedAt(NOW),
        Field::ReplacedBy(None),
        Field::NiosxaasCleanedAt(None),
        Field::DeletedAt(None),
        Field::Ttl(None),
    ]);
    let observed_pending = [observation(), vec![Field::NextAttemptAt(None)]].concat();
    let kept = vec![Field::Ttl(Some(LATER)), Field::LastSynced(NOW)];
    vec![
        (Available, Event::Claim(holding()), Allocated, claimed),
        (Available, Event::Missing { keep_until: LATER }, Stale, vec![Field::LastSynced(NOW)]),
        (Allocated, Event::Renew { expires_at: LATER }, Allocated, vec![Field::ExpiresAt(LATER)]),
        (Allocated, Event::Release, PendingDeletion, released()),
        (Allocated, Event::Expire { due: NOW }, PendingDeletion, released()),
        (PendingDeletion, Event::DeletedAtCsp { keep_until: LATER }, Deleted, tombstone()),
        (PendingDeletion, failed(Some(LATER)), PendingDeletion, attempt(Some(LATER))),
        (PendingDeletion, failed(None), DeletionFailed, attempt(None)),
        (PendingDeletion, Event::DeletionAccepted { retry_at: LATER }, PendingDeletion, accepted()),
        (PendingDeletion, observed(), PendingDeletion, observed_pending),
        (PendingDeletion, Event::Freeze { until: LATER }, PendingDeletion, vec![Field::FreezeUntil(LATER)]),
        (PendingDeletion, Event::Prepared, PendingDeletion, vec![Field::NiosxaasCleanedAt(Some(NOW))]),
        (DeletionFailed, Event::Prepared, DeletionFailed, vec![Field::NiosxaasCleanedAt(Some(NOW))]),
        (PendingDeletion, quarantine(), Quarantined, quarantined()),
        (Available, listed(), Available, refreshed()),
        (Available, quarantine(), Quarantined, quarantined()),
        (Allocated, observed(), Allocated, observation()),
        (Allocated, Event::Freeze { until: LATER }, Allocated, vec![Field::FreezeUntil(LATER)]),
        (Quarantined, Event::Unquarantine { was_held: true }, PendingDeletion, unquarantined()),
        (Quarantined, Event::Unquarantine { was_held: false }, Available, unquarantined()),
        (Deleted, Event::KeepTombstone { keep_until: LATER }, Deleted, kept),
        (Deleted, listed_after_deletion(), PendingDeletion, deleted_again),
        (Stale, listed(), Available, refreshed()),
        (Stale, Event::Discard { keep_until: LATER }, Deleted, tombstone()),
        (DeletionFailed, Event::RetryDeletion, PendingDeletion, with_fresh_deletion(Vec::new())),
        (DeletionFailed, Event::DeletedAtCsp { keep_until: LATER }, Deleted, tombstone()),
        (DeletionFailed, Event::DeletionAccepted { retry_at: LATER }, PendingDeletion, accepted()),
        (DeletionFailed, failed(Some(LATER)), PendingDeletion, attempt(Some(LATER))),
        (DeletionFailed, failed(None), DeletionFailed, attempt(None)),
        (DeletionFailed, observed(), DeletionFailed, observation()),
        (DeletionFailed, quarantine(), Quarantined, quarantined()),
        (DeletionFailed, Event::Missing { keep_until: LATER }, Deleted, tombstone()),
        (DeletionFailed, Event::Discard { keep_until: LATER }, Deleted, tombstone()),
    ]
}

#[test]
fn every_status_accepts_its_events_and_no_others() {
    let allowed = allowed();
    for status in Status::ALL {
        for event in events() {
            let decided =
                transition(status, event.clone(), NOW).map(|Mutation { to, at, fields, by, .. }| (to, at, fields, by));
            let expected = allowed.iter().find(|(from, on, ..)| *from == status && *on == event);
            match expected {
                Some((_, _, to, fields)) => {
                    let expected = (*to, NOW, fields.clone(), event.made_by().into());
                    assert_eq!(decided, Ok(expected), "{status}, {event:?}");
                }
                None => assert_eq!(decided, Err(Refused { status, event: event.name() }), "{status}, {event:?}"),
            }
        }
    }
}

/// The position in the status index: what the record says after the change, and what the update writes.
#[test]
fn every_change_moves_the_sandbox_to_its_position() {
    let record = Sandbox {
        expires_at: Some(Timestamp(5000)),
        next_attempt_at: Some(Timestamp(6000)),
        available_from: Some(Timestamp(7000)),
        ..ModelStore::sandbox(1)
    };
    for status in Status::ALL {
        for event in events() {
            let Ok(update) = (Sandbox { status, ..record.clone() }).update(event.clone(), NOW) else { continue };
            let expected = match (update.mutation.to, &event) {
                (Status::Available, Event::Listed(_)) | (Status::Deleted, _) => LATER,
                (Status::Available, _) => Timestamp(7000),
                (Status::Allocated, Event::Claim(_) | Event::Renew { .. }) => LATER,
                (Status::Allocated, _) => Timestamp(5000),
                (Status::PendingDeletion, Event::DeletionAttemptFailed { .. } | Event::DeletionAccepted { .. }) => {
                    LATER
                }
                (
                    Status::PendingDeletion,
                    Event::Release | Event::Expire { .. } | Event::Freeze { .. } | Event::Prepared,
                ) => Timestamp(6000),
                _ => NOW,
            };
            assert_eq!(update.mutation.shard_at, expected, "{status}, {event:?}");
        }
    }
}

#[test]
fn every_status_has_a_transition_to_another() {
    for status in Status::ALL {
        let transitions = events().into_iter().filter_map(|event| transition(status, event, NOW).ok());
        assert!(transitions.into_iter().any(|change| change.to != status), "I3: {status}");
    }
}

/// I9: an account that was deleted is deleted again, or stays deleted.
#[test]
fn a_deleted_sandbox_is_never_available_again() {
    for event in events() {
        let to = transition(Status::Deleted, event.clone(), NOW).map(|change| change.to);
        assert!(to.is_err() || matches!(to, Ok(Status::Deleted | Status::PendingDeletion)), "{event:?}: {to:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_mutation_increments_the_epoch(steps in prop::collection::vec(0..events().len(), 0..40)) {
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
