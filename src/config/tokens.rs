//! Who may call: the entries that the settings give, as names, bounds and digests. No token is kept.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use broker_actors::sandbox::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BadSettings;
use super::secrets::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, Secret, SecretSettings};
use super::values::Problem;

/// The shortest token that is accepted in production.
const MIN_TOKEN_LENGTH: usize = 32;

/// The longest token that is accepted. No other header of the API may be longer.
pub const MAX_TOKEN_LENGTH: usize = 256;

/// Named tokens at most. Each request compares its token with all of them, and metrics have series for each.
const MAX_NAMED: usize = 1000;

/// Labs or prefixes of one entry at most.
const MAX_BOUNDS: usize = 100;

/// The longest lab or prefix.
const MAX_BOUND_LENGTH: usize = 256;

/// SHA-256 of a token.
pub type TokenDigest = [u8; 32];

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// Call the track API.
    Track,
    /// Read in the admin API.
    Viewer,
    /// Call the admin API.
    Admin,
}

/// The tokens of one name, and what their holder may do.
#[derive(Clone, Debug)]
pub struct TokenEntry {
    /// The name in logs, journal and metrics.
    pub name: String,
    /// What the holder may do.
    pub role: TokenRole,
    /// The digest of each token.
    pub digests: Vec<TokenDigest>,
    /// The labs for which it allocates; all if there are none.
    pub labs: Vec<String>,
    /// What the requested name prefix must start with, one of these; anything if there are none.
    pub prefixes: Vec<String>,
    /// New allocations allowed per minute.
    pub new_per_minute: Option<NonZeroU32>,
    /// From when on it is not accepted.
    pub expires_at: Option<Timestamp>,
}

impl TokenEntry {
    fn unbounded(name: &str, role: TokenRole, digests: Vec<TokenDigest>) -> Self {
        let (labs, prefixes) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), role, digests, labs, prefixes, new_per_minute: None, expires_at: None }
    }
}

/// Where the tokens come from. Those in files may change while the program runs.
#[derive(Clone, Debug)]
pub struct TokenSources {
    pub(super) secrets: SecretSettings,
    /// Whether the tokens are for production: long ones, and none by default.
    pub(super) is_production: bool,
    /// New allocations per minute of the entry `default`; 0 is no limit.
    pub(super) new_per_minute: u32,
}

impl TokenSources {
    /// Whether a token is in a file.
    pub fn may_change(&self) -> bool {
        let SecretSettings {
            api_token,
            track_tokens,
            admin_token,
            viewer_token,
            csp_api_token: _,
            niosxaas_password: _,
        } = &self.secrets;
        [api_token, track_tokens, admin_token, viewer_token].into_iter().any(Secret::is_in_file)
    }

    /// Reads the tokens.
    ///
    /// # Errors
    ///
    /// All problems, without a token.
    pub fn read(&self) -> Result<Vec<TokenEntry>, BadSettings> {
        let mut problems = Vec::new();
        let SecretSettings {
            api_token,
            track_tokens,
            admin_token,
            viewer_token,
            csp_api_token: _,
            niosxaas_password: _,
        } = &self.secrets;
        let development = |token, is_default: bool| (is_default && !self.is_production).then_some(token);
        let has_named = track_tokens.is_set();
        let mut listed = |secret: &Secret, is_required: bool, development: Option<&str>| {
            self.digests(secret, is_required, development).unwrap_or_else(|found| {
                problems.extend(found);
                Vec::new()
            })
        };
        let api = listed(api_token, !has_named, development(DEVELOPMENT_TOKEN, !has_named));
        let admin = listed(admin_token, true, development(DEVELOPMENT_ADMIN_TOKEN, true));
        let viewer = listed(viewer_token, false, None);
        let named = named_tokens(track_tokens).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        });
        let default = TokenEntry {
            new_per_minute: NonZeroU32::new(self.new_per_minute),
            ..TokenEntry::unbounded("default", TokenRole::Track, api)
        };
        let mut entries = vec![
            (api_token.variable(), default),
            (admin_token.variable(), TokenEntry::unbounded("admin", TokenRole::Admin, admin)),
            (viewer_token.variable(), TokenEntry::unbounded("viewer", TokenRole::Viewer, viewer)),
        ];
        entries.extend(named.into_iter().map(|entry| (track_tokens.variable(), entry)));
        problems.extend(collisions(&entries));
        if problems.is_empty() {
            Ok(entries.into_iter().map(|(_, entry)| entry).filter(|entry| !entry.digests.is_empty()).collect())
        } else {
            Err(BadSettings(problems))
        }
    }

    /// The digests of a comma-separated list of tokens.
    fn digests(
        &self,
        secret: &Secret,
        is_required: bool,
        development: Option<&str>,
    ) -> Result<Vec<TokenDigest>, Vec<Problem>> {
        let name = secret.variable();
        let min_length = if self.is_production { MIN_TOKEN_LENGTH } else { 1 };
        let given = secret.read().map_err(|problem| vec![problem])?;
        // An optional one that is empty is none; one that is required is not replaced by a token that everyone knows.
        let given = given.filter(|tokens| is_required || !tokens.expose_secret().is_empty());
        let Some(tokens) = given.or_else(|| development.map(SecretString::from)) else {
            let takes = format!("one or more tokens of at least {min_length} characters, comma-separated");
            return if is_required { Err(vec![Problem::new(name, "nothing", takes)]) } else { Ok(Vec::new()) };
        };
        let mut problems = Vec::new();
        let tokens = tokens.expose_secret().split(',').map(str::trim);
        let digests = (1..).zip(tokens).map(|(number, token)| {
            let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_visible || !(min_length..=MAX_TOKEN_LENGTH).contains(&token.len()) {
                let holds = format!("a token (number {number}, hidden) of {} characters", token.chars().count());
                let takes = format!(
                    "tokens of at least {min_length} and at most {MAX_TOKEN_LENGTH} visible ASCII characters, \
                     comma-separated"
                );
                problems.push(Problem::new(name, holds, takes));
            }
            digest_of(token)
        });
        let digests = digests.collect();
        if problems.is_empty() { Ok(digests) } else { Err(problems) }
    }
}

