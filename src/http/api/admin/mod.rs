//! The admin API.

pub(in crate::http) mod actors;
pub(in crate::http) mod jobs;
pub(in crate::http) mod pool;
