//! Who owns a holding: a name, and optionally the proof of a secret (I10).
//!
//! The name of a track is no secret: it is in URLs and logs. An owner that sends a secret when it allocates must send it
//! with every later call.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::TrackId;

/// What the table stores of an owner's secret: SHA-256 over the track and the secret, as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnerProof(String);

impl OwnerProof {
    /// The proof of this secret of a track.
    pub fn of(track: &TrackId, secret: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [&b"owner"[..], b"\0", track.as_str().as_bytes(), b"\0", secret] {
            hash.update(part);
        }
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A proof that the table stores.
    pub fn stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Proofs are not printed: they would help to guess a weak secret.
impl fmt::Debug for OwnerProof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OwnerProof")
    }
}

/// Who calls: a track, with the proof of its secret if it sent one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The track.
    pub track: TrackId,
    /// The proof of its secret.
    pub proof: Option<OwnerProof>,
}

impl Owner {
    /// An owner without a secret.
    pub fn named(track: TrackId) -> Self {
        Self { track, proof: None }
    }

    /// An owner that sent this secret.
    pub fn with_secret(track: TrackId, secret: &[u8]) -> Self {
        Self { proof: Some(OwnerProof::of(&track, secret)), track }
    }

    /// Whether this caller may act on a holding of its track that was stored with `proof`. Takes the same time whatever
    /// is different.
    pub fn proves(&self, proof: Option<&OwnerProof>) -> bool {
        let Some(stored) = proof else { return true };
        let given = self.proof.as_ref().map_or(&b""[..], |given| given.as_str().as_bytes());
        given.ct_eq(stored.as_str().as_bytes()).into()
    }
}