/// SHA-256 of a token.
pub fn digest_of(token: &str) -> TokenDigest {
    Sha256::digest(token).into()
}

/// Whether one of the tokens is in the documentation.
pub(super) fn are_of_development(entries: &[TokenEntry]) -> bool {
    let known = [DEVELOPMENT_TOKEN, DEVELOPMENT_ADMIN_TOKEN].map(digest_of);
    entries.iter().flat_map(|entry| &entry.digests).any(|digest| known.contains(digest))
}

/// Names and tokens that two entries have.
fn collisions(entries: &[(&'static str, TokenEntry)]) -> Vec<Problem> {
    let (mut names, mut owners) = (BTreeSet::new(), Vec::<(&TokenDigest, &str, &str)>::new());
    let mut problems = Vec::new();
    for (variable, entry) in entries {
        if !names.insert(&entry.name) {
            let holds = format!("the name `{}` of another entry", entry.name);
            problems.push(Problem::new(variable, holds, "entries with different names"));
        }
        for digest in &entry.digests {
            let other = owners.iter().find(|(known, name, _)| *known == digest && *name != entry.name);
            if let Some((_, _, other)) = other {
                problems.push(Problem::new(
                    variable,
                    format!("a token of {other}"),
                    format!("other tokens than {other}"),
                ));
            }
            owners.push((digest, &entry.name, variable));
        }
    }
    problems
}

/// An entry of `BROKER_TRACK_TOKENS`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedToken {
    /// 1 to 64 letters, digits, dots, dashes and underscores.
    pub name: String,
    /// SHA-256 of the token, in hexadecimal digits.
    pub sha256: String,
    /// See [`TokenEntry::labs`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labs: Vec<String>,
    /// See [`TokenEntry::prefixes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// See [`TokenEntry::new_per_minute`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_per_minute: Option<NonZeroU32>,
    /// See [`TokenEntry::expires_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<ExpiresAt>,
}

/// The end of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExpiresAt {
    /// Seconds since the Unix epoch.
    Seconds(u64),
    /// As in RFC 3339, such as `2030-06-30T18:00:00Z`.
    Text(String),
}

impl NamedToken {
    /// The entry.
    ///
    /// # Errors
    ///
    /// Which field has a value that is not allowed, and what it takes.
    pub fn check(self) -> Result<TokenEntry, String> {
        let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(is_in_name) {
            return Err("name takes 1 to 64 letters, digits, '.', '_' and '-'".to_owned());
        }
        let is_bound = |text: &String| {
            (1..=MAX_BOUND_LENGTH).contains(&text.len()) && text.trim() == text && !text.contains(char::is_control)
        };
        for (field, bounds) in [("labs", &self.labs), ("prefixes", &self.prefixes)] {
            if bounds.len() > MAX_BOUNDS || !bounds.iter().all(is_bound) {
                return Err(format!(
                    "{field} takes up to {MAX_BOUNDS} texts of 1 to {MAX_BOUND_LENGTH} bytes without controls"
                ));
            }
        }
        let digest = digest_in(&self.sha256).ok_or("sha256 takes 64 hexadecimal digits")?;
        let expires_at = match self.expires_at {
            None => None,
            Some(ExpiresAt::Seconds(seconds)) => Some(Timestamp(seconds)),
            Some(ExpiresAt::Text(text)) => {
                let at = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_second()).ok());
                Some(Timestamp(at.ok_or("expires_at takes seconds since 1970 or a time such as 2030-06-30T18:00:00Z")?))
            }
        };
        let Self { name, labs, prefixes, new_per_minute, .. } = self;
        Ok(TokenEntry {
            name,
            role: TokenRole::Track,
            digests: vec![digest],
            labs,
            prefixes,
            new_per_minute,
            expires_at,
        })
    }
}

fn digest_in(hexadecimal: &str) -> Option<TokenDigest> {
    let mut digest = TokenDigest::default();
    if hexadecimal.len() != 2 * digest.len() || !hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(hexadecimal.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

fn named_tokens(secret: &Secret) -> Result<Vec<TokenEntry>, Problem> {
    let takes = "a JSON array of entries, as `sandbox-broker token new` prints them";
    let bad = |holds: String| Problem::new(secret.variable(), holds, takes);
    let Some(text) = secret.read()?.filter(|text| !text.expose_secret().is_empty()) else { return Ok(Vec::new()) };
    let named: Vec<NamedToken> = serde_json::from_str(text.expose_secret()).map_err(|error| bad(described(&error)))?;
    if named.len() > MAX_NAMED {
        return Err(bad(format!("{} entries, more than {MAX_NAMED}", named.len())));
    }
    let entries = (1..).zip(named).map(|(number, named)| {
        named.check().map_err(|problem| bad(format!("an entry (number {number}) that is not valid: {problem}")))
    });
    entries.collect()
}

/// What is wrong with the JSON. The parser's text may show a value, which may be a token.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let names_a_field = ["unknown field", "missing field", "duplicate field"].iter().any(|it| text.starts_with(it));
    if names_a_field { text } else { format!("other JSON, at line {} column {}", error.line(), error.column()) }
}
