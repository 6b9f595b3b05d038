//! Bearer tokens: who may call what.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConstantTimeEq as _};

use crate::config::{MAX_TOKEN_LENGTH, Settings};
use crate::http::error::{ApiError, ErrorCode};

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everyone, without a rate limit.
    Public,
    /// Holders of a track token.
    Track,
    /// Holders of an admin token.
    Admin,
}

/// The tokens of both APIs. Each is padded with NUL, which no token contains, to the same length, so that a comparison
/// does not reveal how long a token is.
#[derive(Clone, Debug)]
pub struct Tokens {
    track: Vec<SecretString>,
    admin: Vec<SecretString>,
}

impl Tokens {
    /// The tokens of the settings.
    pub fn new(settings: &Settings) -> Self {
        let padded = |tokens: &[SecretString]| {
            let padded = |token: &SecretString| format!("{:\0<MAX_TOKEN_LENGTH$}", token.expose_secret());
            tokens.iter().map(padded).map(SecretString::from).collect()
        };
        Self { track: padded(&settings.server.track_tokens), admin: padded(&settings.server.admin_tokens) }
    }

    /// Whether this is a token for that role. It takes the same time for every token of one length, whatever the known
    /// tokens are and however many of its characters are right.
    pub fn know(&self, role: Role, token: &str) -> bool {
        let known = match role {
            Role::Public => return true,
            Role::Track => &self.track,
            Role::Admin => &self.admin,
        };
        let token = token.as_bytes();
        if token.len() > MAX_TOKEN_LENGTH {
            return false;
        }
        let mut given = [0; MAX_TOKEN_LENGTH];
        given[..token.len()].copy_from_slice(token);
        // Both are always computed; `&&` would search for the padding only after a match.
        let is_text = Choice::from(u8::from(!token.contains(&0)));
        // All known tokens are compared, also after a match.
        let equal = |known: &SecretString| given.ct_eq(known.expose_secret().as_bytes());
        let is_known = known.iter().map(equal).fold(Choice::from(0), |found, equal| found | equal);
        bool::from(is_known & is_text)
    }

    fn check(&self, role: Role, headers: &HeaderMap) -> Result<(), ApiError> {
        let token = bearer_token(headers).ok_or(ErrorCode::Unauthorized)?;
        let [is_track, is_admin] = [Role::Track, Role::Admin].map(|role| self.know(role, token));
        match role {
            Role::Public => Ok(()),
            Role::Track if is_track => Ok(()),
            Role::Admin if is_admin => Ok(()),
            Role::Track if is_admin => Err(ApiError::new(ErrorCode::Forbidden, "this route takes a track token")),
            Role::Admin if is_track => Err(ApiError::new(ErrorCode::Forbidden, "this route takes an admin token")),
            Role::Track | Role::Admin => Err(ApiError::new(ErrorCode::Unauthorized, "the token is unknown")),
        }
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The middleware of every endpoint that is not public.
pub(crate) async fn check<B: MessageBody>(
    role: Role,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let tokens = request.app_data::<web::Data<Tokens>>().expect("the server sets the tokens");
    match tokens.check(role, request.headers()) {
        Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
        Err(refusal) => Ok(request.error_response(refusal).map_into_right_body()),
    }
}
