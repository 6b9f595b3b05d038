//! What browsers get: the operators' console and the API documentation.

pub(super) mod assets;
pub(super) mod console;
pub(super) mod docs;
