//! Reads tokens in files again while the broker runs.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use broker_actors::error::Chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::config::tokens::TokenSources;
use crate::http::auth::Tokens;

const INTERVAL: Duration = Duration::from_secs(60);

/// Reads the tokens again every minute and at SIGHUP. While they cannot be read, the ones before stay. Never returns.
pub(crate) async fn run(sources: TokenSources, tokens: Arc<Tokens>) {
    // Also without files: a SIGHUP that no one handles would end the process.
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(event = "sighup_ignored", error = %Chain(&error), "SIGHUP cannot be handled");
            return;
        }
    };
    let mut ticks = interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked = tokio::select! {
            _ = ticks.tick() => false,
            _ = hangup.recv() => true,
        };
        if !sources.may_change() {
            continue;
        }
        let again = sources.clone();
        let Ok(read) = web::block(move || again.read()).await else { return };
        match read {
            Ok(entries) => {
                let count = entries.len();
                tokens.replace(entries);
                if is_asked {
                    tracing::info!(event = "tokens_read", entries = count, "the tokens were read again");
                }
            }
            Err(problems) => {
                let error = problems.to_string();
                tracing::error!(event = "tokens_not_read", error, "the tokens before stay in use");
            }
        }
    }
}
