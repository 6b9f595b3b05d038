//! Who may call what, and how often: rate limit, bearer tokens, bounds on bodies. In this order, so that guessing
//! tokens is limited too and nobody's body is read before the caller is known.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest, web};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::time::timeout;

use super::AppState;
use super::edge::RequestContext;
use super::error::ApiError;
use super::state::ConnectionState;
use crate::config::{MAX_TOKEN_LENGTH, Settings};

/// No call of this API needs a larger body.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The longest that a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// After so many requests idle clients are forgotten; so many more than the active ones are remembered at most.
const FORGET_EVERY: u64 = 10_000;

/// A request that came over a connection which cannot tell its address counts as from here.
const UNKNOWN_CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everybody, as often as they like.
    Public,
    /// Holders of a track token.
    Track,
    /// Holders of an admin token.
    Admin,
}

/// The tokens of both APIs, each filled up with NUL, which no token has, to the same length: a comparison must not tell
/// how long a token is.
#[derive(Clone, Debug)]
pub struct Tokens {
    track: Vec<SecretString>,
    admin: Vec<SecretString>,
}

impl Tokens {
    /// The tokens of the settings.
    pub fn new(settings: &Settings) -> Self {
        let filled_up = |tokens: &[SecretString]| {
            let filled_up = |token: &SecretString| format!("{:\0<MAX_TOKEN_LENGTH$}", token.expose_secret());
            tokens.iter().map(filled_up).map(SecretString::from).collect()
        };
        Self { track: filled_up(&settings.server.track_tokens), admin: filled_up(&settings.server.admin_tokens) }
    }

    /// Tokens that let nobody in.
    pub(super) fn none() -> Self {
        Self { track: Vec::new(), admin: Vec::new() }
    }

    /// Whether this is a token of that API. It takes the same time for every token of the same length, however many of
    /// its characters are right, and whichever tokens are known.
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
        // Both are computed in any case; `&&` would look for the filler in known tokens alone.
        let is_text = Choice::from(u8::from(!token.contains(&0)));
        // All are compared, also after one that is equal.
        let equal = |known: &SecretString| given.ct_eq(known.expose_secret().as_bytes());
        let is_known = known.iter().map(equal).fold(Choice::from(0), |found, equal| found | equal);
        bool::from(is_known & is_text)
    }

    pub(super) fn check(&self, role: Role, headers: &HeaderMap) -> Result<(), ApiError> {
        let missing = || ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "send Authorization: Bearer <token>");
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        let (scheme, token) = header.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        let [is_track, is_admin] = [Role::Track, Role::Admin].map(|role| self.know(role, token.trim()));
        match role {
            Role::Public => Ok(()),
            Role::Track if is_track => Ok(()),
            Role::Admin if is_admin => Ok(()),
            _ if is_track || is_admin => Err(ApiError::forbidden(role)),
            _ => Err(ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "the token is not known here")),
        }
    }
}

type Limiter = RateLimiter<IpAddr, DashMapStateStore<IpAddr>, DefaultClock, StateInformationMiddleware>;

/// A token bucket for each client.
#[derive(Clone, Debug)]
pub struct RateLimit {
    limiter: Arc<Limiter>,
    /// Counts the requests, to forget idle clients now and then.
    taken: Arc<AtomicU64>,
    burst: u32,
    rps: u32,
}

impl RateLimit {
    /// The limit of the settings; `None` if it is off.
    pub fn new(settings: &Settings) -> Option<Self> {
        let rps = NonZeroU32::new(settings.server.rate_limit_rps)?;
        let burst = NonZeroU32::new(settings.server.rate_limit_burst)?;
        let limiter = RateLimiter::dashmap(Quota::per_second(rps).allow_burst(burst)).with_middleware();
        let taken = Arc::new(AtomicU64::new(0));
        Some(Self { limiter: Arc::new(limiter), taken, burst: burst.get(), rps: rps.get() })
    }

    /// How many clients are remembered.
    pub(super) fn clients(&self) -> usize {
        self.limiter.len()
    }

    /// Forgets clients whose buckets are full again, so that memory stays bounded (I8).
    fn forget_idle(&self) {
        if self.taken.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
    }

    /// Takes one from the client's bucket. Either way comes with the headers that tell how full it is.
    fn take(&self, client: IpAddr) -> (Result<(), ApiError>, [(HeaderName, HeaderValue); 3]) {
        self.forget_idle();
        let (result, remaining) = match self.limiter.check_key(&client) {
            Ok(bucket) => (Ok(()), bucket.remaining_burst_capacity()),
            Err(until) => {
                (Err(ApiError::rate_limited(self.rps, until.wait_time_from(DefaultClock::default().now()))), 0)
            }
        };
        let seconds_to_full = (self.burst - remaining.min(self.burst)).div_ceil(self.rps);
        let header = |name, value: u32| (HeaderName::from_static(name), HeaderValue::from(value));
        let headers = [
            header("x-ratelimit-limit", self.burst),
            header("x-ratelimit-remaining", remaining),
            header("x-ratelimit-reset", seconds_to_full),
        ];
        (result, headers)
    }
}

/// The middleware of every route that is not public.
pub async fn admit<B: MessageBody + 'static>(
    role: Role,
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let state = request.app_data::<web::Data<AppState>>().cloned().expect("the state is set for the whole app");
    let limit = state.rate_limit.as_ref().map(|limit| limit.take(client_of(request.request(), state.trusted_proxies)));
    let (limited, limit_headers) = limit.map_or((Ok(()), None), |(limited, headers)| (limited, Some(headers)));
    let admitted =
        limited.and_then(|()| state.tokens.check(role, request.headers())).and_then(|()| bounded(request.headers()));
    let admitted = match admitted {
        Ok(()) => read_body(&mut request).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = match admitted {
        Ok(()) => {
            request.extensions_mut().insert(RequestContext::default());
            next.call(request).await?.map_into_left_body()
        }
        Err(refusal) => request.error_response(refusal).map_into_right_body(),
    };
    for (name, value) in limit_headers.into_iter().flatten() {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn bounded(headers: &HeaderMap) -> Result<(), ApiError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    Ok(())
}

/// Reads the body to its end, so that no handler waits for a client.
async fn read_body(request: &mut ServiceRequest) -> Result<(), ApiError> {
    let body = timeout(BODY_TIMEOUT, request.extract::<web::Bytes>())
        .await
        .map_err(|_| ApiError::of_status(StatusCode::REQUEST_TIMEOUT))?
        .map_err(|error| ApiError::of_status(error.error_response().status()))?;
    request.set_payload(body.into());
    if let Some(state) = request.conn_data::<Rc<ConnectionState>>() {
        state.body_is_read();
    }
    Ok(())
}

/// The address that counts as the client's. Each trusted proxy has added one entry to `X-Forwarded-For` at its right
/// end; what stands further left anybody may have made up. An IPv6 client counts by its /64, which is its own.
pub fn client_of(request: &HttpRequest, trusted_proxies: usize) -> IpAddr {
    let peer = request.peer_addr().map_or(UNKNOWN_CLIENT, |address| address.ip());
    let forwarded = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    // An entry that is no address keeps its place, or the one before it would count as the proxy's word.
    let mut hops: Vec<Option<IpAddr>> =
        forwarded.flat_map(|value| value.split(',')).map(|hop| hop.trim().parse().ok()).collect();
    hops.push(Some(peer));
    let client = hops[hops.len().saturating_sub(1 + trusted_proxies)].unwrap_or(peer);
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
