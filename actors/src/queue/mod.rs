//! The queue of those who wait for a sandbox (I11).
//!
//! Each key that waits has a ticket in the table, which keeps its rank over retries, replicas and restarts. Only tickets
//! with an open request are served. Every replica with waiters reads the tickets once a second and computes, from the one
//! order of all tickets, which of its own waiters are next ([`order`]); these claim, each in a transaction that removes its
//! ticket. [`waiting`] holds the waiters of this replica, each with its [`place`]; [`supply`] knows whether anything is coming.

pub mod order;
pub mod place;
pub mod supply;
pub mod waiting;

pub use self::place::{Place, Turn};
pub use self::waiting::{Queue, QueueSettings, QueueView, Standing};
