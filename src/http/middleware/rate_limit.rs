//! Rate limits: token buckets by credential and student. Addresses count only for callers without a valid token.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, web};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use super::auth::{self, Role};
use crate::config::Settings;
use crate::config::tokens::TokenRole;
use crate::http::api::headers;
use crate::http::client_address::client_address;
use crate::http::error::{ApiError, ErrorCode};

/// Idle clients are forgotten once every this many requests. It also bounds how many of them are remembered.
const FORGET_EVERY: u64 = 10_000;

/// A page needs about this many files, each a request. One address may stand for an office.
const REQUESTS_OF_A_PAGE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Whose bucket a request takes from.
#[derive(Clone, Copy, Debug, Hash)]
enum Client<'a> {
    /// A student with a track token.
    Student {
        token: &'a str,
        /// As the request names it. It may be no valid name yet.
        track: &'a [u8],
    },
    /// An operator with an admin or viewer token.
    Operator { token: &'a str, address: IpAddr },
    /// A caller without a valid token.
    Stranger(IpAddr),
    /// A browser that loads pages.
    Reader(IpAddr),
    /// All callers with a track token.
    Token(&'a str),
}

impl Client<'_> {
    fn noun(self) -> &'static str {
        match self {
            Self::Student { .. } => "from one student",
            Self::Operator { .. } => "with this token from one address",
            Self::Stranger(_) | Self::Reader(_) => "from one address",
            Self::Token(_) => "with this token",
        }
    }
}

/// Buckets of one size. A bucket is found by the hash of its client; a collision, which no client can provoke, would only
/// share a bucket.
#[derive(Debug)]
struct Buckets {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock, StateInformationMiddleware>,
    rps: NonZeroU32,
    burst: NonZeroU32,
}

impl Buckets {
    fn new(rps: NonZeroU32, burst: NonZeroU32) -> Self {
        let limiter = RateLimiter::dashmap(Quota::per_second(rps).allow_burst(burst)).with_middleware();
        Self { limiter, rps, burst }
    }

    /// Takes one request. Returns how many are left, or the wait.
    fn take(&self, client: u64) -> Result<u32, Duration> {
        let taken = self.limiter.check_key(&client).map(|bucket| bucket.remaining_burst_capacity());
        taken.map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    fn headers(&self, remaining: u32) -> [(HeaderName, HeaderValue); 3] {
        let burst = self.burst.get();
        let seconds_to_full = (burst - remaining.min(burst)).div_ceil(self.rps.get());
        let header = |name, value: u32| (HeaderName::from_static(name), HeaderValue::from(value));
        [
            header("x-ratelimit-limit", burst),
            header("x-ratelimit-remaining", remaining),
            header("x-ratelimit-reset", seconds_to_full),
        ]
    }
}

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// `None` if the limit is off.
    clients: Option<Buckets>,
    pages: Option<Buckets>,
    tokens: Option<Buckets>,
    hasher: RandomState,
    /// The number of requests since the start, to forget idle clients now and then.
    requests: AtomicU64,
}

/// The answer's headers, and the refusal if the bucket is empty.
type Taken = (Result<(), ApiError>, Option<[(HeaderName, HeaderValue); 3]>);

impl RateLimit {
    /// The limits of the settings.
    pub(crate) fn new(settings: &Settings) -> Self {
        let server = &settings.server;
        let rate = NonZeroU32::new(server.rate_limit_rps).zip(NonZeroU32::new(server.rate_limit_burst));
        let of_page = |rate: NonZeroU32| rate.saturating_mul(REQUESTS_OF_A_PAGE);
        Self {
            clients: rate.map(|(rps, burst)| Buckets::new(rps, burst)),
            pages: rate.map(|(rps, burst)| Buckets::new(of_page(rps), of_page(burst))),
            tokens: NonZeroU32::new(server.rate_limit_token_rps).map(|rps| Buckets::new(rps, rps)),
            hasher: RandomState::new(),
            requests: AtomicU64::new(0),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Buckets> {
        [&self.clients, &self.pages, &self.tokens].into_iter().flatten()
    }

    /// The number of clients that are remembered.
    pub(crate) fn clients(&self) -> usize {
        self.all().map(|buckets| buckets.limiter.len()).sum()
    }

    /// Forgets clients whose buckets are full, so that memory stays bounded (I8).
    fn forget_idle(&self) {
        if self.requests.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.all().for_each(Buckets::forget_idle);
        }
    }

    /// Takes one request from the buckets that it counts for. The headers say how full the client's own bucket is then.
    fn take(&self, role: Role, request: &HttpRequest) -> Taken {
        self.forget_idle();
        let address = || client_address(request);
        let caller = auth::caller(request);
        let token = caller.as_ref().map(|caller| (caller.name(), caller.role()));
        let client = match token {
            _ if !role.needs_token() => Client::Reader(address()),
            None => Client::Stranger(address()),
            Some((token, TokenRole::Track)) => Client::Student { token, track: headers::track_in(request.headers()) },
            Some((token, TokenRole::Viewer | TokenRole::Admin)) => Client::Operator { token, address: address() },
        };
        let own = if role.needs_token() { &self.clients } else { &self.pages };
        let taken = self.take_from(own.as_ref(), client);
        match token {
            // A student whose own bucket is empty takes nothing from the others with its token.
            Some((token, TokenRole::Track)) if taken.0.is_ok() => {
                let (shared, headers) = self.take_from(self.tokens.as_ref(), Client::Token(token));
                if shared.is_err() { (shared, headers) } else { taken }
            }
            _ => taken,
        }
    }

    fn take_from(&self, buckets: Option<&Buckets>, client: Client<'_>) -> Taken {
        let Some(buckets) = buckets else { return (Ok(()), None) };
        match buckets.take(self.hasher.hash_one(client)) {
            Ok(remaining) => (Ok(()), Some(buckets.headers(remaining))),
            Err(wait) => {
                let message = format!("more than {} requests per second {}", buckets.rps, client.noun());
                let refusal = ApiError::new(ErrorCode::RateLimited, message).retry_after(wait);
                (Err(refusal), Some(buckets.headers(0)))
            }
        }
    }
}

/// The middleware of every endpoint that is no probe.
pub(crate) async fn limit<B: MessageBody>(
    role: Role,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let limit = request.app_data::<web::Data<RateLimit>>().expect("the server sets the limits");
    let (taken, headers) = limit.take(role, request.request());
    let mut response = match taken {
        Ok(()) => next.call(request).await?.map_into_left_body(),
        Err(refusal) => request.error_response(refusal).map_into_right_body(),
    };
    for (name, value) in headers.into_iter().flatten() {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}
