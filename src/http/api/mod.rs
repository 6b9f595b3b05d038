//! The API: its handlers, what they take (`input`, `headers`) and the bodies that they return (`body`).

pub(super) mod admin;
pub(super) mod body;
pub(super) mod events;
pub(super) mod headers;
pub(super) mod input;
pub(super) mod probes;
pub(super) mod sandboxes;
