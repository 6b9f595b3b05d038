//! Whether the time of a token comparison shows where a guess is wrong: Welch's t between the times of two kinds of guesses
//! in random order, as in "Dude, is my code constant time?" (Reparaz, Balasch, Verbauwhede, 2017). Above 4.5 the times
//! differ. A comparison that ends at the first difference shows that the measurement detects one.

use std::hint::black_box;
use std::time::Instant;

use broker_actors::sandbox::Timestamp;
use sandbox_broker::http::auth::Tokens;
use test_support::test_settings;

/// Comparisons in one measurement: enough to be long compared with the clock's resolution.
const COMPARISONS: u32 = 50;

/// The share of measurements that is dropped: the slowest of both kinds together, which other load on the machine delayed.
const DROPPED: f64 = 0.1;

const SECRET: &str = "q7Yt2mVbXw9eRk4sLd8fHj3nCz6pGa5u";

/// A comparison to measure.
type Comparison<'a> = Box<dyn Fn() -> bool + 'a>;

/// Prints a line for each pair of kinds of guesses.
pub(crate) fn measure(samples: usize) {
    let tokens = |track: &str| {
        let settings = test_settings(&[], &[("BROKER_API_TOKEN", track)]);
        Tokens::new(settings.tokens().read().expect("the token is valid"))
    };
    let known = tokens(SECRET);
    let several = tokens(&format!("first-token-of-several-abcdefghij,{SECRET},last-token-of-several-abcdefghijk"));
    let long = tokens(&SECRET.repeat(8));
    let first_wrong = format!("Q{}", &SECRET[1..]);
    let last_wrong = format!("{}U", &SECRET[..SECRET.len() - 1]);
    let know = |tokens: &'_ Tokens, guess: &'_ str| tokens.find(black_box(guess), Timestamp(0)).is_some();

    println!("{:58} {:>8}", "comparison of tokens", "Welch t");
    let rows: [(&str, [Comparison<'_>; 2]); 5] = [
        (
            "ends at the first difference: first or last byte wrong",
            [
                Box::new(|| is_equal_early_exit(SECRET, black_box(&first_wrong))),
                Box::new(|| is_equal_early_exit(SECRET, black_box(&last_wrong))),
            ],
        ),
        ("first or last byte wrong", [Box::new(|| know(&known, &first_wrong)), Box::new(|| know(&known, &last_wrong))]),
        (
            "first byte wrong or token right",
            [Box::new(|| know(&known, &first_wrong)), Box::new(|| know(&known, SECRET))],
        ),
        (
            "one of three tokens right or none",
            [Box::new(|| know(&several, SECRET)), Box::new(|| know(&several, &last_wrong))],
        ),
        (
            "secret as long as the guess, or eight times as long",
            [Box::new(|| know(&known, &first_wrong)), Box::new(|| know(&long, &first_wrong))],
        ),
    ];
    for (name, [one, other]) in rows {
        println!("{name:58} {:>8.2}", welch_t(samples, &one, &other));
    }
    println!();
}

/// A comparison that is not constant-time.
fn is_equal_early_exit(secret: &str, guess: &str) -> bool {
    secret.len() == guess.len() && secret.bytes().zip(guess.bytes()).all(|(one, other)| one == other)
}

#[allow(clippy::disallowed_methods, reason = "nanoseconds are what is measured here")]
fn nanoseconds_of(comparison: &Comparison<'_>) -> f64 {
    let started = Instant::now();
    for _ in 0..COMPARISONS {
        black_box(comparison());
    }
    started.elapsed().as_nanos() as f64
}

fn welch_t(samples: usize, one: &Comparison<'_>, other: &Comparison<'_>) -> f64 {
    let mut random = fastrand::Rng::with_seed(1);
    let mut times: Vec<(bool, f64)> = (0..samples)
        .map(|_| {
            let is_one = random.bool();
            (is_one, nanoseconds_of(if is_one { one } else { other }))
        })
        .collect();
    times.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    times.truncate((samples as f64 * (1.0 - DROPPED)) as usize);
    let [(mean, spread), (other_mean, other_spread)] = [true, false].map(|wanted| {
        let times: Vec<f64> = times.iter().filter(|(is_one, _)| *is_one == wanted).map(|(_, time)| *time).collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        (mean, times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0) / count)
    });
    (mean - other_mean) / (spread + other_spread).sqrt()
}
