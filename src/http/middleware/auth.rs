//! Bearer tokens: who calls, and what that caller may do.

use std::sync::Arc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest, web};
use broker_actors::ports::Clock;
use broker_actors::quota::Quota;
use broker_actors::sandbox::Timestamp;
use parking_lot::RwLock;
use subtle::{Choice, ConstantTimeEq as _};

use crate::config::tokens::{MAX_TOKEN_LENGTH, TokenDigest, TokenEntry, TokenRole, digest_of};
use crate::http::error::{ApiError, ErrorCode};

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everyone, without a rate limit.
    Probe,
    /// Everyone.
    Public,
    /// Holders of a track token.
    Track,
    /// Holders of an admin token; to read, holders of a viewer token too.
    Admin,
}

impl Role {
    /// Whether a call needs a token.
    pub fn needs_token(self) -> bool {
        matches!(self, Self::Track | Self::Admin)
    }
}

/// One entry of the tokens, with what its callers have used of it.
#[derive(Debug)]
pub struct Credential {
    entry: TokenEntry,
    /// New allocations that it may still make.
    quota: Option<Arc<Quota>>,
}

impl Credential {
    fn new(entry: TokenEntry) -> Self {
        let quota = entry.new_per_minute.map(|limit| Arc::new(Quota::per_minute(limit)));
        Self { entry, quota }
    }

    /// The name in logs, journal and metrics.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// What its holder may do.
    pub fn role(&self) -> TokenRole {
        self.entry.role
    }

    /// New allocations that it may still make.
    pub(crate) fn quota(&self) -> Option<Arc<Quota>> {
        self.quota.clone()
    }

    /// Refuses an allocation beyond the bounds of the entry.
    pub(crate) fn check_bounds(&self, lab: Option<&str>, prefix: Option<&str>) -> Result<(), ApiError> {
        let TokenEntry { name, labs, prefixes, .. } = &self.entry;
        let forbidden = |what: &str, header: &str, allowed: &[String]| {
            let message = format!("the token `{name}` allocates only with {header} {what} {}", allowed.join(", "));
            Err(ApiError::new(ErrorCode::Forbidden, message))
        };
        if !labs.is_empty() && !lab.is_some_and(|lab| labs.iter().any(|allowed| allowed == lab)) {
            return forbidden("as one of", "X-Instruqt-Track-ID", labs);
        }
        if !prefixes.is_empty() && !prefix.is_some_and(|prefix| prefixes.iter().any(|it| prefix.starts_with(it))) {
            return forbidden("that starts with one of", "X-Sandbox-Name-Prefix", prefixes);
        }
        Ok(())
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.entry.expires_at.is_some_and(|end| end <= now)
    }
}

/// All tokens that are accepted. They may be replaced while the server runs.
#[derive(Debug)]
pub struct Tokens(RwLock<Vec<Arc<Credential>>>);

impl Tokens {
    /// The tokens of these entries.
    pub fn new(entries: Vec<TokenEntry>) -> Self {
        Self(RwLock::new(entries.into_iter().map(Credential::new).map(Arc::new).collect()))
    }

    /// Replaces all entries. An entry whose limit is the same keeps what is left of it.
    pub fn replace(&self, entries: Vec<TokenEntry>) {
        let mut credentials = self.0.write();
        let replaced = entries.into_iter().map(|entry| {
            let mut credential = Credential::new(entry);
            let before = credentials.iter().find(|before| before.name() == credential.name());
            if let Some(before) = before
                && before.entry.new_per_minute == credential.entry.new_per_minute
            {
                credential.quota.clone_from(&before.quota);
            }
            Arc::new(credential)
        });
        *credentials = replaced.collect();
    }

    /// The credential of this token. How long it takes depends only on the token's length and the number of known tokens:
    /// digests are compared, all of them, and each in constant time.
    pub fn find(&self, token: &str, now: Timestamp) -> Option<Arc<Credential>> {
        if token.len() > MAX_TOKEN_LENGTH {
            return None;
        }
        let given = digest_of(token);
        let mut found = None;
        for credential in self.0.read().iter() {
            let is_equal = |known: &TokenDigest| known.ct_eq(&given);
            let is_one = credential.entry.digests.iter().map(is_equal).fold(Choice::from(0), |any, equal| any | equal);
            if bool::from(is_one) {
                found = Some(Arc::clone(credential));
            }
        }
        found.filter(|credential| !credential.has_expired(now))
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The credential of the caller, if its token is known.
pub(crate) fn caller(request: &HttpRequest) -> Option<Arc<Credential>> {
    request.extensions().get().cloned()
}

/// Finds out who calls. The outermost middleware of every endpoint that needs a token.
pub(crate) async fn identify<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let tokens = request.app_data::<web::Data<Tokens>>().expect("the server sets the tokens");
    let clock = request.app_data::<web::Data<dyn Clock>>().expect("the server sets the clock");
    if let Some(caller) = bearer_token(request.headers()).and_then(|token| tokens.find(token, clock.now())) {
        request.extensions_mut().insert(caller);
    }
    next.call(request).await
}

/// Lets through who may call an endpoint of this role.
pub(crate) async fn authorize<B: MessageBody>(
    role: Role,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    match check(role, request.request()) {
        Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
        Err(refusal) => Ok(request.error_response(refusal).map_into_right_body()),
    }
}

fn check(role: Role, request: &HttpRequest) -> Result<(), ApiError> {
    let forbidden = |message: &'static str| Err(ApiError::new(ErrorCode::Forbidden, message));
    let Some(caller) = caller(request) else {
        return Err(match bearer_token(request.headers()) {
            Some(_) => ApiError::new(ErrorCode::Unauthorized, "the token is unknown, or it has expired"),
            None => ErrorCode::Unauthorized.into(),
        });
    };
    match (role, caller.role()) {
        (Role::Probe | Role::Public, _) | (Role::Track, TokenRole::Track) | (Role::Admin, TokenRole::Admin) => Ok(()),
        (Role::Admin, TokenRole::Viewer) if request.method().is_safe() => Ok(()),
        (Role::Admin, TokenRole::Viewer) => forbidden("a viewer token only reads; this call takes an admin token"),
        (Role::Admin, TokenRole::Track) => forbidden("this route takes an admin token"),
        (Role::Track, TokenRole::Viewer | TokenRole::Admin) => forbidden("this route takes a track token"),
    }
}
