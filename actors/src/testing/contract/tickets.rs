//! The clauses on tickets.

use std::time::Duration;

use super::{NOW, Store, claim_writes, created, fresh_holding, key_of, unique};
use crate::ports::{ClaimOutcome, GrantOutcome, TICKET_LIFETIME, Ticket};
use crate::sandbox::{ClaimKey, Holding, IdempotencyKey, Owner, Timestamp, TrackId, UnixMillis};

/// A ticket whose owner has a secret if `secret` is one.
fn fresh_ticket(secret: Option<&[u8]>) -> Ticket {
    let track = TrackId::new(unique("track#%"));
    let owner = secret.map_or(Owner::named(track.clone()), |secret| Owner::with_secret(track.clone(), secret));
    Ticket {
        claim_key: ClaimKey { track, key: IdempotencyKey::new(unique("key#")) },
        owner_proof: owner.proof,
        enqueued_at: UnixMillis(NOW.0 * 1000),
        name_prefix: Some("lab-".to_owned()),
        track_name: Some("first-steps".to_owned()),
        open_until: NOW.plus(Duration::from_secs(15)),
        seen_at: NOW,
    }
}

fn again(ticket: &Ticket, seconds: u64) -> Ticket {
    let now = NOW.plus(Duration::from_secs(seconds));
    Ticket { enqueued_at: UnixMillis(now.0 * 1000), open_until: now, seen_at: now, ..ticket.clone() }
}

fn holding_of(ticket: &Ticket) -> Holding {
    Holding { owner: ticket.owner(), key: ticket.claim_key.key.clone(), ..fresh_holding() }
}

async fn stored(store: &Store, ticket: &Ticket) -> Option<Ticket> {
    let all = store.tickets().await.unwrap();
    let listed = all.into_iter().find(|listed| listed.claim_key == ticket.claim_key);
    assert_eq!(store.find_held(&ticket.claim_key).await.unwrap().1, listed, "both reads are consistent");
    listed
}

/// A live ticket keeps its rank and takes over the rest; an expired one is replaced.
pub async fn a_live_ticket_keeps_its_rank(store: Store) {
    let first = fresh_ticket(None);
    assert_eq!(store.open_ticket(&first).await.unwrap().as_ref(), Some(&first));
    assert_eq!(stored(&store, &first).await.as_ref(), Some(&first));
    let later = Ticket { name_prefix: None, track_name: None, ..again(&first, 89) };
    let continued = Ticket { enqueued_at: first.enqueued_at, ..later.clone() };
    assert_eq!(store.open_ticket(&later).await.unwrap().as_ref(), Some(&continued));
    assert_eq!(stored(&store, &first).await.as_ref(), Some(&continued));
    let expired = again(&first, 89 + TICKET_LIFETIME.as_secs());
    assert_eq!(store.open_ticket(&expired).await.unwrap().as_ref(), Some(&expired));
    assert_eq!(stored(&store, &first).await.as_ref(), Some(&expired));
}

/// Only its owner's secret continues a ticket.
pub async fn a_ticket_is_continued_by_its_owner_alone(store: Store) {
    let ticket = fresh_ticket(Some(b"a secret"));
    assert!(store.open_ticket(&ticket).await.unwrap().is_some());
    let stranger = Ticket { owner_proof: None, ..again(&ticket, 1) };
    assert_eq!(store.open_ticket(&stranger).await.unwrap(), None);
    assert_eq!(stored(&store, &ticket).await.as_ref(), Some(&ticket), "nothing was written");
    assert!(store.open_ticket(&again(&ticket, 1)).await.unwrap().is_some());
}

/// Renewal and withdrawal are fenced by the rank.
pub async fn a_ticket_of_another_life_is_left_alone(store: Store) {
    let ticket = fresh_ticket(None);
    store.open_ticket(&ticket).await.unwrap();
    let other_life = again(&ticket, 1);
    assert!(!store.renew_ticket(&other_life).await.unwrap());
    assert!(!store.withdraw_ticket(&other_life).await.unwrap());
    let renewed = Ticket { open_until: Timestamp(NOW.0 + 30), seen_at: Timestamp(NOW.0 + 10), ..ticket.clone() };
    assert!(store.renew_ticket(&renewed).await.unwrap());
    assert_eq!(stored(&store, &ticket).await.as_ref(), Some(&renewed));
    assert!(store.withdraw_ticket(&renewed).await.unwrap());
    assert!(!store.withdraw_ticket(&renewed).await.unwrap());
    assert!(!store.renew_ticket(&renewed).await.unwrap(), "a renewal creates nothing");
    assert_eq!(stored(&store, &ticket).await, None);
}

/// A grant writes claim and sandbox and removes the ticket.
pub async fn a_grant_takes_the_ticket(store: Store) {
    let (sandbox, ticket) = (created(&store).await, fresh_ticket(Some(b"a secret")));
    store.open_ticket(&ticket).await.unwrap();
    let holding = holding_of(&ticket);
    let (update, claim) = claim_writes(&sandbox, &holding);
    let granted = store.grant(&update, &claim, &ticket, NOW).await.unwrap();
    assert_eq!(granted, GrantOutcome::Claim(ClaimOutcome::Claimed));
    assert_eq!(store.find_held(&key_of(&holding)).await.unwrap(), (Some(claim.clone()), None));
    let twin = created(&store).await;
    let (update, other) = claim_writes(&twin, &holding);
    let again = store.grant(&update, &other, &ticket, NOW).await.unwrap();
    assert_eq!(again, GrantOutcome::Claim(ClaimOutcome::AlreadyHeld(claim)), "what is held comes first");
    assert_eq!(store.get(&twin.sandbox_id).await.unwrap(), Some(twin));
}

/// I11: nothing is granted to a withdrawn or expired ticket.
pub async fn nothing_is_granted_without_a_live_ticket(store: Store) {
    let (sandbox, ticket) = (created(&store).await, fresh_ticket(None));
    let (update, claim) = claim_writes(&sandbox, &holding_of(&ticket));
    assert_eq!(store.grant(&update, &claim, &ticket, NOW).await.unwrap(), GrantOutcome::TicketGone, "never opened");
    store.open_ticket(&ticket).await.unwrap();
    let expired = NOW.plus(TICKET_LIFETIME);
    assert_eq!(store.grant(&update, &claim, &ticket, expired).await.unwrap(), GrantOutcome::TicketGone);
    assert_eq!(store.find_held(&ticket.claim_key).await.unwrap(), (None, Some(ticket.clone())));
    assert_eq!(store.get(&sandbox.sandbox_id).await.unwrap(), Some(sandbox));
}

/// What a replica announces is read with the commands.
pub async fn the_queue_is_announced_to_all(store: Store) {
    store.announce_queue(NOW, 7).await.unwrap();
    let queue = store.cluster_state().await.unwrap().queue;
    assert_eq!((queue.until, queue.waiting), (NOW, 7));
}
