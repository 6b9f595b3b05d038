//! The admin API.

pub(crate) mod actors;
pub(crate) mod audit;
pub(crate) mod caller;
pub(crate) mod jobs;
pub(crate) mod labs;
pub(crate) mod pool;
pub(crate) mod queue;
