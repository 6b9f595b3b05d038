//! What operators' consoles follow: a snapshot of the broker every second, and a journal of what happened, as
//! server-sent events. While no console is connected, nothing is read for them.

mod actor_events;
mod feed;
mod journal;
pub(crate) mod stream;
mod throughput;

pub use self::feed::EventFeed;
pub(crate) use self::feed::example;
