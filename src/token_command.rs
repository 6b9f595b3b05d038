//! `sandbox-broker token`: makes tokens.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use flate2::Crc;

use crate::config::tokens::{ExpiresAt, NamedToken, digest_of};

/// Marks a token, so that scanners find one that was published by mistake.
const MARK: &str = "sbt_";

/// Random characters of a token. Each is worth almost 6 bits.
const RANDOM_LENGTH: usize = 40;

/// Enough digits of base 62 for 32 bits.
const CHECKSUM_LENGTH: usize = 6;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What to do with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a track token; it is printed once, with the entry for BROKER_TRACK_TOKENS that knows only its digest
    New(NewToken),
}

/// What the token is for.
#[derive(Args, Debug)]
pub struct NewToken {
    /// Name in logs, journal and metrics
    #[arg(long)]
    name: String,
    /// Lab for which it allocates; may be repeated [default: all]
    #[arg(long = "lab", value_name = "SLUG")]
    labs: Vec<String>,
    /// What the requested name prefix must start with; may be repeated [default: anything]
    #[arg(long = "prefix")]
    prefixes: Vec<String>,
    /// New allocations per minute and replica [default: no limit]
    #[arg(long)]
    new_per_minute: Option<NonZeroU32>,
    /// End of its validity, such as 2030-06-30T18:00:00Z [default: none]
    #[arg(long)]
    expires_at: Option<String>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The entry would not be accepted.
    #[error("{0}")]
    BadEntry(String),
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random(#[source] getrandom::Error),
}

impl TokenCommand {
    /// What it prints.
    ///
    /// # Errors
    ///
    /// See [`TokenError`].
    pub fn run(self) -> Result<String, TokenError> {
        let Self::New(NewToken { name, labs, prefixes, new_per_minute, expires_at }) = self;
        let token = new_token()?;
        let sha256 = digest_of(&token).iter().map(|byte| format!("{byte:02x}")).collect();
        let expires_at = expires_at.map(ExpiresAt::Text);
        let entry = NamedToken { name, sha256, labs, prefixes, new_per_minute, expires_at };
        entry.clone().check().map_err(TokenError::BadEntry)?;
        let entry = serde_json::to_string(&entry).expect("an entry is JSON");
        Ok(format!(
            "The token. Keep it: it is not shown again.\n{token}\n\n\
             Its entry for the array in BROKER_TRACK_TOKENS or BROKER_TRACK_TOKENS_FILE:\n{entry}\n"
        ))
    }
}

fn new_token() -> Result<String, TokenError> {
    let mut random = String::new();
    while random.len() < RANDOM_LENGTH {
        let mut bytes = [0; RANDOM_LENGTH];
        getrandom::fill(&mut bytes).map_err(TokenError::Random)?;
        // Without the last few values of a byte, which would make some digits more likely.
        let fair =
            bytes.into_iter().filter(|byte| *byte < 62 * 4).map(|byte| char::from(DIGITS[usize::from(byte) % 62]));
        random.extend(fair.take(RANDOM_LENGTH - random.len()));
    }
    let checksum = checksum_of(&random);
    Ok(format!("{MARK}{random}{checksum}"))
}

/// CRC-32 in base 62, as GitHub's tokens have it.
fn checksum_of(random: &str) -> String {
    let mut crc = Crc::new();
    crc.update(random.as_bytes());
    let mut rest = crc.sum();
    let mut digits = [DIGITS[0]; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_mark_forty_random_characters_and_their_checksum() {
        let [one, other] = [new_token().unwrap(), new_token().unwrap()];
        assert_ne!(one, other);
        let (random, checksum) = one.strip_prefix(MARK).unwrap().split_at(RANDOM_LENGTH);
        assert_eq!(checksum, checksum_of(random));
        assert!(one.len() == 50 && one.bytes().skip(MARK.len()).all(|byte| byte.is_ascii_alphanumeric()), "{one}");
        // The CRC-32 of this text is 0xcbf43926, everywhere.
        assert_eq!(checksum_of("123456789"), "3jZRME");
    }
}
