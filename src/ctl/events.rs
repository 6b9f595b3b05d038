//! `ctl events`: what happens on one replica, as the console's journal shows it.

use serde_json::{Value, json};

use super::client::Client;
use super::error::CtlError;
use super::output::Output;
use super::views;

/// Prints the kept events and, with `follow`, those that come, until the broker ends the stream.
pub(super) async fn print(client: &Client, output: &Output, follow: bool) -> Result<(), CtlError> {
    let mut stream = client.open("events").await?;
    let mut received = Vec::new();
    let mut has_snapshot = false;
    while let Some(chunk) = stream.chunk().await.map_err(|error| client.unreachable(&error))? {
        received.extend_from_slice(&chunk);
        while let Some(frame) = next_frame(&mut received) {
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            match field("event: ") {
                Some("journal") => {
                    let events: Value = serde_json::from_str(field("data: ").unwrap_or("[]")).unwrap_or_default();
                    output.print(&json!({ "events": events }), &views::EVENTS)?;
                    if !follow {
                        return Ok(());
                    }
                }
                // The kept events come with the first snapshot, if there are any.
                Some("snapshot") if has_snapshot && !follow => return Ok(()),
                Some("snapshot") => has_snapshot = true,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Takes the first complete frame out of what was received.
fn next_frame(received: &mut Vec<u8>) -> Option<String> {
    let end = received.windows(2).position(|bytes| bytes == b"\n\n")?;
    let frame: Vec<u8> = received.drain(..end + 2).collect();
    Some(String::from_utf8_lossy(&frame).into_owned())
}
