//! Rule 10: indexes lag behind their table.

use std::time::Duration;

use test_support::metering::{Lag, MeteringSettings};
use tokio::time::sleep;

use super::support::{Engine, TABLE, moved, sandbox, unlimited};

fn lagging(lag: Lag) -> MeteringSettings {
    MeteringSettings { lag, ..unlimited() }
}

/// One entry in two takes seconds.
fn often_rare() -> Lag {
    Lag { rare_share: 0.5, ..Lag::default() }
}

#[tokio::test(start_paused = true)]
async fn an_entry_usually_appears_after_about_10_ms() {
    let engine = Engine::with_pool(lagging(Lag { rare_share: 0.0, ..Lag::default() })).await;
    engine.put(sandbox("s", "available#00")).await.unwrap();
    assert_eq!(engine.get("s").await, sandbox("s", "available#00"), "the table does not lag");
    sleep(Duration::from_millis(4)).await;
    assert!(engine.listed("available#00").await.is_empty());
    sleep(Duration::from_millis(12)).await;
    assert_eq!(engine.listed("available#00").await, ["s"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_rarely_takes_seconds() {
    let engine = Engine::with_pool(lagging(Lag { rare_share: 0.1, ..Lag::default() })).await;
    for n in 0..1_000 {
        engine.put(sandbox(&format!("s{n}"), "available#00")).await.unwrap();
    }
    sleep(Duration::from_millis(20)).await;
    let late = 1_000 - engine.listed("available#00").await.len();
    assert!((60..150).contains(&late), "{late} of 1000 were late");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(engine.listed("available#00").await.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_old_entry_goes_and_the_new_one_comes_each_in_its_own_time() {
    let engine = Engine::with_pool(lagging(often_rare())).await;
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..20 {
        let id = format!("s{n}");
        engine.0.load(TABLE, [sandbox(&id, "available#00")]);
        engine.transact(&[moved(&id, "allocated#00")]).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        let old = engine.listed("available#00").await.contains(&id);
        let new = engine.listed("allocated#00").await.contains(&id);
        seen.insert((old, new));
    }
    assert!(seen.contains(&(true, true)), "in both places at once: {seen:?}");
    assert!(seen.contains(&(false, false)), "in neither: {seen:?}");
    sleep(Duration::from_secs(6)).await;
    assert!(engine.listed("available#00").await.is_empty());
    assert_eq!(engine.listed("allocated#00").await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_returns_ends_as_its_item_is() {
    let engine = Engine::with_pool(lagging(often_rare())).await;
    for n in 0..30 {
        let id = format!("s{n}");
        for status in ["available#00", "allocated#00", "available#00", "allocated#00"] {
            engine.put(sandbox(&id, status)).await.unwrap();
        }
    }
    sleep(Duration::from_secs(6)).await;
    assert!(engine.listed("available#00").await.is_empty());
    assert_eq!(engine.listed("allocated#00").await.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn one_seed_draws_the_same_lags() {
    async fn listed() -> Vec<usize> {
        let engine = Engine::with_pool(lagging(often_rare())).await;
        let mut listed = Vec::new();
        for n in 0..50 {
            engine.put(sandbox(&format!("s{n}"), "available#00")).await.unwrap();
            sleep(Duration::from_millis(100)).await;
            listed.push(engine.listed("available#00").await.len());
        }
        listed
    }
    assert_eq!(listed().await, listed().await);
}
