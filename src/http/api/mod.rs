//! The API: its handlers, what they take (`input`, `headers`) and the bodies that they return (`body`).

pub(super) mod admin;
pub(super) mod allocation;
pub(super) mod body;
pub(super) mod client;
pub(super) mod events;
pub(super) mod headers;
pub(super) mod input;
pub(super) mod preflight;
pub(super) mod probes;
pub(super) mod sandboxes;
