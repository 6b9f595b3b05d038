//! I10: two students who know each other's names, with every mix of secrets, call all replicas of a broker at random. No
//! call of one is answered with a sandbox of the other that was allocated with a secret.
//!
//! A failure prints its seed and what happened; the same seed gives the same run.

use std::collections::BTreeMap;
use std::sync::Arc;

use broker_actors::allocation::AllocateRequest;
use broker_actors::sandbox::{IdempotencyKey, Owner, SandboxId, TrackId};
use broker_actors::testing::{FakeCsp, Flaw, ModelStore, PausedClock, TestBroker};
use futures_util::future::join_all;

/// Runs of each mix.
const SEEDS: u64 = 20;
/// Rounds of one run, each of several calls at once.
const ROUNDS: usize = 12;
const CALLS_AT_ONCE: usize = 5;
const REPLICAS: usize = 3;
const SANDBOXES: u32 = 40;

/// The names and secrets of the two students.
type Mix = [(&'static str, Option<&'static [u8]>); 2];

const ONE: Option<&[u8]> = Some(b"the-secret-of-one-student");
const OTHER: Option<&[u8]> = Some(b"the-secret-of-the-other");

/// With one name and no secret there is nothing that tells the students apart.
const MIXES: [Mix; 7] = [
    [("name", ONE), ("name", OTHER)],
    [("name", ONE), ("name", None)],
    [("name", None), ("name", OTHER)],
    [("name", ONE), ("another", ONE)],
    [("name", ONE), ("another", OTHER)],
    [("name", ONE), ("another", None)],
    [("name", None), ("another", None)],
];

#[derive(Clone, Debug)]
enum Call {
    Allocate { key: &'static str },
    Read(SandboxId),
    Renew(SandboxId),
    Release(SandboxId),
}

/// The sandbox of a success, and whether it was allocated by this call.
type Answer = Option<(SandboxId, bool)>;

async fn answer(broker: &TestBroker, owner: &Owner, call: &Call) -> Answer {
    let allocator = broker.broker.allocator();
    match call.clone() {
        Call::Allocate { key } => {
            let key = IdempotencyKey::new(key);
            let request = AllocateRequest {
                owner: owner.clone(),
                track_name: None,
                key,
                name_prefix: None,
                lab_duration: None,
                standby: false,
                wait: None,
                quota: None,
            };
            let allocation = allocator.allocate(request).await.ok()?;
            Some((allocation.claim.sandbox_id, !allocation.replayed))
        }
        Call::Read(id) => allocator.read(&id, owner).await.ok().map(|sandbox| (sandbox.sandbox_id, false)),
        Call::Renew(id) => {
            allocator.renew(&id, owner, None).await.ok().map(|renewed| (renewed.claim.sandbox_id, false))
        }
        Call::Release(id) => allocator.release(&id, owner).await.ok().map(|released| (released.sandbox_id, false)),
    }
}

fn next_call(random: &mut fastrand::Rng, known: &[SandboxId]) -> Call {
    match random.choice(known).filter(|_| random.u8(..4) > 0) {
        None => Call::Allocate { key: random.choice(["first", "second"]).expect("there are two") },
        Some(id) => match random.u8(..5) {
            0 => Call::Release(id.clone()),
            1 | 2 => Call::Renew(id.clone()),
            _ => Call::Read(id.clone()),
        },
    }
}

/// The number of calls that were answered and refused.
#[derive(Default)]
struct Counts {
    answered: usize,
    refused: usize,
}

/// One run. Returns a description of a crossing.
async fn run(mix: Mix, seed: u64, flaw: Option<Flaw>, counts: &mut Counts) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (store, csp) = (ModelStore::with_sandboxes(SANDBOXES), Arc::new(FakeCsp::with_accounts(SANDBOXES)));
    let settings = TestBroker::settings("replica-1");
    let first = TestBroker::start(store, csp, Arc::new(PausedClock::new()), settings).await;
    if let Some(flaw) = flaw {
        first.store.set_flaw(flaw);
    }
    let mut replicas = vec![first];
    while replicas.len() < REPLICAS {
        replicas.push(replicas[0].replica(&format!("replica-{}", replicas.len() + 1)).await);
    }
    let students = mix.map(|(name, secret)| {
        let track = TrackId::new(name);
        secret.map_or_else(|| Owner::named(track.clone()), |secret| Owner::with_secret(track.clone(), secret))
    });
    // A sandbox has one owner in its life: the student whose call allocated it.
    let mut owners: BTreeMap<SandboxId, usize> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let known: Vec<_> = owners.keys().cloned().collect();
        let calls: Vec<_> = (0..CALLS_AT_ONCE)
            .map(|_| (random.usize(..2), random.usize(..REPLICAS), next_call(&mut random, &known)))
            .collect();
        let answers = join_all(
            calls.iter().map(|(student, replica, call)| answer(&replicas[*replica], &students[*student], call)),
        )
        .await;
        for ((student, ..), answer) in calls.iter().zip(&answers) {
            if let Some((id, true)) = answer {
                owners.insert(id.clone(), *student);
            }
        }
        for ((student, replica, call), answer) in calls.iter().zip(answers) {
            let Some((id, _)) = answer else {
                counts.refused += 1;
                continue;
            };
            counts.answered += 1;
            let owner = owners[&id];
            let is_protected = students[owner].proof.is_some() || students[0].track != students[1].track;
            if owner != *student && is_protected {
                return Err(format!(
                    "I10: {mix:?}, seed {seed}: {call:?} of student {student} on replica {replica} is \
                                    answered with {id} of student {owner}"
                ));
            }
        }
    }
    for replica in &replicas {
        replica.broker.stop().await;
    }
    Ok(())
}

#[actix::test]
async fn no_mix_of_secrets_lets_a_student_have_what_is_anothers() {
    tokio::time::pause();
    for mix in MIXES {
        let mut counts = Counts::default();
        for seed in 0..SEEDS {
            run(mix, seed, None, &mut counts).await.unwrap_or_else(|crossing| panic!("{crossing}"));
        }
        let Counts { answered, refused } = counts;
        assert!(answered > 300 && refused > 50, "{mix:?}: {answered} calls were answered and {refused} refused");
    }
}

#[actix::test]
async fn a_crossing_is_found_where_no_secret_is_compared() {
    tokio::time::pause();
    for mix in MIXES.into_iter().filter(|[one, other]| one.0 == other.0) {
        let mut found = None;
        for seed in 0..SEEDS {
            found = run(mix, seed, Some(Flaw::ProofForgotten), &mut Counts::default()).await.err();
            if found.is_some() {
                break;
            }
        }
        let crossing = found.unwrap_or_else(|| panic!("{mix:?}: no crossing in {SEEDS} runs"));
        assert!(crossing.starts_with("I10"), "{crossing}");
    }
}
