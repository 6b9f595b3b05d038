//! The order of the queue: who is next, as a pure function of the tickets and the free sandboxes.

use std::collections::BTreeMap;

use crate::ports::Ticket;
use crate::sandbox::ClaimKey;

/// The names of free sandboxes, each as often as it is free.
pub type FreeNames = BTreeMap<String, usize>;

/// The keys that may claim now: in the order of `tickets`, each takes one free sandbox that fits. A ticket that nothing fits
/// blocks no other.
pub fn turns<'a>(tickets: impl IntoIterator<Item = &'a Ticket>, mut free: FreeNames) -> Vec<&'a ClaimKey> {
    let mut turns = Vec::new();
    for ticket in tickets {
        if free.is_empty() {
            break;
        }
        let prefix = ticket.name_prefix.as_deref().unwrap_or_default();
        let fitting = free.range(prefix.to_owned()..).next().filter(|(name, _)| name.starts_with(prefix));
        let Some(name) = fitting.map(|(name, _)| name.clone()) else { continue };
        match free.get_mut(&name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(free.remove(&name)),
        }
        turns.push(&ticket.claim_key);
    }
    turns
}

/// The classes of waiters by prefix, each with its size: what [`turns`] may need of the free sandboxes.
pub fn classes<'a>(tickets: impl IntoIterator<Item = &'a Ticket>) -> BTreeMap<String, usize> {
    let mut classes = BTreeMap::new();
    for ticket in tickets {
        *classes.entry(ticket.name_prefix.clone().unwrap_or_default()).or_default() += 1;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{IdempotencyKey, Timestamp, TrackId, UnixMillis};

    fn ticket(track: &str, prefix: Option<&str>) -> Ticket {
        Ticket {
            claim_key: ClaimKey { track: TrackId::new(track), key: IdempotencyKey::new(track) },
            owner_proof: None,
            enqueued_at: UnixMillis(0),
            name_prefix: prefix.map(str::to_owned),
            track_name: None,
            open_until: Timestamp(0),
            seen_at: Timestamp(0),
        }
    }

    fn next(waiting: &[(&str, Option<&str>)], free: &[&str]) -> Vec<String> {
        let tickets: Vec<_> = waiting.iter().map(|(track, prefix)| ticket(track, *prefix)).collect();
        let mut names = FreeNames::new();
        for name in free {
            *names.entry((*name).to_owned()).or_default() += 1;
        }
        turns(&tickets, names).into_iter().map(|key| key.track.to_string()).collect()
    }

    #[test]
    fn the_first_of_the_queue_get_what_is_free() {
        let waiting = [("a", None), ("b", None), ("c", None)];
        assert_eq!(next(&waiting, &[]), Vec::<String>::new());
        assert_eq!(next(&waiting, &["lab-1", "lab-2"]), ["a", "b"]);
        assert_eq!(next(&waiting, &["lab-1", "lab-1", "lab-1", "lab-1"]), ["a", "b", "c"], "names may be equal");
    }

    #[test]
    fn one_that_nothing_fits_blocks_no_other() {
        let waiting = [("a", Some("gpu-")), ("b", Some("lab-")), ("c", None), ("d", Some("gpu-"))];
        assert_eq!(next(&waiting, &["lab-1"]), ["b"]);
        assert_eq!(next(&waiting, &["lab-1", "lab-2"]), ["b", "c"]);
        assert_eq!(next(&waiting, &["gpu-1", "lab-1"]), ["a", "b"]);
        assert_eq!(next(&waiting, &["gpu-1", "gpu-2", "lab-1"]), ["a", "b", "c"], "rank before fit");
    }
}
