//! The rate limit: a token bucket for each client address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::Settings;
use crate::http::client_address::client_address;
use crate::http::error::{ApiError, ErrorCode};

/// Idle clients are forgotten once every this many requests. It also bounds how many of them are remembered.
const FORGET_EVERY: u64 = 10_000;

type Limiter = RateLimiter<IpAddr, DashMapStateStore<IpAddr>, DefaultClock, StateInformationMiddleware>;

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct RateLimit {
    limiter: Limiter,
    /// The number of requests since the start, to forget idle clients now and then.
    requests: AtomicU64,
    burst: u32,
    rps: u32,
}

impl RateLimit {
    /// The limit of the settings; `None` if it is off.
    pub(crate) fn new(settings: &Settings) -> Option<Self> {
        let rps = NonZeroU32::new(settings.server.rate_limit_rps)?;
        let burst = NonZeroU32::new(settings.server.rate_limit_burst)?;
        let limiter = RateLimiter::dashmap(Quota::per_second(rps).allow_burst(burst)).with_middleware();
        Some(Self { limiter, requests: AtomicU64::new(0), burst: burst.get(), rps: rps.get() })
    }

    /// The number of clients that are remembered.
    pub(crate) fn clients(&self) -> usize {
        self.limiter.len()
    }

    /// Forgets clients whose buckets are full, so that memory stays bounded (I8).
    fn forget_idle(&self) {
        if self.requests.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
    }

    /// Takes one token from the client's bucket. The headers say how full the bucket is then.
    fn take(&self, client: IpAddr) -> (Result<(), ApiError>, [(HeaderName, HeaderValue); 3]) {
        self.forget_idle();
        let (result, remaining) = match self.limiter.check_key(&client) {
            Ok(bucket) => (Ok(()), bucket.remaining_burst_capacity()),
            Err(until) => {
                let message = format!("more than {} requests per second from one address", self.rps);
                let wait = until.wait_time_from(DefaultClock::default().now());
                (Err(ApiError::new(ErrorCode::RateLimited, message).retry_after(wait)), 0)
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

/// The outermost middleware of every endpoint that is not public.
pub(crate) async fn limit<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some(limit) = request.app_data::<web::Data<RateLimit>>() else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let (taken, headers) = limit.take(client_address(request.request()));
    let mut response = match taken {
        Ok(()) => next.call(request).await?.map_into_left_body(),
        Err(refusal) => request.error_response(refusal).map_into_right_body(),
    };
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}
