//! Guessing tokens is rate limited and reveals nothing.

use broker_actors::sandbox::Timestamp;
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use sandbox_broker::config::tokens::TokenRole;
use sandbox_broker::http::auth::Tokens;
use test_support::{Answer, Broker, TestApp, assert_error, send, test_settings};

use crate::properties;

/// One token per second, so that a bucket does not refill during a test.
const RATE: (&str, &str) = ("RATE_LIMIT_RPS", "1");
/// Far more guesses than the bucket allows, even on a slow machine.
const GUESSES: usize = 400;

async fn guess(broker: &Broker, number: usize, forwarded: &str) -> Answer {
    let request = broker.request(Method::GET, "/v1/sandboxes/1").bearer_auth(format!("guess-{number}"));
    send(request.header("X-Track-ID", "guesser").header("X-Forwarded-For", forwarded)).await
}

/// The number of guesses that were compared with the tokens.
fn compared(answers: &[Answer]) -> usize {
    for answer in answers {
        match answer.status.as_u16() {
            401 => assert_error(answer, 401, "UNAUTHORIZED"),
            _ => {
                assert_error(answer, 429, "RATE_LIMITED");
                assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            }
        }
    }
    answers.iter().filter(|answer| answer.status == 401).count()
}

#[tokio::test]
async fn a_guesser_cannot_pose_as_many_clients() {
    let broker = Broker::start(&[("BROKER_STORE", "memory"), RATE]).await;
    let answers = join_all(
        (0..GUESSES)
            .map(async |number| guess(&broker, number, &format!("203.0.{}.{}", number / 250, number % 250)).await),
    )
    .await;
    let compared = compared(&answers);
    assert!((1..GUESSES / 2).contains(&compared), "{compared} guesses were compared");
    // Students behind the guesser's address are served.
    assert_error(&broker.read("1", "guesser").await, 404, "SANDBOX_NOT_FOUND");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(broker.get(path).await.status, 200, "{path} is never limited");
    }
}

#[actix_web::test]
async fn a_class_behind_one_address_is_served_whole_with_the_limits_of_production() {
    let flags =
        ["--rate-limit-rps=10", "--rate-limit-burst=20", "--rate-limit-token-rps=2000", "--csp-sim-sandboxes=500"];
    let app = TestApp::start(&flags).await;
    // A neighbour without a token has used up what strangers behind the address have.
    join_all((0..100).map(async |_| app.get("/v1/sandboxes/1").await)).await;
    let students: Vec<_> = (0..500).map(|number| format!("student-{number}")).collect();
    let answers = join_all(students.iter().map(|student| app.allocate(student))).await;
    let mut held: Vec<_> = answers.iter().filter(|answer| answer.status == 201).map(Answer::sandbox_id).collect();
    held.sort_unstable();
    held.dedup();
    assert_eq!(held.len(), 500, "{:?}", answers.iter().find(|answer| answer.status != 201));
}

#[tokio::test]
async fn behind_a_proxy_only_its_header_entry_counts() {
    let broker = Broker::start(&[("BROKER_STORE", "memory"), RATE, ("TRUSTED_PROXIES", "1")]).await;
    let answers = join_all((0..GUESSES).map(async |number| {
        guess(&broker, number, &format!("203.0.{}.{}, 192.0.2.1", number / 250, number % 250)).await
    }))
    .await;
    let compared = compared(&answers);
    assert!((1..GUESSES / 2).contains(&compared), "{compared} guesses were compared");
    // Other clients are not limited.
    assert_error(&guess(&broker, 0, "192.0.2.2").await, 401, "UNAUTHORIZED");
}

#[tokio::test]
async fn the_rate_limiter_forgets_clients_so_that_memory_stays_bounded() {
    let broker =
        Broker::start(&[("BROKER_STORE", "memory"), ("RATE_LIMIT_RPS", "1000"), ("TRUSTED_PROXIES", "1")]).await;
    for round in 0..27 {
        join_all((0..400).map(async |number| {
            let answer = guess(&broker, number, &format!("10.{round}.{}.{}", number / 250, number % 250)).await;
            assert_eq!(answer.status, 401, "{answer:?}");
        }))
        .await;
    }
    let kept = broker.metric("broker_rate_limit_clients", "").await;
    assert!((1.0..5000.0).contains(&kept), "{kept} of 10800 clients are kept");
}

#[test]
fn a_token_is_known_if_and_only_if_it_is_one_of_the_settings() {
    let token = || prop_oneof!["[!-+./-~-]{1,4}", "[a-b]{1,3}", "a{250,256}"];
    let tokens = vec(token(), 1..4);
    let guess = prop_oneof!["[ -~]{0,4}", "[a-b]{0,4}", "a{250,520}", "[a\u{0}]{1,4}", any::<String>()];
    let checked =
        TestRunner::new(properties()).run(&(tokens, guess, any::<prop::sample::Index>()), |(tokens, guess, index)| {
            let secrets = [("BROKER_API_TOKEN", &*tokens.join(",")), ("BROKER_ADMIN_TOKEN", "another-one")];
            let known = Tokens::new(test_settings(&[], &secrets).tokens().read().unwrap());
            let role = |token: &str| known.find(token, Timestamp(0)).map(|credential| credential.role());
            let expected = |token: &str| tokens.iter().any(|it| it == token).then_some(TokenRole::Track);
            prop_assert_eq!(role(&guess), expected(&guess));
            prop_assert_eq!(role("another-one"), Some(TokenRole::Admin));
            let token = index.get(&tokens);
            let padded = format!("{token}\0");
            for token in [token, &padded, &token[1..], &token[..token.len() - 1]] {
                prop_assert_eq!(role(token), expected(token));
            }
            Ok(())
        });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}
