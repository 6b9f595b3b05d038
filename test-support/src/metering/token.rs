//! Tokens of transactions: the same token again within ten minutes changes nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::error::ServiceError;
use super::placement::hash;

/// How long DynamoDB remembers a token after its transaction.
const REMEMBERED: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Tokens {
    known: HashMap<String, Known>,
    /// Tokens of committed transactions, in the order of their commits.
    committed: VecDeque<(Instant, String)>,
}

#[derive(Debug)]
struct Known {
    /// Of the transaction's items.
    fingerprint: u64,
    is_committed: bool,
}

impl Tokens {
    /// Remembers a token. Returns false if its transaction was committed already.
    pub(super) fn begin(&mut self, token: &str, items: &Value, now: Instant) -> Result<bool, ServiceError> {
        self.forget_old(now);
        let fingerprint = hash(&[items.to_string().as_bytes()]);
        match self.known.get(token) {
            None => {
                self.known.insert(token.to_owned(), Known { fingerprint, is_committed: false });
                Ok(true)
            }
            Some(known) if known.fingerprint != fingerprint => Err(ServiceError::new(
                "IdempotentParameterMismatchException",
                "The request token was used before with other parameters",
            )),
            Some(known) if known.is_committed => Ok(false),
            Some(_) => Err(ServiceError::new(
                "TransactionInProgressException",
                "The transaction with the given request token is already in progress.",
            )),
        }
    }

    pub(super) fn committed(&mut self, token: &str, now: Instant) {
        if let Some(known) = self.known.get_mut(token) {
            known.is_committed = true;
            self.committed.push_back((now, token.to_owned()));
        }
    }

    /// Forgets the token of a cancelled transaction: the same request may be tried again.
    pub(super) fn cancelled(&mut self, token: &str) {
        self.known.remove(token);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.committed.front() {
            if now.saturating_duration_since(*at) < REMEMBERED {
                break;
            }
            if let Some((_, token)) = self.committed.pop_front() {
                self.known.remove(&token);
            }
        }
    }
}
