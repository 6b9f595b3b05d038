//! The circuit breaker: its states, and the client that it guards.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::breaker::{Breaker, BreakerSettings, BreakerState, GuardedCsp, Outcome};
use broker_actors::error::cause;
use broker_actors::ports::{CspClient as _, CspError};
use broker_actors::testing::FakeCsp;
use tokio::time::{Instant, sleep, timeout};

const TIMEOUT: Duration = Duration::from_secs(60);
const SETTINGS: BreakerSettings = BreakerSettings { threshold: 3, timeout: TIMEOUT };

fn call(breaker: &mut Breaker, outcome: Outcome, now: Instant) {
    let permit = breaker.admit(now).expect("admitted");
    breaker.record(permit, outcome, now);
}

fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(SETTINGS);
    (0..3).for_each(|_| call(&mut breaker, Outcome::Failure, now));
    assert_eq!(breaker.snapshot(now).state, BreakerState::Open);
    breaker
}

#[tokio::test(start_paused = true)]
async fn consecutive_failures_open_it_and_a_success_resets_the_count() {
    let now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS);
    for _ in 0..5 {
        call(&mut breaker, Outcome::Failure, now);
        call(&mut breaker, Outcome::Failure, now);
        call(&mut breaker, Outcome::Success, now);
    }
    assert_eq!(breaker.snapshot(now).state, BreakerState::Closed);
    let mut breaker = opened(now);
    assert_eq!(breaker.admit(now + Duration::from_secs(20)), Err(Duration::from_secs(40)));
    assert_eq!(breaker.snapshot(now).retry_in_seconds, Some(60));
}

#[tokio::test(start_paused = true)]
async fn one_probe_decides_after_the_timeout() {
    let now = Instant::now();
    for (outcome, state) in [(Outcome::Success, BreakerState::Closed), (Outcome::Failure, BreakerState::Open)] {
        let mut breaker = opened(now);
        let later = now + TIMEOUT;
        let probe = breaker.admit(later).expect("the probe");
        assert!(breaker.admit(later).is_err(), "one probe at a time");
        breaker.record(probe, outcome, later);
        assert_eq!(breaker.snapshot(later).state, state);
        assert_eq!(
            breaker.admit(later + TIMEOUT / 2).is_ok(),
            outcome == Outcome::Success,
            "a failed probe starts another timeout"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_a_change_of_state_does_not_count() {
    let now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS);
    let slow = breaker.admit(now).unwrap();
    (0..3).for_each(|_| call(&mut breaker, Outcome::Failure, now));
    breaker.record(slow, Outcome::Success, now);
    assert_eq!(breaker.snapshot(now).state, BreakerState::Open);
}

fn guarded() -> (Arc<FakeCsp>, GuardedCsp) {
    let csp = Arc::new(FakeCsp::with_accounts(3));
    (csp.clone(), GuardedCsp::new(csp, SETTINGS))
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_does_not_call_the_csp() {
    let (csp, guarded) = guarded();
    csp.set_down(Some(CspError::Unavailable(cause("down"))));
    for _ in 0..3 {
        guarded.list().await.unwrap_err();
    }
    assert!(matches!(guarded.list().await, Err(CspError::BreakerOpen { .. })));
    assert!(matches!(guarded.delete("identity/accounts/1").await, Err(CspError::BreakerOpen { .. })));
    assert_eq!(csp.lists(), 3);
    csp.set_down(None);
    sleep(TIMEOUT).await;
    guarded.list().await.expect("the probe");
    guarded.list().await.expect("closed again");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_and_a_bad_account_do_not_open_it() {
    let (csp, guarded) = guarded();
    for error in [CspError::Unauthorized { status: 401 }, CspError::BadAnswer(cause("HTTP 409"))] {
        csp.set_deletion_error(1, Some(error));
        for _ in 0..10 {
            guarded.delete(&FakeCsp::account(1).external_id).await.unwrap_err();
        }
        assert_eq!(guarded.snapshot().state, BreakerState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_counts_as_failed() {
    let (csp, guarded) = guarded();
    csp.set_down(Some(CspError::Unavailable(cause("down"))));
    for _ in 0..3 {
        guarded.list().await.unwrap_err();
    }
    csp.set_down(None);
    csp.set_delay(Duration::from_secs(3600));
    sleep(TIMEOUT).await;
    assert!(timeout(Duration::from_secs(1), guarded.list()).await.is_err(), "the probe hangs and is dropped");
    assert_eq!(guarded.snapshot().state, BreakerState::Open);
    csp.set_delay(Duration::ZERO);
    sleep(TIMEOUT).await;
    guarded.list().await.expect("the next probe");
}
