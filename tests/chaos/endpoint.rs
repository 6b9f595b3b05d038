use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The address of a process, while it runs.
#[derive(Clone, Default)]
pub(crate) struct Endpoint(Arc<Mutex<Option<SocketAddr>>>);

impl Endpoint {
    /// The address of a process that runs all the time.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self(Arc::new(Mutex::new(Some(address))))
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, address: Option<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}
