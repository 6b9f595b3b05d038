use std::time::Duration;

use broker_actors::allocation::AllocateRequest;
use broker_actors::sandbox::{ClaimKey, IdempotencyKey, Owner, Sandbox, TrackId};

/// The numbers of tracks that start after the faults are at least this.
const FIRST_PROBE: u64 = 1000;

/// The name prefixes of requests. Accounts from number [`SECOND_KIND`] on match the last one.
pub(crate) const PREFIXES: [Option<&str>; 3] = [None, Some("lab-0"), Some("lab-1")];

/// The first number of the second kind of accounts.
pub(crate) const SECOND_KIND: u32 = 10_000;

/// An idempotency key of a track. The name prefix depends on the key, so a repeated request is identical.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    track: u64,
    number: u64,
}

impl Key {
    pub(crate) fn new(track: u64, number: u64) -> Self {
        Self { track, number }
    }

    /// The key of a track that starts after the faults.
    pub(crate) fn of_probe(number: u64) -> Self {
        Self { track: FIRST_PROBE + number, number: 0 }
    }

    pub(crate) fn track(&self) -> u64 {
        self.track
    }

    pub(crate) fn name(&self) -> IdempotencyKey {
        // The first key is the default, which a release tries first.
        let track = self.track;
        IdempotencyKey::new(if self.number == 0 { format!("t{track}") } else { format!("t{track}-{}", self.number) })
    }

    pub(crate) fn prefix(&self) -> Option<&'static str> {
        if self.track >= FIRST_PROBE {
            return None;
        }
        PREFIXES[(self.track + self.number) as usize % PREFIXES.len()]
    }

    pub(crate) fn request(&self) -> AllocateRequest {
        AllocateRequest {
            owner: owner(self.track),
            track_name: None,
            key: self.name(),
            name_prefix: self.prefix().map(str::to_owned),
            lab_duration: None,
            standby: false,
            // Some wait in the queue.
            wait: Some(Duration::from_secs(if self.track < FIRST_PROBE && self.track.is_multiple_of(2) {
                4
            } else {
                0
            })),
            quota: None,
        }
    }

    /// The request of a probe that waits.
    pub(crate) fn waiting_request(&self) -> AllocateRequest {
        AllocateRequest { wait: Some(Duration::from_secs(15)), ..self.request() }
    }

    pub(crate) fn claim_key(&self) -> ClaimKey {
        ClaimKey { track: track_id(self.track), key: self.name() }
    }

    pub(crate) fn owns(&self, sandbox: &Sandbox) -> bool {
        sandbox.belongs_to(&owner(self.track)) && sandbox.idempotency_key == Some(self.name())
    }
}

/// A track, as its own requests name it. Every second one has a secret.
pub(crate) fn owner(track: u64) -> Owner {
    if has_secret(track) {
        return Owner::with_secret(track_id(track), format!("the secret of track {track}").as_bytes());
    }
    Owner::named(track_id(track))
}

/// An impostor that knows the name of a track and not its secret; `None` if the track has no secret.
pub(crate) fn impostor(track: u64, random: &mut fastrand::Rng) -> Option<Owner> {
    let guess = random.bool().then(|| Owner::with_secret(track_id(track), b"a guessed secret"));
    has_secret(track).then(|| guess.unwrap_or_else(|| Owner::named(track_id(track))))
}

fn has_secret(track: u64) -> bool {
    track % 2 == 1
}

fn track_id(track: u64) -> TrackId {
    TrackId::new(format!("t{track}"))
}
