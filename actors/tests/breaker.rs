//! The circuit breaker: its states, and the client that it guards.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::breaker::{Breaker, BreakerSettings, BreakerState, Outcome, Refusal};
use broker_actors::error::cause;
use broker_actors::guarded_csp::GuardedCsp;
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
    assert_eq!(breaker.admit(now + Duration::from_secs(20)), Err(Refusal::Open(Duration::from_secs(40))));
    assert_eq!(breaker.snapshot(now).retry_in_seconds, Some(60));
}

/// Successes and failures by turns never fail often enough in a row.
#[tokio::test(start_paused = true)]
async fn failures_of_half_of_the_last_twenty_calls_within_a_minute_open_it() {
    let second = Duration::from_secs(1);
    for (gap, failing_of_ten, is_open) in
        [(second, 5, true), (second, 4, false), (second * 3, 5, true), (second * 4, 5, false)]
    {
        let mut breaker = Breaker::new(BreakerSettings { threshold: 6, ..SETTINGS });
        let mut now = Instant::now();
        for call in 0..20 {
            let Ok(permit) = breaker.admit(now) else { break };
            // Spread over ten calls, so that few fail in a row.
            let is_failure = (call * failing_of_ten) % 10 < failing_of_ten;
            breaker.record(permit, if is_failure { Outcome::Failure } else { Outcome::Success }, now);
            now += gap;
        }
        let state = breaker.snapshot(now).state;
        assert_eq!(state == BreakerState::Open, is_open, "{failing_of_ten} of 10, every {gap:?}: {state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_refuses_all_calls_whatever_the_state() {
    let now = Instant::now();
    let mut closed = Breaker::new(SETTINGS);
    closed.silence(now + TIMEOUT * 2);
    closed.silence(now + TIMEOUT);
    assert_eq!(closed.admit(now + TIMEOUT), Err(Refusal::Silenced(TIMEOUT)), "the longer silence counts");
    assert_eq!(closed.snapshot(now).silent_for_seconds, Some(120));
    assert!(closed.admit(now + TIMEOUT * 2).is_ok());
    let mut open = opened(now);
    open.silence(now + TIMEOUT * 2);
    assert_eq!(open.blocked_until(now), Some(now + TIMEOUT * 2));
    assert_eq!(open.admit(now + TIMEOUT), Err(Refusal::Silenced(TIMEOUT)), "no probe either");
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
    let refused = CspError::Refused { status: 403, answer: cause("no") };
    for error in [CspError::Unauthorized { status: 401 }, refused, CspError::BadAnswer(cause("HTTP 302"))] {
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

#[tokio::test(start_paused = true)]
async fn the_wait_that_one_call_is_asked_for_holds_for_all_calls() {
    let (csp, guarded) = guarded();
    csp.fail_next(CspError::Throttled { retry_after: Some(TIMEOUT * 10) });
    guarded.delete(&FakeCsp::account(1).external_id).await.unwrap_err();
    for _ in 0..5 {
        sleep(TIMEOUT).await;
        assert!(matches!(guarded.list().await, Err(CspError::Silenced { .. })));
        let deletion = guarded.delete(&FakeCsp::account(2).external_id).await;
        assert!(matches!(deletion, Err(CspError::Silenced { .. })), "{deletion:?}");
    }
    assert_eq!((csp.lists(), csp.deletes().len()), (0, 1));
    sleep(TIMEOUT * 5).await;
    guarded.list().await.expect("the time is over");
}
